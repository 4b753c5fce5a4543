"""Cores that have no record, by reasoning from a related core that has one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bnnlib.benchmarks.speed import core, per_cycle


@dataclass(frozen=True)
class Reasoned:
    """A core without a record, derived from the record of one of ``like``: each unit does ``factor`` times as much a cycle."""

    core: str
    like: tuple[str, ...]
    factor: int
    why: str


REASONED = (
    Reasoned("Zen 5", ("Zen 4",), 2,
             "in server and desktop parts its vector units are 512 bits wide where those of Zen 4 are 256, and they are as many; some "
             "mobile parts keep 256 bits"),
    Reasoned("Granite Rapids", ("Emerald Rapids", "Sapphire Rapids"), 1,
             "its core has the same vector ports and the same tile unit for int8 and bfloat16; they are as measured there, shortfall from "
             "the documented rate included"),
)  # fmt: skip


def _pairs(known: dict[str, dict[str, float]]) -> Iterator[tuple[Reasoned, str]]:
    """Each of :data:`REASONED` of which a core like it is known, and the first such core."""
    for one in REASONED:
        if model := next((name for name in one.like if name in known), None):
            yield one, model


def reasoned(records: Iterable[dict]) -> list[tuple[Reasoned, str, dict[str, float]]]:
    """Of each of :data:`REASONED` that has no record of its own, and whose model has one: it, the model, products a cycle."""
    known = {core(record): per_cycle(record) for record in records}
    return [
        (one, model, {unit: one.factor * n for unit, n in known[model].items()}) for one, model in _pairs(known) if one.core not in known
    ]


def borne_out(records: Iterable[dict]) -> list[tuple[Reasoned, str, dict[str, float]]]:
    """Of each of :data:`REASONED` that was measured after all, as its model was: it, the model, measured over derived products a cycle."""
    known = {core(record): per_cycle(record) for record in records}
    return [
        (one, model, {unit: n / (one.factor * known[model][unit]) for unit, n in known[one.core].items() if unit in known[model]})
        for one, model in _pairs(known) if one.core in known
    ]  # fmt: skip
