"""Measure what the choice of the scaled sign's gradient changes while a net trains.

    python -m bnnlib.gradients          # LeNet-5 on MNIST -> results/gradients/lenet5-cosine.json

A net trains in its recipe's own training loop. At every so many steps, :func:`bnnlib.book.studies.gradients.compare` compares the
gradients of each binary layer. Then whole training steps under each gradient are timed in alternation. The result is one
file with what is needed to trust it; nothing else writes to ``results/gradients/``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from bnnlib import data, layers, recipes, storage
from bnnlib.book.studies import measured
from bnnlib.book.studies.gradients import (
    FOLDER,
    GRADIENTS,
    RECIPE,
    Cost,
    Measurement,
    Point,
    compare,
    scaled_sign_gradient,
)
from bnnlib.recipes import Recipe
from bnnlib.training import checkpoint
from bnnlib.training.setup import setup, start_fabric
from bnnlib.training.steps import train_step


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


def costs(recipe: Recipe, dataset: data.Dataset, *, rounds: int) -> list[Cost]:
    """CPU time under each gradient of a training step, and of the largest layer's scaled sign there and back.

    Rounds alternate between the gradients, each time starting with another one, so that all of them see the
    same machine.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: it must be at least 1")
    run = _Trainer(recipe, dataset, seed=0, steps=1)
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
    made = measured.about(dataset)
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
        points=points,
        costs=timed,
        **made(),
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="the file to write", show_default="lenet5-cosine.json in results/gradients")
    ] = FOLDER / "lenet5-cosine.json",
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
        print(f"error: {storage.in_words(error)}", file=sys.stderr)
        raise typer.Exit(1) from None
    last = {(p.layer, p.trained_with): p for p in found.points}
    for (layer, kind), p in last.items():
        told = ", ".join(f"{k} {v:.4f}" for k, v in p.cosine.items())
        print(f"{layer}, trained with {kind}, step {p.step} of seed {p.seed}: cosine with corrected: {told}")
    print(f"written: {out}")


if __name__ == "__main__":
    app(prog_name="bnn gradients")
