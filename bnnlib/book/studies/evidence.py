"""What the records say about a claim: the difference in accuracy of two recipes, with its interval.

    claim = Claim("rank-1 against analytic scale", "tiny-s5-resnet18-xnorpp", "tiny-s5-resnet18-xnor", source=5.9)
    Markdown(answer(claim, found.records))

The same net may have been trained under a long and under a short schedule, whose recipe has the long one's name
and an ending (``-7ep``). Runs of different schedules, data or profiles are never compared.

With two seeds or more in common the interval is Student's t of the differences by seed. With one it can only say
what the choice of test images does, as if the two nets' errors were independent of one another; what another
seed would do it does not know. Every answer says which of the two it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from bnnlib import recipes
from bnnlib.experiments import compare
from bnnlib.experiments.report import command
from bnnlib.records import Record

Runs = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Difference:
    """First less second, in points of last-epoch accuracy. ``seeds``: 1, or how many were paired; ``images``: of
    the test set; ``values``: mean of the two sides."""

    mean: float
    half_width: float
    seeds: int
    images: int
    values: tuple[float, float]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half_width

    @property
    def basis(self) -> str:
        """What the interval is about, in words."""
        if self.seeds > 1:
            return f"{self.seeds} seeds, paired"
        return f"one seed, ± from the {self.images:,} test images alone"

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.half_width:.2f}".replace("-", "−")


def difference(
    first: Sequence[Record], second: Sequence[Record], field: str = "top1_last", level: float = 0.95
) -> Difference | None:
    """Compare two recipes' records, ``field`` by ``field``; None where one has none.

    Raises ``ValueError`` for records of different data, profile or number of epochs.
    """
    if not first or not second:
        return None
    alike = {(r.dataset.fingerprint, r.profile, len(r.curve)) for r in (*first, *second)}
    if len(alike) > 1:
        raise ValueError(
            f"{first[0].recipe} and {second[0].recipe} cannot be compared: their records differ in data, profile "
            f"or number of epochs ({', '.join(f'{profile}, {epochs} epochs' for _, profile, epochs in sorted(alike))})"
        )
    one, other = ({r.seed: getattr(r, field) for r in side} for side in (first, second))
    images = first[0].dataset.test
    pair = compare.paired(one, other, level)
    if pair is not None:
        seeds = one.keys() & other.keys()
        values = fmean(one[s] for s in seeds), fmean(other[s] for s in seeds)
        return Difference(pair.mean, pair.half_width, pair.n, images, values)
    seed = min(one.keys() & other.keys(), default=None)
    a, b = (side[seed if seed is not None else min(side)] for side in (one, other))
    width = NormalDist().inv_cdf((1 + level) / 2) * (sum(v * (100 - v) for v in (a, b)) / images) ** 0.5
    return Difference(a - b, width, 1, images, (a, b))


@dataclass(frozen=True)
class Claim:
    """That the recipe ``first`` differs from ``second``; names without the ending of a short schedule.

    ``says``: in words. ``source``: the source's own difference, in points, on its own data; ``where``: that data.
    ``field``: of the records, what is compared.
    """

    says: str
    first: str
    second: str
    source: float | None = None
    where: str = "ImageNet"
    field: str = "top1_last"


def schedules(name: str) -> list[str]:
    """The recipe ``name`` and those that shorten it, longest first."""
    found = [recipes.load(name), *(r for r in map(recipes.load, recipes.names()) if r.shortens == name)]
    return [recipe.name for recipe in sorted(found, key=lambda recipe: -recipe.epochs)]


def pairs(claim: Claim) -> list[tuple[str, str]]:
    """The two recipes of ``claim`` under each schedule that both have, longest first."""
    second = {recipes.load(name).epochs: name for name in schedules(claim.second)}
    first = {recipes.load(name).epochs: name for name in schedules(claim.first)}
    return [(name, second[epochs]) for epochs, name in first.items() if epochs in second]


def measured(claim: Claim, runs: Runs) -> dict[int, Difference]:
    """The claim's difference under each schedule that both recipes were run with, by its number of epochs (of the
    records: a quick run has fewer)."""
    found = {}
    for first, second in pairs(claim):
        one = difference(runs.get(first, ()), runs.get(second, ()), claim.field)
        if one is not None:
            found[len(runs[first][0].curve)] = one
    return found


def answer(claim: Claim, runs: Runs) -> str:
    """What the records in ``runs`` say about ``claim``, or the commands that are missing: Markdown."""
    found = measured(claim, runs)
    if not found:
        return f"{claim.says}: *not measured yet.* {missing(claim, runs)}"
    return "\n\n".join(_said(claim, epochs, one) for epochs, one in found.items())


def _said(claim: Claim, epochs: int, one: Difference) -> str:
    a, b = one.values
    text = (
        f"{claim.says}, {epochs} epoch{'s' * (epochs > 1)}: {a:.2f} − {b:.2f} = **{one} points** ({one.basis}). "
        + _verdict(one)
    )
    if claim.source is None:
        return text + "."
    inside = abs(one.mean - claim.source) <= one.half_width
    where = "lies in it" if inside else "lies above it" if claim.source > one.mean else "lies below it"
    theirs = f"{claim.source:+.1f}".replace("-", "−")
    return f"{text}; the source's {theirs} on {claim.where} {where}."


def _verdict(one: Difference) -> str:
    if one.seeds > 1:
        return (
            "The interval leaves zero out" if one.clear else "The interval holds zero: no difference is shown"
        )
    if one.clear:
        return "More than the choice of test images explains, but another seed may differ"
    return "No more than the choice of test images explains: no difference is shown"


def missing(claim: Claim, runs: Runs) -> str:
    """The commands that would answer ``claim`` soonest, under the schedule that has most of its records already
    and is shortest: Markdown."""
    absent = _absent(claim, runs)
    return f"{' and '.join(command(r) for r in absent)}{_hours(absent)}."


def _absent(claim: Claim, runs: Runs) -> list[recipes.Recipe]:
    wanted = [[recipes.load(name) for name in pair if not runs.get(name)] for pair in pairs(claim)]
    return min(reversed(wanted), key=len)


def answers(claims: Iterable[Claim], runs: Runs) -> str:
    """:func:`answer` for each of ``claims``: what is measured first, then a list of what is not and which runs
    it needs; their commands stand in :func:`bnnlib.experiments.report.runs_table`."""
    claims = list(claims)
    told = [answer(claim, runs) for claim in claims if measured(claim, runs)]
    lacking = [
        f"- {claim.says}: needs {' and '.join(f'`{r.name}`' for r in absent)}{_hours(absent)}."
        for claim in claims
        if not measured(claim, runs) and (absent := _absent(claim, runs))
    ]
    if lacking:
        told.append("*Not measured yet:*\n\n" + "\n".join(lacking))
    return "\n\n".join(told)


def _hours(wanted: Iterable[recipes.Recipe]) -> str:
    costs = [r.cost for r in wanted]
    if not all(costs):
        return ""
    return f" (about {sum(c.hours for c in costs):g} h on {costs[0].hardware})"


def names(claims: Iterable[Claim], runs: Runs) -> list[str]:
    """The recipes of ``claims`` in the order in which they first occur, schedule by schedule: the schedules that
    have a record in ``runs``, or the shortest alone where none has."""
    by_epochs: dict[int, dict[str, None]] = {}
    for claim in claims:
        for pair in pairs(claim):
            for name in reversed(pair):
                by_epochs.setdefault(recipes.load(name).epochs, {})[name] = None
    kept = [e for e, group in by_epochs.items() if any(runs.get(n) for n in group)] or [min(by_epochs)]
    return [name for epochs in sorted(kept, reverse=True) for name in by_epochs[epochs]]
