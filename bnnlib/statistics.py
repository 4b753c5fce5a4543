"""What the runs of some seeds say: means, predictions, differences, and corrections for many tests.

One rule serves every chapter and table:

* A mean has Student's t interval (:func:`half_width`).
* A published figure is one run. It is compared with the interval in which one more run of ours would lie
  (:func:`prediction`), not with the smallest and largest of our runs: those hold one more run with probability
  (n - 1) / (n + 1) only, a third for two runs.
* Two recipes are compared by :func:`difference`. Runs of one seed share their initial weights and the order of their
  images. They are paired where the runs of the whole family show that this makes them alike (:func:`seed_effect`,
  p < 0.05), and not otherwise, since pairing without need costs degrees of freedom.
* A family of recipes that are taken to spread alike lends its pooled deviation (:func:`pooled`) to each member.
* One run has no spread: no interval and no verdict.
* Several tests of one question are adjusted by Holm's method (:func:`holm`).

All spreads are over seeds, for the one test set that all runs share, but for :func:`of_images` and :func:`by_image`. Values are in
one unit, such as per cent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev, variance
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Seeds = Mapping[int, float]  # the value of each seed

LEVEL = 0.95
PAIRED_BELOW = 0.05  # p of the seeds' effect in a family


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (None for one value), smallest, largest and number of some values."""

    mean: float
    sd: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value or more. Raises ``ValueError`` for none."""
        values = list(values)
        if not values:
            raise ValueError("no values: a mean takes one run or more")
        sd = stdev(values) if len(values) > 1 else None
        return cls(fmean(values), sd, min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


def quantile(freedom: int, level: float = LEVEL) -> float:
    """By how many standard errors a two-sided t interval reaches to each side; infinite without a degree of freedom."""
    _share("level", level)
    from scipy import special

    return float(special.stdtrit(freedom, (1 + level) / 2)) if freedom > 0 else math.inf


def half_width(values: Sequence[float]) -> float:
    """Half the width of the t interval for the mean of ``values``; infinite for fewer than two of them."""
    if len(values) < 2:
        return math.inf
    return quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Pooled:
    """A standard deviation that several groups share, and its degrees of freedom. Without one, ``sd`` is NaN."""

    sd: float
    freedom: int


def pooled(groups: Iterable[Sequence[float]]) -> Pooled:
    """The deviation within groups that are taken to spread alike; groups of one value add nothing."""
    groups = [list(group) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((len(group) - 1) * variance(group) for group in groups)
    return Pooled(math.sqrt(squares / freedom) if freedom else math.nan, freedom)


@dataclass(frozen=True)
class Prediction:
    """Where one more run would lie: ``mean`` ± ``half_width``; from ``n`` runs and a deviation with ``freedom`` degrees
    of freedom. ``p``: two-sided, of a run as far from the mean as the figure or farther, None without a figure."""

    mean: float
    half_width: float
    n: int
    freedom: int
    p: float | None = None


def prediction(values: Sequence[float], figure: float | None = None, spread: Pooled | None = None) -> Prediction | None:
    """The interval for one more run like ``values``, and how well ``figure`` fits into it.

    ``spread``: the pooled deviation of the family, these values among them; by default of the values alone. None for
    fewer than two values: one run gives no verdict.
    """
    if len(values) < 2:
        return None
    spread = spread or pooled([values])
    n, mean = len(values), fmean(values)
    error = spread.sd * math.sqrt(1 + 1 / n)
    p = None if figure is None else p_value(figure - mean, error, spread.freedom)
    return Prediction(mean, quantile(spread.freedom) * error, n, spread.freedom, p)


def detectable(error: float, freedom: int, level: float = LEVEL, power: float = 0.8) -> float:
    """The true difference that a two-sided t test finds with probability ``power``.

    ``error``: standard error of the estimated difference (in practice its estimate), with ``freedom`` degrees of
    freedom; ``level``: one less the test's chance of a false finding. Infinite without a degree of freedom.
    """
    _share("level", level)
    _share("power", power)
    if freedom < 1:
        return math.inf
    import numpy as np
    from scipy import optimize, special

    # What the estimate may be, as a multiple of the true error: its quantiles. (The noncentral t of SciPy, which
    # statsmodels uses too, gives NaN or wrong roots for two or three runs.)
    estimates = np.sqrt(special.chdtri(freedom, (np.arange(4000) + 0.5) / 4000) / freedom)
    bars = quantile(freedom, level) * estimates

    def found(shift: float) -> float:
        """Probability of a finding less ``power``, for a true difference of ``shift`` standard errors."""
        return float(np.mean(special.ndtr(shift - bars) + special.ndtr(-shift - bars))) - power

    if found(0.0) >= 0:
        return 0.0
    high = 1.0
    while found(high) < 0:
        high *= 2
    return float(optimize.brentq(found, 0.0, high, xtol=1e-6)) * error


@dataclass(frozen=True)
class Difference:
    """First less second. ``half_width``: of the interval for the true difference; ``p``: two-sided, of none;
    ``error``: the standard error, with ``freedom`` degrees of freedom; ``n``: runs of each side that were used;
    ``values``: their means; ``paired``: whether by seed (or, of :func:`by_image`, by image)."""

    mean: float
    half_width: float
    p: float
    error: float
    freedom: float
    n: tuple[int, int]
    values: tuple[float, float]
    paired: bool

    def detectable(self, level: float = LEVEL, power: float = 0.8) -> float:
        """See :func:`detectable`; a fraction of a degree of freedom (Welch's) is left out."""
        return detectable(self.error, int(self.freedom), level, power)

    def __str__(self) -> str:
        return f"{signed(self.mean)} ± {self.half_width:.2f}"


@dataclass(frozen=True)
class SeedEffect:
    """How alike runs of one seed are over several recipes: ``correlation`` (intraclass; of two runs that share their
    seed), ``p`` of the F test that it is none; ``error``: deviation that is left in a run once recipe and seed are
    taken out, with ``freedom`` degrees of freedom; ``seeds``: those that all recipes have."""

    correlation: float
    p: float
    error: float
    freedom: int
    seeds: tuple[int, ...]


def seed_effect(family: Mapping[Name, Seeds]) -> SeedEffect | None:
    """Two-way analysis of variance, recipe and seed, over the seeds that all recipes of ``family`` with two runs or
    more have in common. None for fewer than two such recipes or seeds."""
    groups = [dict(runs) for runs in family.values() if len(runs) > 1]
    seeds = sorted(set.intersection(*(set(g) for g in groups))) if groups else []
    if len(groups) < 2 or len(seeds) < 2:
        return None
    import numpy as np
    from scipy import special

    table = np.array([[g[s] for s in seeds] for g in groups])  # (recipes, seeds)
    k, n = table.shape
    left = table - table.mean(axis=1, keepdims=True)
    by_seed = left.mean(axis=0)
    freedom = (k - 1) * (n - 1)
    between = k * float((by_seed**2).sum()) / (n - 1)
    within = float(((left - by_seed) ** 2).sum()) / freedom
    if between + within == 0:
        return SeedEffect(0.0, 1.0, 0.0, freedom, tuple(seeds))
    correlation = (between - within) / (between + (k - 1) * within)
    p = float(special.fdtrc(n - 1, freedom, between / within)) if within else 0.0
    return SeedEffect(correlation, p, math.sqrt(within), freedom, tuple(seeds))


def difference(first: Seeds, second: Seeds, family: Mapping[Name, Seeds] | None = None) -> Difference | None:
    """Compare two recipes by the values of their seeds; None where one of them has fewer than two runs.

    ``family``: recipes that are taken to spread alike, these two among them. It decides whether runs are paired (the
    module says how), and its pooled deviation is that of each run. Without a family, or with one of these two alone,
    the two are not paired and may spread differently: Welch's test.
    """
    if min(len(first), len(second)) < 2:
        return None
    a, b = list(first.values()), list(second.values())
    if family is not None and len(family) > 2:
        seeds = seed_effect(family)
        common = sorted(first.keys() & second.keys() & set(seeds.seeds)) if seeds else []
        if seeds and seeds.p < PAIRED_BELOW and len(common) > 1:
            a, b = [first[s] for s in common], [second[s] for s in common]
            return _difference(a, b, seeds.error * math.sqrt(2 / len(common)), seeds.freedom, True)
        spread = pooled([list(runs.values()) for runs in family.values()])
        error = spread.sd * math.sqrt(1 / len(first) + 1 / len(second))
        return _difference(a, b, error, spread.freedom, False)
    parts = [variance(v) / len(v) for v in (a, b)]
    total = sum(parts)
    freedom = total**2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (a, b), strict=True)) if total else 1.0
    return _difference(a, b, math.sqrt(total), freedom, False)


