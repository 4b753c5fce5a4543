"""What the records say of each recipe, beside the figure that its source states.

Accuracies are of the last epoch, as mean +- standard deviation over n seeds; where the source's figure is a
best epoch picked on the test set, ours picked the same way stands beside it and is what the verdict
compares. A verdict asks whether the source's figure could be one more run of ours, by the t interval of
:func:`bnnlib.statistics.prediction`; one run alone gets none. Every number comes from a record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnnlib import recipes, records, statistics
from bnnlib.recipes import Recipe
from bnnlib.records import Record
from bnnlib.statistics import Spread


@dataclass(frozen=True)
class Row:
    """One recipe: its records, gathered. ``stale``: seeds whose record was made by an earlier version of the
    recipe."""

    recipe: Recipe
    last: Spread | None
    best: Spread | None
    stale: tuple[int, ...]
    best_on_test: bool = False  # whether the best epoch was picked on the test set, not on validation images
    prediction: statistics.Prediction | None = None  # of one more run; None for fewer than two, or without a figure
    p: float | None = None  # of the published figure, adjusted for all rows that have one

    @property
    def best_marked(self) -> str:
        """The best epoch's figure, with a star where it was picked on the test set."""
        return f"{self.best}{'*' if self.best_on_test else ''}"

    @property
    def compared(self) -> Spread | None:
        """What stands against the published figure: the best epoch where the source picked one, else the
        last."""
        return self.best if self.recipe.published.epoch == "best-on-test" else self.last

    @property
    def difference(self) -> float | None:
        """Ours less the source's, points; None where one of the two is missing."""
        if self.compared is None or self.recipe.published.top1 is None:
            return None
        return self.compared.mean - self.recipe.published.top1

    @property
    def verdict(self) -> str:
        """In words: whether the source's figure could be one more run of ours, with its p value."""
        if self.last is None:
            return "not run yet" if self.needs is None else "needs ImageNet: run this, below"
        if self.stale:
            return f"stale: recipe changed since seed {', '.join(map(str, self.stale))}"
        if self.difference is None:
            return "no figure to compare"
        apart = statistics.signed(self.difference)
        if self.prediction is None:
            return f"one run, {apart}"
        p = statistics.p_in_words(self.p)
        if self.p >= 1 - statistics.LEVEL:
            return f"no difference shown: {apart}, {p}"
        return f"{'above' if self.difference > 0 else 'below'} by {abs(self.difference):.2f}, {p}"

    @property
    def needs(self) -> str | None:
        """For a row without a record on ImageNet, which cannot be fetched: how to run it and what that takes."""
        if self.last is not None or self.recipe.dataset != "imagenet":
            return None
        cost = self.recipe.cost
        takes = f", about {cost.hours:g} h and {cost.memory_gb:g} GB on {cost.hardware}" if cost else ""
        return f"`python -m bnnlib.train {self.recipe.name} --data DIR`{takes}"


def rows(folder: Path = records.FOLDER, names: list[str] | None = None) -> list[Row]:
    """One row for each recipe that comes with the library, or for ``names``, in that order."""
    return _rows(records.by_recipe(folder), names or recipes.names())


def row(recipe: Recipe, runs: Sequence[Record]) -> Row:
    """The row of one recipe from its records, among the stored ones of all others. Raises :class:`RecordError` for one of
    another data set."""
    return chapter_rows({recipe.name: runs})[recipe.name]


def chapter_rows(runs: Mapping[str, Sequence[Record]]) -> dict[str, Row]:
    """The rows of some recipes from these records, among the stored ones of all others."""
    return dict(zip(runs, _rows(records.by_recipe() | dict(runs), list(runs)), strict=True))


def family_of(record: Record) -> tuple:
    """What runs have in common that are taken to spread alike: the data, the network (the name of its builder, whatever its
    options) and the number of epochs."""
    return record.dataset.fingerprint, record.profile, record.resolved["model"]["name"], len(record.curve)


def _rows(found: Mapping[str, Sequence[Record]], names: Sequence[str]) -> list[Row]:
    """Rows of ``names`` among all of ``found``: these give the families' deviations, and the tests that a p value is
    adjusted for."""
    known = set(recipes.names())
    found = {name: runs for name, runs in found.items() if runs and (name in known or name in names)}
    loaded = {name: recipes.load(name) for name in {*names, *found}}
    for name in names:
        for run in found.get(name, ()):
            if run.dataset.name != loaded[name].dataset:  # never one set's figure in another's row
                raise records.RecordError(
                    f"record of {name} seed {run.seed} is of {run.dataset.name}, the recipe of "
                    f"{loaded[name].dataset}: remove it"
                )
    predictions = {}
    for name, runs in found.items():
        if loaded[name].published.top1 is None:
            continue
        field = "top1_best" if loaded[name].published.epoch == "best-on-test" else "top1_last"
        alike = [[getattr(r, field) for r in of] for of in found.values() if family_of(of[0]) == family_of(runs[0])]
        values = [getattr(r, field) for r in runs]
        predictions[name] = statistics.prediction(values, loaded[name].published.top1, statistics.pooled(alike))
    adjusted = statistics.holm({name: one.p for name, one in predictions.items() if one is not None})
    return [_row(loaded[name], found.get(name, ()), predictions.get(name), adjusted.get(name)) for name in names]


def _row(recipe: Recipe, runs: Sequence[Record], prediction: statistics.Prediction | None, p: float | None) -> Row:
    if not runs:
        return Row(recipe, None, None, ())
    return Row(
        recipe,
        Spread.of([r.top1_last for r in runs]),
        Spread.of([r.top1_best for r in runs]),
        tuple(r.seed for r in runs if recipes.changed_since(recipe, r.resolved)),
        any(r.best_of == "test" for r in runs),
        prediction,
        p,
    )


def command(recipe: Recipe) -> str:
    """The command that trains a recipe, as Markdown code, and what has to be trained before it."""
    before = f", after `{recipe.distill.teacher}`" if recipe.distill else ""
    return f"`python -m bnnlib.train {recipe.name}`{before}"


def processor(hardware: Mapping[str, Any]) -> str:
    """The GPU that a run ran on, else its CPU."""
    return records.plain(hardware.get("gpu") or hardware.get("cpu", "unknown processor"))


def machine(hardware: Mapping[str, Any]) -> str:
    """What a run ran on, in words.

    >>> machine({"cpu": "AMD EPYC", "threads": 2})
    'AMD EPYC, 2 threads'
    >>> machine({"gpu": "NVIDIA H200", "cpu": "AMD EPYC", "processes": 2, "threads": 8})
    'NVIDIA H200, 2 processes'
    """
    parts = [processor(hardware)]
    for kind in ("processes", "threads"):
        count = hardware.get(kind, 1)
        if isinstance(count, int) and count > 1 and not (kind == "threads" and "gpu" in hardware):
            parts.append(f"{count} {kind}")
    return ", ".join(parts)


def made_with(record: Record) -> tuple[str, str]:
    """Where a run was made, as far as its arithmetic may depend on it: the processor and the version of PyTorch."""
    return processor(record.hardware), record.versions.get("torch", "unknown")


def setting(record: Record) -> str:
    """:func:`made_with` in words."""
    return " with PyTorch ".join(made_with(record))


def first_epoch_reaching(record: Record, top1: float) -> int | None:
    """The first epoch after which test top-1 is at least ``top1`` %; None where none is."""
    return next((e.epoch for e in record.curve if e.test_top1 >= top1), None)
