"""Effects in a factorial experiment: what each switch does, and what each pair of them does beyond that.

A *cell* is one combination of levels, one from each factor; its values are those of its seeds. Every effect
here is a *contrast*, a weighted sum of cell means, so all of them share one treatment of chance: the spread
within cells is pooled (it is taken to be the same in all), and gives each contrast a Student t interval with
as many degrees of freedom as there are runs beyond one a cell. Seeds that cells have in common are not
paired; what such seeds share cancels in a contrast, so the intervals err to the wide side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from bnnlib import recipes, statistics

Cell = tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """A contrast of cell means, in the values' unit; ``half_width`` of its interval, infinite where no cell
    has two values; ``p``: two-sided, of none, by itself (see :func:`bnnlib.statistics.holm`)."""

    value: float
    half_width: float
    p: float = 1.0

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.value) > self.half_width

    def __str__(self) -> str:
        return statistics.signed(self.value) + (f" ± {self.half_width:.2f}" if math.isfinite(self.half_width) else "")


@dataclass(frozen=True)
class Factorial:
    """``factors``: name to levels, in order. ``values``: cell to its seeds' values; a cell may be missing."""

    factors: Mapping[str, Sequence[str]]
    values: Mapping[Cell, Sequence[float]]
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level = {self.level} is impossible: give a share between 0 and 1")
        for cell in self.values:
            self._check(dict(zip(self.factors, cell, strict=False)), len(cell))

    @property
    def cells(self) -> list[Cell]:
        """Every combination of levels, the last factor changing fastest."""
        return list(itertools.product(*self.factors.values()))

    @property
    def missing(self) -> list[Cell]:
        """Cells without a value."""
        return [cell for cell in self.cells if not self.values.get(cell)]

    def complete(self, factor: str) -> tuple[str, ...]:
        """Those levels of ``factor`` of which every cell has a value; all where that is none."""
        place = self._place(factor)
        lacking = {cell[place] for cell in self.missing}
        return tuple(x for x in self.factors[factor] if x not in lacking) or tuple(self.factors[factor])

    @cached_property
    def spread(self) -> statistics.Pooled:
        """Standard deviation within a cell, pooled over cells, and its degrees of freedom: runs beyond one a cell."""
        return statistics.pooled(self.values.values())

    def contrast(self, weights: Mapping[Cell, float]) -> Estimate | None:
        """The weighted sum of cell means; None where a cell with a weight has no value."""
        used = {cell: w for cell, w in weights.items() if w}
        if any(not self.values.get(cell) for cell in used):
            return None
        value = sum(w * fmean(self.values[cell]) for cell, w in used.items())
        return self._estimate(value, sum(w * w / len(self.values[cell]) for cell, w in used.items()))

    def step_from(self, values: Sequence[float], cell: Cell) -> Estimate | None:
        """What lies between the mean of ``values``, of runs outside the experiment that are taken to spread
        as its cells do, and the mean of ``cell``; None where one of the two has no value."""
        self._check(dict(zip(self.factors, cell, strict=False)), len(cell))
        inside = self.values.get(cell)
        if not inside or not values:
            return None
        value = fmean(inside) - fmean(values)
        return self._estimate(value, 1 / len(inside) + 1 / len(values))

    def _estimate(self, value: float, variance: float) -> Estimate:
        """``value`` with its interval; ``variance``: in units of that of one run."""
        if not self.spread.freedom:
            return Estimate(value, math.inf)
        error = self.spread.sd * math.sqrt(variance)
        width = statistics.quantile(self.spread.freedom, self.level) * error
        return Estimate(value, width, statistics.p_value(value, error, self.spread.freedom))

    def planned(self, weights: Mapping[Cell, float], seeds: int, sd: float) -> float:
        """The half width to expect of a contrast if every cell had so many seeds, two or more, and their
        pooled spread came out as ``sd``."""
        if seeds < 2:
            raise ValueError(f"seeds = {seeds}: an interval takes 2 seeds a cell or more")
        if not sd >= 0:
            raise ValueError(f"a standard deviation of {sd} is impossible: give 0 or more")
        length = math.sqrt(sum(w * w for w in weights.values()) / seeds)
        return statistics.quantile(len(self.cells) * (seeds - 1), self.level) * sd * length

    def weights(
        self, changes: Mapping[str, tuple[str, str]], among: Mapping[str, Sequence[str]] | None = None
    ) -> dict[Cell, float]:
        """Of the effect of ``changes``, factor to (from, to), averaged over the levels of the other factors:
        all of them, or those that ``among`` names for a factor.

        One change: its main effect. Two: their interaction, how much larger the effect of one is once the
        other has been made (the same for both). Three: by how much the third alters that interaction.
        """
        kept = {**self.factors, **(among or {}), **changes}
        for factor, levels in kept.items():
            for chosen in levels:
                self._check({factor: chosen})
        shared = math.prod(len(levels) for name, levels in kept.items() if name not in changes)
        found = {}
        for cell in self.cells:
            here = dict(zip(self.factors, cell, strict=True))
            if all(here[factor] in levels for factor, levels in kept.items()):
                sign = math.prod(1 if here[factor] == to else -1 for factor, (_, to) in changes.items())
                found[cell] = sign / shared
        return found

    def effect(
        self, among: Mapping[str, Sequence[str]] | None = None, /, **changes: tuple[str, str]
    ) -> Estimate | None:
        """:meth:`contrast` of :meth:`weights`: ``effect(shortcut=("off", "on"))``; with a teacher alone,
        ``effect({"distillation": ["on"]}, shortcut=("off", "on"))``."""
        return self.contrast(self.weights(changes, among))

    def attribution_weights(self, start: Cell, end: Cell) -> dict[str, dict[Cell, float]]:
        """Of each factor's part in the way from ``start`` to ``end``: its step, averaged over all orders in
        which the factors can be switched (Shapley's value). The parts add up to the whole way."""
        for cell in (start, end):
            self._check(dict(zip(self.factors, cell, strict=False)), len(cell))
        moved = [i for i, (a, b) in enumerate(zip(start, end, strict=True)) if a != b]
        names = list(self.factors)
        found: dict[str, dict[Cell, float]] = {}
        for i in moved:
            weights: dict[Cell, float] = {}
            others = [j for j in moved if j != i]
            for size in range(len(others) + 1):
                share = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(moved))
                for done in itertools.combinations(others, size):
                    before = tuple(end[j] if j in done else start[j] for j in range(len(start)))
                    after = (*before[:i], end[i], *before[i + 1 :])
                    weights[after] = weights.get(after, 0.0) + share
                    weights[before] = weights.get(before, 0.0) - share
            found[names[i]] = weights
        return found

    def attribution(self, start: Cell, end: Cell) -> dict[str, Estimate | None]:
        """:meth:`contrast` of :meth:`attribution_weights`, by factor."""
        parts = self.attribution_weights(start, end)
        return {name: self.contrast(weights) for name, weights in parts.items()}

    def _place(self, factor: str) -> int:
        """Where in a cell the level of ``factor`` stands."""
        if factor not in self.factors:
            raise ValueError(f"no factor {factor!r}: there are {', '.join(self.factors)}")
        return list(self.factors).index(factor)

    def _check(self, levels: Mapping[str, str], count: int | None = None) -> None:
        if count is not None and count != len(self.factors):
            raise ValueError(f"a cell has {count} levels, there are {len(self.factors)} factors")
        for factor, level in levels.items():
            self._place(factor)
            if level not in self.factors[factor]:
                known = ", ".join(self.factors[factor])
                raise ValueError(f"factor {factor!r} has no level {level!r}: it has {known}")


