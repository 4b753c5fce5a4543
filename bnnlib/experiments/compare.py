"""Compare two ways of training by what their seeds gave: intervals, paired differences, power.

Runs of the same seed share their initial weights and the order of their images, so differences are taken seed
by seed. With few seeds "no difference" says little by itself: :func:`detectable` tells how large a true
difference would have had to be to be noticed. All of it is Student's t; the spread is over seeds, for the one
test set that all of them share.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def half_width(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the t interval for the mean of ``values``; infinite for fewer than two of them."""
    _share("level", level)
    if len(values) < 2:
        return math.inf
    from scipy import special

    n = len(values)
    return float(special.stdtrit(n - 1, (1 + level) / 2)) * statistics.stdev(values) / math.sqrt(n)


def detectable(sd: float, n: int, level: float = 0.95, power: float = 0.8) -> float:
    """The true mean difference that a two-sided paired t test finds with probability ``power``.

    ``sd``: standard deviation of the differences (in practice its estimate); ``n``: number of pairs;
    ``level``: one less the test's chance of a false finding. Infinite for fewer than two pairs.
    """
    _share("level", level)
    _share("power", power)
    if n < 2:
        return math.inf
    import numpy as np
    from scipy import optimize, special

    # What the estimate of sd may be, as a multiple of the true one: its quantiles. (SciPy's noncentral t
    # gives NaN far out.)
    estimates = np.sqrt(special.chdtri(n - 1, (np.arange(4000) + 0.5) / 4000) / (n - 1))
    bars = special.stdtrit(n - 1, (1 + level) / 2) * estimates

    def found(shift: float) -> float:
        """Probability of a finding less ``power``, for a true difference of ``shift`` standard errors."""
        return float(np.mean(special.ndtr(shift - bars) + special.ndtr(-shift - bars))) - power

    if found(0.0) >= 0:
        return 0.0
    high = 1.0
    while found(high) < 0:
        high *= 2
    return float(optimize.brentq(found, 0.0, high, xtol=1e-6)) * sd / math.sqrt(n)


@dataclass(frozen=True)
class Paired:
    """First way less second over the ``n`` seeds that both have; ``mean``, ``sd`` in the values' unit.

    ``half_width``: of the interval for the mean. ``p``: two-sided, of no difference. ``detectable``: see
    :func:`detectable`.
    """

    mean: float
    sd: float
    half_width: float
    p: float
    detectable: float
    n: int


def paired(
    first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95, power: float = 0.8
) -> Paired | None:
    """Compare values by seed; None where the two have fewer than two seeds in common."""
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2:
        return None
    from scipy import special

    d = [first[s] - second[s] for s in seeds]
    n, mean, sd = len(d), statistics.fmean(d), statistics.stdev(d)
    if sd > 0:
        p = 2 * float(special.stdtr(n - 1, -abs(mean) / (sd / math.sqrt(n))))
    else:
        p = 1.0 if mean == 0 else 0.0
    return Paired(mean, sd, half_width(d, level), p, detectable(sd, n, level, power), n)


def holm(p: Sequence[float]) -> list[float]:
    """The p values of several tests, in their order, adjusted by Holm's method for being several.

    Taken at 0.05, the adjusted ones give a false finding, one or more, in 5 % of such families of tests.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def _share(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{what} = {value} is impossible: give a share between 0 and 1, such as 0.95")
