"""What happens to the signs in training: recorded after every epoch of a recipe with ``diagnostics: true``.

For each binary layer: how many weights changed their sign, how far the latent weights lie from zero, and how well the
gradient that the straight-through estimator gives agrees with what flipping a sign does to the loss. For the net: its test
accuracy with batch norm statistics estimated anew, since those that training leaves lag behind weights whose signs flip.

Training itself is as without: the same numbers to the last bit. The record is ``signs-seed<N>.json`` beside the run's.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from bnnlib import layers
from bnnlib.data import random
from bnnlib.packing import pack_bits, unpack_bits
from bnnlib.records import RecordError
from bnnlib.storage import write_atomically
from bnnlib.training.steps import as_input, loss_of, validate

if TYPE_CHECKING:
    from bnnlib.training.setup import Net

EDGES = tuple(round(-4 + 0.25 * i, 2) for i in range(33))  # of the histogram, in mean absolute latent weights
SAMPLED = 32  # weights of a layer that are flipped one by one
IMAGES = 128  # of the training set, on which the loss of a flip is taken
STEPS = 20  # steps of an epoch whose flips are counted, evenly spread
RENORM = 4096  # training images from which batch norm statistics are estimated anew


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layer(_Strict):
    """A binary layer after an epoch. ``flipped``: share of signs that differ from those before the epoch; ``flipped_a_step``:
    mean share that one optimizer step changes; ``mean_abs``: of the latent weights; ``histogram``: latent weights between
    :data:`EDGES`, in units of ``mean_abs``, those beyond in the outermost bins; ``cosine``: of the estimator's gradient with
    the change of the loss by flipping single signs, over a sample of weights (None: one of the two is zero)."""

    name: str
    weights: int = Field(gt=0)
    flipped: float = Field(ge=0, le=1)
    flipped_a_step: float = Field(ge=0, le=1)
    mean_abs: float = Field(ge=0)
    histogram: list[int]
    cosine: float | None = Field(ge=-1.001, le=1.001)


class Epoch(_Strict):
    """``test_top1``: as the run's curve has it; ``renormed_top1``: with batch norm statistics estimated anew on
    :data:`RENORM` training images."""

    epoch: int = Field(ge=1)
    test_top1: float
    renormed_top1: float
    layers: list[Layer]


class Signs(_Strict):
    """The file. ``started`` is the run record's, by which the two belong together."""

    format: Literal[1] = 1
    recipe: str
    recipe_hash: str
    seed: int
    started: str
    epochs: list[Epoch] = Field(min_length=1)


