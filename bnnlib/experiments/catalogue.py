"""The recipes in a table: what there is to train, on what, for how long, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from bnnlib import records
from bnnlib.experiments import report
from bnnlib.paths import RESULTS

MODELS = RESULTS / "models"


def table(words: Sequence[str] = ()) -> str:
    """One line a recipe: name, source, data, epochs, hours by its records or by its own estimate, top-1 % of the last
    epoch, the packed file in results/models, title. With ``words``, those lines alone that hold all of them, in any case. Says so where none does."""
    lines = []
    for row in report.rows():
        recipe = row.recipe
        lines.append(
            (
                recipe.name,
                recipe.source,
                recipe.dataset,
                str(recipe.epochs),
                _hours(recipe.name, recipe.cost.hours if recipe.cost else None),
                "-" if row.last is None else f"{row.last} ({row.last.n})",
                f"{recipe.name}.safetensors" if (MODELS / f"{recipe.name}.safetensors").is_file() else "-",
                recipe.title,
            )
        )
    wanted = [word.lower() for word in words]
    lines = [line for line in lines if all(word in " ".join(line).lower() for word in wanted)]
    if not lines:
        return f"no recipe holds {' and '.join(words)}; without words, all are listed"
    lines.insert(0, ("recipe", "source", "data", "epochs", "hours", "top-1 % (seeds)", "packed file", "title"))
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[7]]) for line in lines)


def _hours(name: str, estimate: float | None) -> str:
    """Hours that the runs of a recipe took on average; the recipe's own estimate with a question mark where none ran."""
    taken = [r.wall_time_s / 3600 for r in records.read_all() if r.recipe == name]
    if taken:
        return f"{sum(taken) / len(taken):.2g}"
    return "-" if estimate is None else f"{estimate:.2g}?"
