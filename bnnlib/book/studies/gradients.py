"""Measure what the choice of the scaled sign's gradient changes while a net trains.

    python -m bnnlib.gradients          # LeNet-5 on MNIST -> results/gradients/lenet5-cosine.json

Along one training run, in the recipe's own training loop, at every so many steps and for every binary layer, all five gradients of
:func:`bnnlib.quantizers.scaled_sign` are formed from the same latent weights ``W`` and the same
``g = dC/dW~``, and compared with the corrected one. Then whole training steps under each of them are timed in
alternation. The result is one file with what is needed to trust it; nothing else writes to
``results/gradients/``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from bnnlib import data, layers, quantizers, recipes, records, storage
from bnnlib.paths import RESULTS
from bnnlib.recipes import Recipe
from bnnlib.training import checkpoint
from bnnlib.training.setup import setup, start_fabric
from bnnlib.training.steps import train_step

FOLDER = RESULTS / "gradients"
RECIPE = "s4-lenet5-15ep-corrected"
GRADIENTS = ("identity", "detached", "paper", "corrected", "s4")  # those that are in use; the records hold these


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Strict):
    """One binary layer at one step. A dict has an entry for each gradient of the scaled sign.

    ``cosine``: with the corrected gradient, over the whole layer. ``channel_cosine``: the same within an
    output channel, mean over channels. ``rms``: root mean square of the gradient. ``along``:
    ``n cos(g, B)^2``, mean over channels: 1 for a ``g`` that knows nothing of ``B = sign(W)``, 0 where the
    cost does not depend on alpha. ``alpha_n``: mean of ``alpha n``.
    """

    seed: int = Field(ge=0)
    trained_with: str
    step: int = Field(ge=0)
    layer: str
    n: int = Field(gt=0)
    cosine: dict[str, float]
    channel_cosine: dict[str, float]
    rms: dict[str, float]
    along: float = Field(ge=0)
    alpha_n: float = Field(ge=0)


class Cost(_Strict):
    """CPU time under each gradient: median and quartiles over rounds of the ratio to ``detached``.

    ``milliseconds``: the median of ``detached`` itself, of one call.
    """

    what: Literal["training step", "scaled sign"]
    rounds: int = Field(gt=0)
    milliseconds: float = Field(gt=0)
    ratio: dict[str, float]
    quartiles: dict[str, tuple[float, float]]


class Measurement(_Strict):
    """The file that ``python -m bnnlib.gradients`` writes."""

    format: Literal[1] = 1
    recipe: str
    resolved: dict[str, Any]
    recipe_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    steps: int = Field(gt=0, description="of one run; the recipe's schedule is compressed into them")
    seeds: list[int]
    dataset: records.Data
    points: list[Point] = Field(min_length=1)
    costs: list[Cost]
    wall_time_s: float = Field(ge=0)
    started: str
    commit: records.Commit
    versions: dict[str, str]
    hardware: dict[str, Any]


def scaled_sign_gradient(
    w: Tensor, g: Tensor, gradient: quantizers.WeightGradient = "corrected", gain: float = 1.0
) -> Tensor:
    """``dC/dW`` under ``gradient`` from ``g = dC/dW~``; shape and dtype of ``w``, ``(C_out, C_in, ...)``."""
    w = w.detach().requires_grad_()
    return torch.autograd.grad(quantizers.scaled_sign(w, gradient, gain), w, g)[0]


def adam_path(
    gradients: Sequence[Tensor],
    start: Tensor,
    *,
    factor: float = 1.0,
    lr: float = 0.01,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Tensor:
    """Where Adam, with L2 weight decay, goes from ``start`` when given ``factor`` times each gradient.

    Returns ``(steps, *start.shape)``. The factor does what dividing ``eps`` and ``weight_decay`` by it does.
    """
    w = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=lr, eps=eps, weight_decay=weight_decay)
    path = []
    for g in gradients:
        w.grad = factor * g
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def compare(w: Tensor, g: Tensor) -> dict[str, Any]:
    """The fields of a :class:`Point` that come from the weights and ``g`` of one layer, in float64.

    Channels that get no gradient at all, such as those of a ReLU that stays off, are left out. Raises
    ``ValueError`` where none gets any.
    """
    w, g = w.detach().double(), g.detach().double()
    live = g.flatten(1).any(dim=1)
    if not live.any():
        raise ValueError("no gradient reaches the weights: g is 0 everywhere")
    w, g = w[live], g[live]
    found = {kind: scaled_sign_gradient(w, g, kind).flatten(1) for kind in GRADIENTS}
    right, signs, rows = found["corrected"], quantizers.sign(w).flatten(1), g.flatten(1)
    n = rows.shape[1]
    whole = {
        k: nn.functional.cosine_similarity(v.flatten(), right.flatten(), dim=0).item()
        for k, v in found.items()
    }
    each = {k: nn.functional.cosine_similarity(v, right, dim=1).mean().item() for k, v in found.items()}
    size = {k: v.square().mean().sqrt().item() for k, v in found.items()}
    along = (n * nn.functional.cosine_similarity(rows, signs, dim=1).square()).mean().item()
    return {
        "n": n,
        "cosine": whole,
        "channel_cosine": each,
        "rms": size,
        "along": along,
        "alpha_n": quantizers.mean_scale(w).mean().item() * n,
    }


class _Trainer:
    """A recipe's net in its own training loop, one step at a time: initial weights, augmentation, loss, teacher and
    accumulation are the recipe's. ``steps``: into which its schedule is compressed."""

    def __init__(self, recipe: Recipe, dataset: data.Dataset, seed: int, steps: int) -> None:
        self.recipe, self.steps, self.step = recipe, steps, 0
        net = setup(start_fabric(recipe.precision), recipe, dataset, seed, runs=checkpoint.runs_folder())
        self.net, self.binary = net, layers.binary_layers(net.model)
        if not self.binary or any(layer.scale_kind != "mean" for layer in self.binary.values()):
            raise ValueError(
                f"recipe {recipe.name}: its binary layers have no scaled sign; model.layer.scale must be mean"
            )
        net.forward.train()
        self.stream = self._stream()

    def _stream(self) -> Iterator[tuple[Tensor, Tensor, int, int]]:
        epoch = 0
        while True:
            for step, (_, x, y) in enumerate(self.net.train.epoch(epoch)):
                yield x, y, epoch, step
            epoch += 1

    def train(self, gradient: str, look: Callable[[int], None] | None = None) -> None:
        """One step, backward under ``gradient``; ``look`` is called with the step before the optimizer's update."""
        for layer in self.binary.values():
            layer.weight_quantizer.gradient = gradient
        x, y, epoch, step = next(self.stream)
        at = self.recipe.epochs * min(self.step, self.steps - 1) / self.steps
        on_gradients = (lambda net: look(self.step)) if look else None
        train_step(self.net, x, y, epoch, step, at=at, on_gradients=on_gradients)
        self.step += 1


