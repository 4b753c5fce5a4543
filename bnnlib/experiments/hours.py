"""How long one run of a recipe takes, on a CPU and on a GPU: of its other seeds, else of its net, else as estimated."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from bnnlib.recipes import Recipe
from bnnlib.records import Record

KINDS = {"cpu": "CPU", "cuda": "GPU"}  # the `device` of a record, and its name in tables
LEGEND = "~: by an epoch of another recipe on the same net and data.  ?: the recipe's own estimate.  -: nothing is known."


@dataclass(frozen=True)
class Hours:
    """Of one run. ``mark``: "" from records of the same recipe, "~" from an epoch of the same net and data, "?" from the
    recipe's estimate."""

    value: float
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.mark}{self.value:.2g}"


def of(recipe: Recipe, found: Iterable[Record]) -> dict[str, Hours | None]:
    """For each of :data:`KINDS`, the median over the runs in ``found``; None where nothing is known. Machines of a kind
    differ, and several runs may have shared one."""
    like = [r for r in found if (r.dataset.name, r.resolved["model"]["name"]) == (recipe.dataset, recipe.model.name)]
    hours: dict[str, Hours | None] = {}
    for kind in KINDS:
        here = [r for r in like if r.hardware.get("device") == kind]
        own = [r.wall_time_s / 3600 for r in here if r.recipe == recipe.name]
        epochs = [r.wall_time_s / 3600 / len(r.curve) for r in here]
        if own:
            hours[kind] = Hours(statistics.median(own))
        elif epochs:
            hours[kind] = Hours(statistics.median(epochs) * recipe.epochs, "~")
        else:  # estimates are for an accelerator, see recipes.schema.Cost
            hours[kind] = Hours(recipe.cost.hours, "?") if recipe.cost and kind == "cuda" else None
    return hours
