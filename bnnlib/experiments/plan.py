"""What is missing, and how long it takes: ``bnn plan``, ``make plan``. Snakemake's ``--dry-run`` says the same in a thousand
lines.

Hours are of the machines that the records name, not of this one; see :mod:`bnnlib.experiments.hours`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bnnlib import recipes, records
from bnnlib.experiments import hours, in_columns
from bnnlib.experiments.hours import Hours
from bnnlib.recipes import Recipe, RecipeError


@dataclass(frozen=True)
class Missing:
    """The seeds of a recipe that have no record. ``hours``: of one of them, by kind of device, as of :func:`hours.of`."""

    recipe: Recipe
    seeds: tuple[int, ...]
    hours: Mapping[str, Hours | None]


def missing(folder: Path = records.FOLDER, names: list[str] | None = None) -> list[Missing]:
    """What `make reproduce` would train, by recipe; without ImageNet's recipes unless they are named."""
    every = records.read_all(folder)
    found = []
    for name in names or recipes.names():
        recipe = recipes.load(name)
        if not names and recipe.dataset == "imagenet":
            continue
        have = {record.seed for record in every if record.recipe == name}
        seeds = tuple(seed for seed in range(recipe.seeds) if seed not in have)
        if seeds:
            found.append(Missing(recipe, seeds, hours.of(recipe, every)))
    return found


def table(found: list[Missing]) -> str:
    """For a terminal: a line a recipe, teachers named, and the sum."""
    if not found:
        return "nothing is missing: every recipe has the records of its seeds"
    kinds = [f"hours, {name}" for name in hours.KINDS.values()]
    lines = [("recipe", "data", "seeds missing", *kinds, "after")]
    for row in found:
        seeds = ", ".join(map(str, row.seeds)) if len(row.seeds) < 4 else f"{row.seeds[0]} to {row.seeds[-1]} ({len(row.seeds)})"
        each = [str(row.hours[kind] or "-") for kind in hours.KINDS]
        teacher = row.recipe.distill.teacher if row.recipe.distill else ""
        lines.append((row.recipe.name, row.recipe.dataset, seeds, *each, teacher))
    runs = sum(len(row.seeds) for row in found)
    said = [f"{runs} runs, one after another, which `make reproduce` trains:", *(_sum(found, kind) for kind in hours.KINDS)]
    return "\n".join([*in_columns(lines), "", hours.LEGEND, *said])


def _sum(found: list[Missing], kind: str) -> str:
    known = [(row.hours[kind], len(row.seeds)) for row in found]
    total = sum(each.value * seeds for each, seeds in known if each is not None)
    unknown = sum(seeds for each, seeds in known if each is None)
    rest = f"; length of {unknown} not known" if unknown else ""
    return f"  on a {hours.KINDS[kind]} {total:.0f} hours{rest}"


def existing(folder: Path) -> Path:
    """``folder`` of ``--folder``, if there is one."""
    if folder != records.FOLDER and not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}")
    return folder


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="these recipes alone")] = None,
    folder: Annotated[Path, typer.Option(help="folder of the records", callback=existing)] = records.FOLDER,
) -> None:
    """Say which runs have no record yet, and how many hours they take."""
    try:
        print(table(missing(folder, names or None)))
    except (RecipeError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="bnn plan")