# ------------------------------------------------------------------------------------- the ablation of S2

S2_FACTORS: dict[str, tuple[str, ...]] = {
    "shortcut": ("off", "on"),
    "distillation": ("off", "on"),
    "scale": ("mean|W|", "1", "learned"),
}
S2_EPOCHS = (20, 3)  # as S2 trains, and a schedule for a CPU


def s2_cells(epochs: int = S2_EPOCHS[0]) -> dict[Cell, str]:
    """The recipe of each cell of the ablation between S1's net and S2's student, by its levels, on the
    schedule of so many ``epochs``, one of ``S2_EPOCHS``."""
    if epochs not in S2_EPOCHS:
        known = " or ".join(map(str, S2_EPOCHS))
        raise ValueError(f"no ablation of {epochs} epochs: its cells are trained for {known}")
    found: dict[Cell, str] = {}
    for recipe in map(recipes.load, recipes.names()):
        if recipe.factors.keys() != S2_FACTORS.keys() or recipe.epochs != epochs:
            continue
        cell = tuple(recipe.factors[factor] for factor in S2_FACTORS)
        if cell in found:
            raise recipes.RecipeError(
                f"{recipe.name} and {found[cell]} are the same cell of the ablation, {cell}, of {epochs} epochs: "
                "leave 'factors' out of one of them"
            )
        found[cell] = recipe.name
    return {cell: found[cell] for cell in itertools.product(*S2_FACTORS.values()) if cell in found}


def s2_parts() -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Main effects and two-way interactions that the chapter shows, each with what it is called."""
    steps = {
        "shortcut": ("off", "on"),
        "distillation": ("off", "on"),
        "scale mean|W| → 1": ("mean|W|", "1"),
        "scale 1 → learned": ("1", "learned"),
    }
    factor = {name: name.split()[0] for name in steps}
    for name, step in steps.items():
        yield name, {factor[name]: step}
    for one, other in itertools.combinations(steps, 2):
        if factor[one] != factor[other]:
            yield f"{one} × {other}", {factor[one]: steps[one], factor[other]: steps[other]}