def follow(
    recipe: Recipe, dataset: data.Dataset, *, trained_with: str, seed: int, steps: int, every: int
) -> list[Point]:
    """Train for ``steps`` with one gradient; :func:`compare` all at every ``every``-th step, and the last."""
    if trained_with not in GRADIENTS:
        raise ValueError(f"unknown gradient {trained_with!r}: choose one of {', '.join(GRADIENTS)}")
    if steps < 1 or every < 1:
        raise ValueError(f"steps is {steps}, every is {every}: both must be at least 1")
    run, points = _Trainer(recipe, dataset, seed, steps), []

    def look(step: int) -> None:
        for name, layer in run.binary.items():
            g = layer.weight.grad
            if step % every == 0 or step == steps - 1:
                where = {"seed": seed, "trained_with": trained_with, "step": step, "layer": name}
                points.append(Point(**where, **compare(layer.weight, g)))
            layer.weight.grad = scaled_sign_gradient(layer.weight, g, trained_with)

    for _ in range(steps):
        run.train("identity", look)  # leaves g itself in weight.grad
    return points


def costs(recipe: Recipe, dataset: data.Dataset, *, rounds: int, seed: int = 0) -> list[Cost]:
    """CPU time under each gradient of a training step, and of the largest layer's scaled sign there and back.

    Rounds alternate between the gradients, each time starting with another one, so that all of them see the
    same machine.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: it must be at least 1")
    run = _Trainer(recipe, dataset, seed, steps=1)
    largest = max((layer.weight for layer in run.binary.values()), key=Tensor.numel)
    g = torch.randn_like(largest)

    def alone(kind: str) -> None:
        for _ in range(20):
            scaled_sign_gradient(largest, g, kind)

    return [_timed("training step", run.train, rounds, 1), _timed("scaled sign", alone, rounds, 20)]


def _timed(what: str, run, rounds: int, calls: int) -> Cost:
    seconds: dict[str, list[float]] = {kind: [] for kind in GRADIENTS}
    for number in range(-2, rounds):  # two rounds to warm up
        first = number % len(GRADIENTS)
        for kind in GRADIENTS[first:] + GRADIENTS[:first]:
            before = time.process_time()
            run(kind)
            if number >= 0:
                seconds[kind].append(time.process_time() - before)
    ratios = {
        kind: [s / d for s, d in zip(seconds[kind], seconds["detached"], strict=True)] for kind in GRADIENTS
    }
    spread = {k: tuple(np.quantile(v, [0.25, 0.75]).tolist()) for k, v in ratios.items()}
    return Cost(
        what=what,
        rounds=rounds,
        milliseconds=1000 * statistics.median(seconds["detached"]) / calls,
        ratio={k: statistics.median(v) for k, v in ratios.items()},
        quartiles=spread,
    )


def measure(
    recipe: Recipe,
    dataset: data.Dataset,
    *,
    seeds: Sequence[int] = (0,),
    steps: int = 300,
    every: int = 10,
    rounds: int = 50,
    trained_with: Sequence[str] = ("detached", "corrected"),
) -> Measurement:
    """Follow one run for each seed and each of ``trained_with``, then time the steps.

    Raises ``ValueError`` for impossible numbers, and for a recipe without scaled signs.
    """
    started, before = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    points = [
        point
        for seed in seeds
        for kind in trained_with
        for point in follow(recipe, dataset, trained_with=kind, seed=seed, steps=steps, every=every)
    ]
    timed = costs(recipe, dataset, rounds=rounds)
    return Measurement(
        recipe=recipe.name,
        resolved=recipe.resolved(),
        recipe_hash=recipe.hash(),
        steps=steps,
        seeds=list(seeds),
        dataset={
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "test": len(dataset.test),
        },
        points=points,
        costs=timed,
        wall_time_s=time.perf_counter() - before,
        started=started,
        commit=records.commit(),
        versions=records.versions(),
        hardware=records.hardware(torch.device("cpu")),
    )


def read(path: Path) -> Measurement:
    """Read and check a measurement. Raises :class:`bnnlib.records.RecordError` for one absent or damaged."""
    try:
        return Measurement.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise records.RecordError(
            f"measurement {path}: {error.strerror}; make it with python -m bnnlib.gradients"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise records.RecordError(
            f"measurement {path} is damaged: {where}: {first['msg']}; restore it from git, or make it again"
        ) from None


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(dir_okay=False, help="the file to write", show_default="lenet5-cosine.json in results/gradients")] = FOLDER / "lenet5-cosine.json",
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 .. SEEDS-1")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="training steps of each run")] = 600,
    every: Annotated[int, typer.Option(min=1, help="compare at every so many steps")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="rounds of timing")] = 60,
    data_root: Annotated[
        Path | None,
        typer.Option("--data", help="folder of the data sets; else $BNN_DATA, else the cache folder"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
) -> None:
    """Compare the gradients of the scaled sign along short runs of LeNet-5 on MNIST, and time them."""
    torch.set_num_threads(threads)
    try:
        recipe = recipes.load(RECIPE)
        found = measure(
            recipe,
            data.load(recipe.dataset, data_root),
            seeds=list(range(seeds)),
            steps=steps,
            every=every,
            rounds=rounds,
        )
        storage.write_atomically(out, found.model_dump_json().encode() + b"\n")
    except (ValueError, OSError) as error:
        print(f"error: {storage.reason(error)}", file=sys.stderr)
        raise typer.Exit(1) from None
    last = {(p.layer, p.trained_with): p for p in found.points}
    for (layer, kind), p in last.items():
        told = ", ".join(f"{k} {v:.4f}" for k, v in p.cosine.items())
        print(f"{layer}, trained with {kind}, step {p.step} of seed {p.seed}: cosine with corrected: {told}")
    print(f"written: {out}")


if __name__ == "__main__":
    app(prog_name="bnn gradients")
