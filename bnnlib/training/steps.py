"""One step of a training, and one evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnnlib import data, layers
from bnnlib.data import random
from bnnlib.ops import precision
from bnnlib.training import checks, objectives, schedules
from bnnlib.training.checks import TrainingError
from bnnlib.training.meters import Meter
from bnnlib.training.setup import Net


def train_step(
    net: Net,
    x: Tensor,
    y: Tensor,
    epoch: int,
    step: int,
    *,
    at: float | None = None,
    on_gradients: Callable[[Net], None] | None = None,
) -> Tensor:
    """Forward, backward and, where a batch of ``accumulate`` is complete, the optimizer's update; the loss comes back.

    ``x``, ``y``: this process's share of the batch ``step`` of ``epoch`` (from 0). ``at``: the place in the schedule in
    epochs, where it is another than that. ``on_gradients``: called before each update, to look at the gradients or to
    change them.
    """
    recipe, first = net.recipe, step - step % net.recipe.accumulate
    if step == first:
        at = epoch + step / net.steps if at is None else at
        rate = recipe.optimizer.lr * schedules.factor(recipe.schedule, at, recipe.epochs)
        for group in net.optimizer.param_groups:
            group["lr"] = rate
        net.optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(dropout_seed(net.seed, epoch, step, net.fabric.global_rank))
    x = as_input(net, x)
    update = (step + 1) % recipe.accumulate == 0 or step + 1 == net.steps
    # every image of an update counts the same, however it is cut into batches and shares; gradients are averaged over processes
    images = sum(net.train.count(s) for s in range(first, min(first + recipe.accumulate, net.steps)))
    weight = len(y) * net.fabric.world_size / images
    with net.fabric.no_backward_sync(net.forward, enabled=not update):
        with precision.products(recipe.precision, net.fabric.device):
            logits = net.forward(x)
            loss = loss_of(net, logits, x, y)
        net.fabric.backward(loss * weight)
    if update:
        if epoch == first == 0 and not checks.gradients_arrive(net.model):
            raise TrainingError(
                f"{recipe.name} seed {net.seed}: no gradient arrives at any binary weight in the first step. "
                "If --set compile=false mends it, this version of PyTorch compiles the net wrongly"
            )
        if on_gradients is not None:
            on_gradients(net)
        net.optimizer.step()
        layers.project_(net.model)
        if net.average is not None:
            net.average.update_parameters(net.model)
    with torch.no_grad():
        net.meter.add(loss.double() * len(y), (logits.argmax(1) == y).sum(), None, len(y))
    return loss.detach()


def as_input(net: Net, x: Tensor) -> Tensor:
    """Images in the precision and memory layout of the recipe."""
    if net.recipe.precision == "64-true":
        x = x.double()
    return x.contiguous(memory_format=torch.channels_last) if net.recipe.channels_last else x


def loss_of(net: Net, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy, or the recipe's mixture with the distance to the teacher's logits."""
    recipe = net.recipe
    if net.teacher is None:
        return nn.functional.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
    with torch.no_grad(), net.fabric.autocast(), layers.popcount_forward(net.teacher):
        target = net.teacher(x)
    d = recipe.distill
    return objectives.distillation(logits, target.to(logits.dtype), y, d.temperature, d.mix, recipe.label_smoothing)


@torch.no_grad()
def validate(net: Net, batches: data.Batches) -> dict[str, float]:
    """Mean loss, top-1 and top-5 % of the evaluated model on every image of ``batches``, over all processes."""
    model, meter = net.evaluated.eval(), Meter(net.fabric.device)
    with layers.popcount_forward(model):
        for _, x, y in batches.epoch(0):
            if not len(y):  # this process's share of a last batch
                continue
            # not in bf16, which rounds a binary layer's exact sums
            logits = model(as_input(net, x)).float()
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices == y[:, None]
            loss = nn.functional.cross_entropy(logits, y, reduction="sum")
            meter.add(loss, top[:, 0].sum(), top.sum(), len(y))
    return meter.means()


def share_buffers(net: Net) -> None:
    """Give every process the first one's batch norm statistics, each having seen its own images: those
    are what is saved."""
    if net.fabric.world_size > 1:
        for buffer in net.evaluated.buffers():
            torch.distributed.broadcast(buffer, 0)


def dropout_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Seed of the dropout masks of one step: a 63-bit integer whose low 32 bits, the only ones that PyTorch's CPU
    generator reads, differ from step to step (see :func:`bnnlib.data.random.mix`)."""
    return random.mix(seed, "dropout", epoch, step, rank)