def _difference(a: Sequence[float], b: Sequence[float], error: float, freedom: float, paired: bool) -> Difference:
    """Of the means of ``a`` and ``b``."""
    values = fmean(a), fmean(b)
    mean = values[0] - values[1]
    width, p = quantile(freedom) * error, p_value(mean, error, freedom)
    return Difference(mean, width, p, error, freedom, (len(a), len(b)), values, paired)


def of_images(first: float, second: float, images: int) -> float:
    """Half the width of the interval for a difference of two accuracies in per cent, each of one run on ``images`` test
    images: what another choice of images would do, as if the two runs' errors were independent of each other. What
    another seed would do is not in it."""
    error = math.sqrt(sum(value * (100 - value) for value in (first, second)) / images)
    return NormalDist().inv_cdf((1 + LEVEL) / 2) * error


def by_image(first: Sequence[Collection[int]], second: Sequence[Collection[int]], images: int) -> Difference:
    """Compare two recipes on the same ``images`` test images by which of them each run got wrong, one collection of image
    numbers a run: the interval is what another choice of images would do to these very runs. Accuracies in per cent.

    An image's value is the share of runs that got it right, of the first recipe less of the second. The values of all
    images are a sample, and the interval is their mean's. For one run each, p is McNemar's to a part in the number of images.
    """
    import numpy as np

    def right(runs: Sequence[Collection[int]]) -> np.ndarray:
        """(runs, images): 100 where an image is right, 0 where it is wrong."""
        if not runs:
            raise ValueError("no runs to compare: each side takes one or more")
        found = np.full((len(runs), images), 100.0)
        for row, wrong in zip(found, runs, strict=True):
            row[sorted(wrong)] = 0  # an image number beyond the last one raises IndexError
        return found

    a, b = right(first), right(second)
    error = float(np.std(a.mean(0) - b.mean(0), ddof=1)) / math.sqrt(images)
    return _difference(a.mean(1).tolist(), b.mean(1).tolist(), error, images - 1, True)


