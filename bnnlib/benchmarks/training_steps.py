"""``bnn bench training`` (part of ``make bench``): a step of training on this machine's CPU, with the kernels and with PyTorch's own
convolutions, into ``results/bench/training-<cpu>-<date>.json``.

A step is forward, backward and update of a recipe's net on one batch of random images of its size, without a teacher.
Times are taken as in :mod:`bnnlib.benchmarks.networks`. For each recipe and number of threads:

==================== =========================================================================================
``bits``             as ``bnn train`` does it here: in the precision of the recipe, compiled where that says so
``bf16``             convolutions of signs by PyTorch (``F.conv2d``) under bfloat16 autocast, where the CPU has a unit for
                     it; channels last
``fp32``             likewise in float32
``bf16-compile``     ``bf16`` compiled as training compiles; ``fp32-compile`` where the CPU has no such unit
==================== =========================================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from bnnlib import layers, ops, recipes
from bnnlib.benchmarks import BenchError, speed, workers
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.contenders import multiplies_bf16
from bnnlib.benchmarks.nets import shape_of
from bnnlib.benchmarks.peaks import TileUnit
from bnnlib.benchmarks.record import FOLDER
from bnnlib.benchmarks.turns import Contenders, alternate, times
from bnnlib.ops import precision
from bnnlib.paths import folder_option
from bnnlib.quantizers import binarize
from bnnlib.recipes import Recipe
from bnnlib.training import building, memory

RECIPES = ("s4-lenet5", "s1-vgg", "s4-nin-60ep", "ours-vgg-20ep", "tiny-s5-resnet18-xnorpp-7ep")
CPU = torch.device("cpu")


def by_pytorch(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups=1, dropout: float = 0.0
) -> Tensor:
    """:func:`bnnlib.ops.conv2d_of_signs` as who has no kernels writes it."""
    return F.conv2d(x if dropout else binarize(x, "identity"), weight, bias, stride, padding, dilation, groups)


def step_of(recipe: Recipe, batch: int, *, bf16: bool, compile: bool, kernels: bool) -> Callable[[], Tensor]:
    """A call that makes a step and gives its loss."""
    torch.manual_seed(0)
    model = building.model(recipe).train().to(memory_format=torch.channels_last)
    optimizer = building.optimizer(recipe, model)
    forward = model
    if compile:
        from bnnlib.training import compiling

        forward = compiling.compiled(model, CPU)
    x = torch.randn(batch, *shape_of(recipe.name)).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (batch,))

    def step() -> Tensor:
        with contextlib.ExitStack() as stack:
            if not kernels:
                stack.enter_context(mock.patch.object(ops, "conv2d_of_signs", by_pytorch))
            stack.enter_context(precision.products("bf16-mixed" if bf16 else "32-true", CPU))
            stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=bf16))
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        layers.project_(model)
        return loss.detach()

    return step


def contenders(recipe: Recipe, batch: int, *, compile: bool = True) -> Contenders:
    """Who takes turns; see the module's table."""
    own = {"bf16": recipe.precision == "bf16-mixed", "compile": compile and recipe.compile is True, "kernels": True}
    kinds = {"bf16": True, "fp32": False} if multiplies_bf16() else {"fp32": False}
    found: Contenders = {"bits": step_of(recipe, batch, **own)}
    for name, bf16 in kinds.items():
        found[name] = step_of(recipe, batch, bf16=bf16, compile=False, kernels=False)
    if compile:
        name, bf16 = next(iter(kinds.items()))
        found[f"{name}-compile"] = step_of(recipe, batch, bf16=bf16, compile=True, kernels=False)
    return found


def measure_recipe(name: str, quick: bool) -> dict:
    """One case: times of all contenders."""
    recipe = recipes.load(name)
    batch = 8 if quick else recipe.batch_size
    tiles = TileUnit()
    torch._dynamo.reset()  # nets of one class count as versions of one program, of which there may be few
    seconds = alternate(contenders(recipe, batch, compile=not quick), 2 if quick else 7, between=tiles.look)
    return {"recipe": name, "batch": batch, "times": times(seconds), **tiles.rounds()}


def work(cpus: list[int], names: list[str], quick: bool) -> dict:
    """All that is timed on one number of threads, in this process."""
    memory.keep_freed()
    torch.set_num_threads(len(cpus))
    cases = []
    for name in names:
        if sys.stderr.isatty():  # not into a notebook
            print(f"{name}, {len(cpus)} thread(s)", file=sys.stderr, flush=True)
        cases.append(measure_recipe(name, quick))
    return {"threads": len(cpus), "cases": cases}


def measure(names: list[str] | None = None, quick: bool = False) -> dict:
    """The record of this machine. ``quick``: LeNet-5 alone, one thread, few rounds."""
    names = names or list(RECIPES[:1] if quick else RECIPES)
    threads = [1] if quick else sorted({1, len(os.sched_getaffinity(0))})
    options = [*names, *(["--quick"] if quick else [])]
    return {
        "date": date.today().isoformat(), "environment": bench_record.environment(), "quick": quick,
        "runs": [workers.on_threads("bnnlib.benchmarks.training_steps", many, *options) for many in threads],
    }  # fmt: skip


def summary(record: dict) -> str:
    """What the record says, for the terminal: of each recipe the best rival first, and its time over ours."""
    lines = []
    for run in record["runs"]:
        lines.append(f"\n{run['threads']} thread(s): the best rival's time over ours; milliseconds a step")
        for row in run["cases"]:
            best = speed.best_rival(row)
            shown = ", ".join(f"{name} {t['median_us'] / 1000:.1f}" for name, t in row["times"].items())
            lines.append(f"  {row['recipe']}, {row['batch']} images: {best} over bits {speed.ratio(row, best, 'bits')}\n    {shown}")
    return "\n".join(lines)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="recipes to measure", show_default="those of the page on costs")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="LeNet-5, few rounds: shows that it runs, measures nothing")] = False,
    out: Annotated[
        Path | None, folder_option("folder of the record", show_default="results/bench; with --quick or chosen recipes: none")
    ] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure a step of training on this machine."""
    try:
        recipes.check_names(names or [])
        if worker:
            print(json.dumps(work([int(cpu) for cpu in worker.split(",")], names or [], quick)))
            return
        record = measure(names, quick)
    except (recipes.RecipeError, BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(summary(record))
    folder = out or (None if quick or names else FOLDER)
    if folder:
        print(f"\nwritten: {bench_record.write(record, folder, 'training-')}")


if __name__ == "__main__":
    app(prog_name="bnn bench training")
