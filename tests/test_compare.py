"""Intervals and power against tables, simulation and SciPy's own tests."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from bnnlib.experiments.compare import detectable, half_width, holm, paired


def test_half_width_of_a_table():
    """Student's t for 4 degrees of freedom at 95 % is 2.776 in every textbook; 1, 2, 3, 4, 5 has variance
    2.5.
    """
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert half_width([7.0]) == half_width([]) == math.inf


def test_paired_is_scipys_paired_test():
    draw = np.random.default_rng(0)
    a, b = draw.normal(1, 2, 7), draw.normal(0, 1, 7)
    found = paired(dict(enumerate(a)), dict(enumerate(b)) | {99: 5.0})
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (found.n, found.p, found.mean) == (
        7,
        pytest.approx(expected.pvalue),
        pytest.approx((a - b).mean()),
    )
    assert found.mean - found.half_width == pytest.approx(interval.low)
    assert found.mean + found.half_width == pytest.approx(interval.high)


def test_pairs_go_by_seed_and_not_by_order():
    assert paired({0: 1.0, 1: 5.0, 2: 9.5}, {2: 9.0, 1: 5.0, 0: 1.0}).mean == pytest.approx(0.5 / 3)


def test_too_few_seeds_in_common_is_no_comparison():
    assert paired({0: 1.0, 1: 2.0}, {1: 1.0, 2: 3.0}) is None
    assert paired({}, {}) is None


def test_runs_that_agree_exactly():
    same = {0: 1.0, 1: 2.0}
    assert (paired(same, same).p, paired(same, same).half_width) == (1.0, 0.0)
    assert paired({0: 2.0, 1: 3.0}, same).p == 0.0


@pytest.mark.parametrize(("n", "power"), [(3, 0.8), (5, 0.8), (5, 0.5), (12, 0.9)])
def test_a_detectable_difference_is_found_that_often(n, power):
    draw, sd, trials = np.random.default_rng(n), 0.7, 40_000
    samples = draw.normal(detectable(sd, n, power=power), sd, (trials, n))
    found = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / trials))


def test_more_seeds_find_smaller_differences():
    sizes = [detectable(1.0, n) for n in (2, 3, 5, 10, 100)]
    assert sizes == sorted(sizes, reverse=True)
    assert detectable(1.0, 1) == math.inf
    assert detectable(0.0, 5) == 0.0
    assert detectable(1.0, 5, level=0.5, power=0.3) == 0.0  # found as often as that by chance alone


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    "call", [lambda: half_width([1, 2], level=95), lambda: detectable(1.0, 5, level=1.0)]
)
def test_a_level_that_is_no_share_is_named(call):
    with pytest.raises(ValueError, match=re.escape("level = ")):
        call()


def test_a_power_that_is_no_share_is_named():
    with pytest.raises(ValueError, match=re.escape("power = 80 is impossible")):
        detectable(1.0, 5, power=80)