def holm(p: Mapping[Name, float]) -> dict[Name, float]:
    """The p values of several tests, by name, adjusted by Holm's method for being several.

    Taken at 0.05, the adjusted ones give a false finding, one or more, in at most 5 % of such families of tests.
    """
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def p_value(apart: float, error: float, freedom: float) -> float:
    """Two-sided, of a true difference of zero, for an estimate with this standard error: certain without any spread."""
    if not error > 0:
        return 1.0 if apart == 0 else 0.0
    from scipy import special

    return 2 * float(special.stdtr(freedom, -abs(apart) / error))


def p_in_words(p: float, named: bool = True) -> str:
    """``named``: with its letter; a column of a table has that at its head.

    >>> p_in_words(0.0312), p_in_words(0.0004), p_in_words(0.0312, named=False)
    ('p = 0.031', 'p < 0.001', '0.031')
    """
    told = f"= {p:.2g}" if p >= 0.001 else "< 0.001"
    return f"p {told}" if named else told.removeprefix("= ")


def signed(value: float, digits: int = 2) -> str:
    """A difference, with its sign.

    >>> signed(0.314), signed(-1.27, 1)
    ('+0.31', '−1.3')
    """
    return f"{value:+,.{digits}f}".replace("-", "−")


def _share(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{what} = {value} is impossible: give a share between 0 and 1, such as 0.95")
