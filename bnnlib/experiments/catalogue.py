"""The recipes in a table: what there is to train, on what, for how long, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from bnnlib import deploy, records
from bnnlib.experiments import hours, in_columns, report


def table(words: Sequence[str] = ()) -> str:
    """One line a recipe: name, source, data, epochs, hours of one run on a CPU and on a GPU, top-1 % of the last epoch, the
    packed file in results/models, title; below, what the marks at hours mean. With ``words``, those lines alone that hold
    all of them, in any case. Says so where none does."""
    lines, every = [], records.read_all()
    for row in report.rows():
        recipe = row.recipe
        lines.append(
            (
                recipe.name,
                recipe.source,
                recipe.dataset,
                str(recipe.epochs),
                *(str(each or "-") for each in hours.of(recipe, every).values()),
                "-" if row.last is None else f"{row.last} ({row.last.n})",
                file.name if (file := deploy.path_of(recipe.name)).is_file() else "-",
                recipe.title,
            )
        )
    wanted = [word.lower() for word in words]
    lines = [line for line in lines if all(word in " ".join(line).lower() for word in wanted)]
    if not lines:
        return f"no recipe holds {' and '.join(words)}; without words, all are listed"
    kinds = [f"hours, {name}" for name in hours.KINDS.values()]
    lines.insert(0, ("recipe", "source", "data", "epochs", *kinds, "top-1 % (seeds)", "packed file", "title"))
    return "\n".join([*in_columns(lines), "", hours.LEGEND])
