"""A run whose record is there already: how the two compare, and how far apart two runs of a recipe are expected."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bnnlib import statistics
from bnnlib.records import Record


def same_run(a: Record, b: Record) -> bool:
    """Whether two records are alike to the last digit: the same experiment, with the same curve but for its times."""

    def told(record: Record) -> tuple:
        curve = [epoch.model_dump(exclude={"seconds"}) for epoch in record.curve]
        return record.recipe_hash, record.seed, record.dataset, curve

    return told(a) == told(b)


def expected_spread(values: Sequence[float]) -> float | None:
    """How far apart two further runs may lie, in 95 of 100 pairs, by the accuracies of different seeds: Student's t
    times ``sqrt(2)`` standard deviations. None for fewer than two values.

    Rounding on another machine, or with another number of threads, grows over a training until the run is as
    different as one of another seed.
    """
    if len(values) < 2:
        return None
    return statistics.quantile(len(values) - 1) * math.sqrt(2) * statistics.Spread.of(values).sd


def told(kept: Record, made: Record, seeds: Sequence[Record]) -> str:
    """``made`` beside the record ``kept`` of the same recipe and seed, in a sentence or two. ``seeds``: all records of the
    recipe, from which the expected spread is taken."""
    difference = made.top1_last - kept.top1_last
    text = (
        f"seed {kept.seed} on record: {kept.top1_last:.2f} % top-1 at the last epoch; this run: {made.top1_last:.2f} %, "
        f"a difference of {difference:+.2f} points"
    )
    reasons = differing(kept, made)
    text += f" (other {', '.join(reasons)})" if reasons else " (recipe, data, versions and hardware are the same)"
    if {"recipe", "data"} & set(reasons):
        return f"{text}. The record is of another experiment: do not compare them."
    spread = expected_spread([record.top1_last for record in seeds])
    if spread is None:
        return f"{text}. How far apart two runs lie is not known: there is one record of this recipe."
    within = "within" if abs(difference) <= spread else "OUTSIDE"
    return f"{text}: {within} what two runs are expected to differ by, {spread:.2f} points (95 %, from {len(seeds)} seeds)."


def differing(a: Record, b: Record) -> list[str]:
    """In what the circumstances of two runs differ: recipe, data, teacher, versions, CPU or GPU, threads, code."""
    found = {
        "recipe": a.recipe_hash != b.recipe_hash,
        "data": a.dataset != b.dataset,
        "teacher": a.teacher != b.teacher,
        "versions": a.versions != b.versions,
        "machine": any(a.hardware.get(key) != b.hardware.get(key) for key in ("cpu", "gpu", "device", "processes")),
        "number of threads": a.hardware.get("threads") != b.hardware.get("threads"),
        "commit": a.commit.hash != b.commit.hash,
    }
    return [name for name, other in found.items() if other]