class Watch:
    """Looks at a net while it trains. ``signs``: of each layer before the epoch, as packed bits; a checkpoint keeps them."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.counted: dict[str, list[float]] = {}
        self.before: dict[str, Tensor] = {}
        self.signs = self._packed()

    def _packed(self) -> dict[str, Tensor]:
        return {name: pack_bits(signs.flatten()) for name, signs in _signs(self.net.model).items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"signs": self.signs, "counted": self.counted}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`. Raises ``ValueError`` for one of another net."""
        expected = {name: signs.shape for name, signs in self.signs.items()}
        if {name: signs.shape for name, signs in state["signs"].items()} != expected:
            raise ValueError("its signs are those of another net")
        self.signs, self.counted = state["signs"], state["counted"]

    def step_begins(self, step: int) -> None:
        """Before step ``step`` of the epoch."""
        every = max(1, self.net.steps // STEPS)
        self.before = _signs(self.net.model) if step % every == every - 1 else {}

    def step_ended(self) -> None:
        for name, signs in _signs(self.net.model).items() if self.before else ():
            share = (signs != self.before[name]).double().mean().item()
            self.counted.setdefault(name, []).append(share)
        self.before = {}

    def epoch_ended(self, epoch: int, test_top1: float) -> Epoch:
        """What is recorded of epoch ``epoch`` (from 1)."""
        cosines, now = agreement(self.net), self._packed()
        found = []
        for name, layer in layers.binary_layers(self.net.model).items():
            weights = layer.weight.numel()
            latent = layer.weight.detach().double().flatten()
            unit = latent.abs().mean()
            inside = (latent / unit.clamp_min(torch.finfo(torch.float64).tiny)).clamp(EDGES[0], EDGES[-1])
            changed = unpack_bits(self.signs[name], weights) != unpack_bits(now[name], weights)
            counted = self.counted.get(name, [])
            found.append(
                Layer(
                    name=name,
                    weights=weights,
                    flipped=changed.double().mean().item(),
                    flipped_a_step=sum(counted) / len(counted) if counted else 0.0,
                    mean_abs=unit.item(),
                    histogram=torch.histogram(inside.cpu(), torch.tensor(EDGES, dtype=torch.float64)).hist.long().tolist(),
                    cosine=cosines[name],
                )
            )
        self.signs, self.counted = now, {}
        return Epoch(epoch=epoch, test_top1=test_top1, renormed_top1=renormed_top1(self.net), layers=found)


def _signs(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.binary_weight() for name, layer in layers.binary_layers(model).items()}


class _Held(layers.Quantizer):
    """In evaluation these signs and this scale, whatever the latent weight is."""

    def __init__(self, signs: Tensor, scale: Tensor | None) -> None:
        super().__init__()
        self.signs, self.scale = signs, scale

    def split(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.signs, self.scale


def agreement(net: Net) -> dict[str, float | None]:
    """For each binary layer: the cosine between the estimator's gradient of the loss by the latent weights and
    ``(loss with the sign flipped - loss) / (change of the sign)``, over :data:`SAMPLED` of its weights.

    On a copy of the net, on a fixed batch, with the batch's own statistics in batch norm, without dropout.
    """
    _, x, y = next(net.train.epoch(0))
    x, y = as_input(net, x[:IMAGES]), y[:IMAGES]
    model = copy.deepcopy(net.model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        if getattr(module, "dropout", 0.0):
            module.dropout = 0.0
    loss_of(net, model(x), x, y).backward()
    found = {}
    for name, layer in layers.binary_layers(model).items():
        sample = torch.randperm(layer.weight.numel(), generator=random.generator(net.seed, "flips", name))[:SAMPLED]
        signs, scale = layer.split_weight()
        signs = signs.contiguous()
        layer.transform, layer.weight_quantizer = None, _Held(signs, scale)
        gradient = layer.weight.grad.flatten()[sample].double()
        found[name] = signs, sample, gradient
    for layer in layers.binary_layers(model).values():
        layer.eval()  # and leaves batch norm as it is in training
    with torch.no_grad(), layers.popcount_forward(model):
        base = loss_of(net, model(x), x, y).double()
        return {name: _cosine(gradient, _slopes(net, model, x, y, signs, sample, base)) for name, (signs, sample, gradient) in found.items()}


def _slopes(net: Net, model: nn.Module, x: Tensor, y: Tensor, signs: Tensor, sample: Tensor, base: Tensor) -> Tensor:
    flat, slopes = signs.view(-1), []
    for i in sample.tolist():
        was = flat[i].item()
        flat[i] = -was
        slopes.append((loss_of(net, model(x), x, y).double() - base) / (-2 * was))
        flat[i] = was
    return torch.stack(slopes)


def _cosine(a: Tensor, b: Tensor) -> float | None:
    return F.cosine_similarity(a, b.to(a.device), dim=0).item() if a.any() and b.any() else None


def renormed_top1(net: Net) -> float:
    """Test accuracy, %, of the evaluated model with batch norm statistics estimated anew, each batch counting the same."""
    model = copy.deepcopy(net.evaluated)
    batches = net.train.epoch(0)
    few = itertools.islice(batches, max(1, -(-RENORM // net.train.batch_size)))
    with layers.popcount_forward(model):
        update_bn((as_input(net, x) for _, x, _ in few), model)
    return validate(dataclasses.replace(net, model=model, average=None), net.test)["top1"]


# ------------------------------------------------------------------------------------------------ the file


def path_of(record: Path) -> Path:
    """``signs-seed<N>.json`` beside the run's record ``seed<N>.json``."""
    return record.with_name(f"signs-{record.name}")


def write(path: Path, **fields: Any) -> None:
    """The file of a run, whole or not at all."""
    write_atomically(path, Signs(**fields).model_dump_json(indent=1).encode() + b"\n")


def read(path: Path) -> Signs:
    """Raises :class:`RecordError` for a file that is none."""
    try:
        return Signs.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RecordError(f"{path} is no record of signs: {str(error).splitlines()[0]}") from None
