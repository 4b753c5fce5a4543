"""What the records say about a claim: the difference in accuracy of two recipes, with its interval.

    claim = Claim("rank-1 against analytic scale", "tiny-s5-resnet18-xnorpp", "tiny-s5-resnet18-xnor", source=5.9)
    Markdown(answers([claim], found.records))

The same net may have been trained under a long and under a short schedule, whose recipe has the long one's name
and an ending (``-7ep``). Runs of different schedules, data or profiles are never compared.

With two seeds or more of each the interval is that of :func:`bnnlib.statistics.difference`. With one of
either it can only say what the choice of test images does, as if the two nets' errors were independent of one another:
what another seed would do is not in it, and no verdict is given. The p-values of the claims that :func:`answers` tells
together are one family, and are corrected by Holm's method. Every answer says which of the two it is, and whether
the runs come from different processors or PyTorch versions. A source's difference on another data set is quoted, and
not tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bnnlib import recipes, statistics
from bnnlib.experiments.report import family_of, made_with
from bnnlib.records import Record

Runs = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Difference:
    """First less second, in points of accuracy. ``seeds``: runs of each side; ``images``: of the test set; ``values``: mean
    of the two sides; ``p``: of no difference, None for one run; ``settings``: processors and PyTorch versions of the
    runs, where these differ."""

    mean: float
    half_width: float
    seeds: tuple[int, int]
    images: int
    values: tuple[float, float]
    p: float | None = None
    paired: bool = False
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def one_run(self) -> bool:
        return self.p is None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean) > self.half_width

    @property
    def runs(self) -> str:
        """How many runs it compares, in words."""
        a, b = self.seeds
        if self.one_run:
            return "one run each"
        return f"{a} seeds each" if a == b else f"{a} and {b} seeds"

    @property
    def beside_chance(self) -> str:
        """The difference beside what the interval is about: "more than another seed explains"."""
        chance = "another choice of test images" if self.one_run else "another seed"
        return f"{'more' if self.clear else 'no more'} than {chance} explains"

    @property
    def basis(self) -> str:
        """What the interval is about, in words."""
        text = f"{self.runs}, {'paired, ' * self.paired}{100 * statistics.LEVEL:g} % interval"
        if self.one_run:
            text += f" from the {self.images:,} test images alone"
        if not self.settings:
            return text
        processors, versions = map(set, zip(*self.settings, strict=True))
        kinds = ["processors"] * (len(processors) > 1) + ["versions of PyTorch"] * (len(versions) > 1)
        return f"{text}; runs on different {' and '.join(kinds)}"

    def __str__(self) -> str:
        return f"{statistics.signed(self.mean)} ± {self.half_width:.2f}"


def difference(
    first: Sequence[Record],
    second: Sequence[Record],
    field: str = "top1_last",
    family: Mapping[str, Sequence[Record]] | None = None,
) -> Difference | None:
    """Compare two recipes' records, ``field`` by ``field``; None where one has none. Where one has one run, runs of the
    seed that both have are compared. ``family``: records of recipes that are taken to spread alike, these among them.

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
    one, other = _by_seed(first, field), _by_seed(second, field)
    images = first[0].dataset.test
    among = None if family is None else {name: _by_seed(runs, field) for name, runs in family.items()}
    found = statistics.difference(one, other, among)
    if found is not None:
        places = _settings((*first, *second))
        return Difference(found.mean, found.half_width, found.n, images, found.values, found.p, found.paired, places)
    seed = min(one.keys() & other.keys(), default=None)
    seeds = [seed if seed is not None else min(side) for side in (one, other)]
    a, b = one[seeds[0]], other[seeds[1]]
    width = statistics.of_images(a, b, images)
    used = [next(r for r in runs if r.seed == s) for runs, s in zip((first, second), seeds, strict=True)]
    return Difference(a - b, width, (1, 1), images, (a, b), settings=_settings(used))


def _by_seed(runs: Sequence[Record], field: str) -> dict[int, float]:
    return {r.seed: getattr(r, field) for r in runs}


def _settings(runs: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    """Where the runs were made, empty where all were made alike."""
    places = tuple(dict.fromkeys(map(made_with, runs)))
    return places if len(places) > 1 else ()


@dataclass(frozen=True)
class Claim:
    """That the recipe ``first`` differs from ``second``; names without the ending of a short schedule.

    ``says``: in words. ``source``: the source's own difference, in points, on ImageNet. ``field``: of the records, what is
    compared.
    """

    says: str
    first: str
    second: str
    source: float | None = None
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


def alike(runs: Runs, first: str, second: str) -> Runs | None:
    """The recipes of ``runs`` that are taken to spread as ``first`` and ``second`` do: same data, network and epochs. None where
    these two differ in that."""
    kinds = {family_of(runs[name][0]) for name in (first, second) if runs.get(name)}
    if len(kinds) != 1:
        return None
    return {name: found for name, found in runs.items() if found and family_of(found[0]) in kinds}


def measured(claim: Claim, runs: Runs) -> dict[int, Difference]:
    """The claim's difference under each schedule that both recipes were run with, by its number of epochs (of the
    records: a quick run has fewer). Recipes of ``runs`` that spread alike lend their deviation."""
    found = {}
    for first, second in pairs(claim):
        family = alike(runs, first, second)
        one = difference(runs.get(first, ()), runs.get(second, ()), claim.field, family=family)
        if one is not None:
            found[len(runs[first][0].curve)] = one
    return found


def _said(claim: Claim, epochs: int, one: Difference, p: float | None, tests: int) -> str:
    """``p``: corrected for the ``tests`` of its family."""
    a, b = one.values
    text = (
        f"{claim.says}, {epochs} epoch{'s' * (epochs > 1)}: {a:.2f} − {b:.2f} = **{one} points** ({one.basis}). "
        + _verdict(one, p, tests)
    )
    if claim.source is None:
        return text + "."
    return f"{text}. The source has {statistics.signed(claim.source, 1)} on ImageNet, another data set."


def _verdict(one: Difference, p: float | None, tests: int) -> str:
    if p is None:
        return f"One run: it is {one.beside_chance}, and what another seed would give is not known"
    corrected = f", corrected for {tests} comparisons" if tests > 1 else ""
    return f"{'A' if p < 1 - statistics.LEVEL else 'No'} difference is shown ({statistics.p_in_words(p)}{corrected})"


def _absent(claim: Claim, runs: Runs) -> list[recipes.Recipe]:
    """The recipes that would answer ``claim`` soonest, under the schedule that has most of its records already and is shortest."""
    wanted = [[recipes.load(name) for name in pair if not runs.get(name)] for pair in pairs(claim)]
    return min(reversed(wanted), key=len)


def answers(claims: Iterable[Claim], runs: Runs) -> str:
    """What the records say of each of ``claims``: what is measured first, then a list of what is not and which runs
    it needs; their commands stand in :func:`bnnlib.book.results.pending`. All p-values are corrected as one family."""
    claims = list(claims)
    found = {(i, epochs): one for i, claim in enumerate(claims) for epochs, one in measured(claim, runs).items()}
    p = statistics.holm({key: one.p for key, one in found.items() if one.p is not None})
    told = [_said(claims[i], epochs, one, p.get((i, epochs)), len(p)) for (i, epochs), one in found.items()]
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
