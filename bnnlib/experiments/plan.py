"""What is missing, and how long it takes: ``bnn plan``, ``make plan``. Snakemake's ``--dry-run`` says the same in a thousand
lines.

Hours are those of the recipe's other seeds, else of a recipe on the same net and data, an epoch's time each; else the
recipe's own estimate. They are of the machines that the records name, not of this one.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bnnlib import recipes, records
from bnnlib.experiments import scoreboard
from bnnlib.recipes import Recipe, RecipeError
from bnnlib.records import Record


@dataclass(frozen=True)
class Missing:
    """The seeds of a recipe that have no record. ``hours``: of one of them, None where nothing is known; ``by``: what that
    comes from."""

    recipe: Recipe
    seeds: tuple[int, ...]
    hours: float | None
    by: str


def missing(folder: Path = records.FOLDER, names: list[str] | None = None) -> list[Missing]:
    """What `make reproduce` would train, by recipe; without ImageNet's recipes unless they are named."""
    every: dict[str, list[Record]] = {}
    for record in records.read_all(folder):
        every.setdefault(record.recipe, []).append(record)
    found = []
    for name in names or recipes.names():
        recipe = recipes.load(name)
        if not names and recipe.dataset == "imagenet":
            continue
        have = {record.seed for record in every.get(name, [])}
        seeds = tuple(seed for seed in range(recipe.seeds) if seed not in have)
        if seeds:
            found.append(Missing(recipe, seeds, *_hours(recipe, every)))
    return found


def _hours(recipe: Recipe, every: dict[str, list[Record]]) -> tuple[float | None, str]:
    own = every.get(recipe.name, [])
    if own:
        return statistics.median(r.wall_time_s for r in own) / 3600, "its other seeds"
    like = [
        r.wall_time_s / len(r.curve)
        for runs in every.values()
        for r in runs
        if (r.dataset.name, r.resolved["model"]["name"]) == (recipe.dataset, recipe.model.name)
    ]
    if like:
        return statistics.median(like) * recipe.epochs / 3600, "epochs of the same net"
    return (recipe.cost.hours, f"estimate for {recipe.cost.hardware}") if recipe.cost else (None, "nothing known")


def table(found: list[Missing]) -> str:
    """For a terminal: a line a recipe, teachers named, and the sum."""
    if not found:
        return "nothing is missing: every recipe has the records of its seeds"
    lines = [("recipe", "data", "seeds missing", "hours each", "by", "after")]
    for row in found:
        seeds = ", ".join(map(str, row.seeds)) if len(row.seeds) < 4 else f"{row.seeds[0]} to {row.seeds[-1]} ({len(row.seeds)})"
        hours = "?" if row.hours is None else f"{row.hours:.2g}"
        teacher = row.recipe.distill.teacher if row.recipe.distill else ""
        lines.append((row.recipe.name, row.recipe.dataset, seeds, hours, row.by, teacher))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    runs = sum(len(row.seeds) for row in found)
    hours = sum(row.hours * len(row.seeds) for row in found if row.hours is not None)
    unknown = sum(len(row.seeds) for row in found if row.hours is None)
    rest = f" and {unknown} of unknown length" if unknown else ""
    return "\n".join([*shown, "", f"{runs} runs, {hours:.0f} hours{rest}, one after another; `make reproduce` trains them"])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="these recipes alone")] = None,
    folder: Annotated[Path, typer.Option(help="folder of the records", callback=scoreboard.existing)] = records.FOLDER,
) -> None:
    """Say which runs have no record yet, and how many hours they take."""
    try:
        print(table(missing(folder, names or None)))
    except (RecipeError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="bnn plan")
