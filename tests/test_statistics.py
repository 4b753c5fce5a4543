"""Means, predictions and differences against SciPy, tables and simulation: intervals hold the truth as often as they say."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from bnnlib import statistics
from bnnlib.statistics import (
    Spread,
    detectable,
    difference,
    half_width,
    holm,
    pooled,
    prediction,
    seed_effect,
)

TRIALS = 10_000
NEAR = 0.01  # of the nominal coverage


def by_seed(values):
    return dict(enumerate(map(float, values)))


def test_half_width_of_a_table():
    """Student's t for 4 degrees of freedom at 95 % is 2.776 in every textbook; 1, 2, 3, 4, 5 has variance 2.5."""
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert half_width([7.0]) == half_width([]) == math.inf


def test_a_spread_of_one_value_has_no_deviation():
    assert str(Spread.of([70.0])) == "70.00" and Spread.of([70.0]).sd is None
    assert str(Spread.of([70.0, 71.0])) == "70.50 ± 0.71"
    assert (Spread.of([2.0, 1.0, 4.0]).low, Spread.of([2.0, 1.0, 4.0]).high, Spread.of([2.0, 1.0, 4.0]).n) == (1.0, 4.0, 3)
    with pytest.raises(ValueError, match="one run or more"):
        Spread.of([])


def test_pooled_is_the_deviation_of_an_analysis_of_variance():
    draw = np.random.default_rng(0)
    groups = [draw.normal(i, 2, n) for i, n in enumerate((2, 3, 7))]
    squares = sum(((g - g.mean()) ** 2).sum() for g in groups)
    found = pooled([*groups, [5.0]])
    assert (found.sd, found.freedom) == (pytest.approx(math.sqrt(squares / 9)), 9)
    assert math.isnan(pooled([[1.0]]).sd) and pooled([]).freedom == 0


# -------------------------------------------------------------------------------------------------- one more run


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_mean_is_within_its_interval_as_often_as_it_says(n):
    draw = np.random.default_rng(n)
    hit = sum(abs(v.mean()) <= half_width(v.tolist()) for v in draw.normal(0, 0.7, (TRIALS, n)))
    assert hit / TRIALS == pytest.approx(0.95, abs=NEAR)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("others", [0, 6], ids=["alone", "family"])
def test_one_more_run_lies_in_its_interval_as_often_as_it_says(n, others):
    draw, hit, said = np.random.default_rng(10 * n + others), 0, 0
    for _ in range(TRIALS):
        values, figure = draw.normal(80, 0.4, n).tolist(), draw.normal(80, 0.4)
        family = pooled([values, *draw.normal(70, 0.4, (others, 2)).tolist()])
        found = prediction(values, figure, family)
        hit += abs(figure - found.mean) <= found.half_width
        said += found.p >= 0.05
    assert hit / TRIALS == pytest.approx(0.95, abs=NEAR) and said == hit


def test_the_smallest_and_largest_run_hold_one_more_with_the_chance_that_the_module_says():
    draw = np.random.default_rng(1).normal(0, 1, (40_000, 3))
    inside = (draw[:, 2] >= draw[:, :2].min(1)) & (draw[:, 2] <= draw[:, :2].max(1))
    assert inside.mean() == pytest.approx(1 / 3, abs=NEAR)


def test_one_run_gives_no_verdict():
    assert prediction([70.0], 99.0) is None and prediction([], 99.0) is None
    assert difference({0: 70.0}, {0: 50.0, 1: 51.0}) is None
    assert difference({}, {}) is None


def test_a_prediction_by_hand():
    found = prediction([1.0, 2.0, 3.0], 5.0)
    error = math.sqrt(1 + 1 / 3)
    assert (found.mean, found.freedom, found.n) == (2.0, 2, 3)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(3 / error, 2))
    assert prediction([1.0, 2.0]).p is None
    assert prediction([1.0, 1.0], 1.0).p == 1.0 and prediction([1.0, 1.0], 1.1).p == 0.0


# --------------------------------------------------------------------------------------------------- differences


def test_without_a_family_it_is_scipys_test_of_welch():
    draw = np.random.default_rng(0)
    a, b = draw.normal(1, 2, 7), draw.normal(0, 1, 4)
    found, expected = difference(by_seed(a), by_seed(b)), stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.p, found.freedom) == (pytest.approx(expected.pvalue), pytest.approx(expected.df))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval))
    assert (found.n, found.paired, found.values) == ((7, 4), False, (pytest.approx(a.mean()), pytest.approx(b.mean())))
    assert str(found) == f"{found.mean:+.2f} ± {found.half_width:.2f}"


@pytest.mark.parametrize("ratio", [1, 2, 5])
@pytest.mark.parametrize("n", [5, 10])
def test_a_difference_of_two_lies_in_its_interval_as_often_as_it_says(n, ratio):
    draw = np.random.default_rng(n + ratio)
    a, b = draw.normal(1, 0.3, (TRIALS, n)), draw.normal(0, 0.3 * ratio, (TRIALS, n))
    found = [difference(by_seed(x), by_seed(y)) for x, y in zip(a, b, strict=True)]
    assert np.mean([abs(d.mean - 1) <= d.half_width for d in found]) == pytest.approx(0.95, abs=NEAR)


@pytest.mark.parametrize("n", [2, 3])
def test_a_difference_of_two_with_few_runs_errs_to_the_wide_side(n):
    draw = np.random.default_rng(n)
    a, b = draw.normal(1, 0.3, (TRIALS, n)), draw.normal(0, 0.3, (TRIALS, n))
    found = [difference(by_seed(x), by_seed(y)) for x, y in zip(a, b, strict=True)]
    assert 0.95 - NEAR < np.mean([abs(d.mean - 1) <= d.half_width for d in found]) < 0.99


def family(draw, recipes, seeds, correlation):
    """Runs of each recipe by seed, with a deviation of 1 and this correlation of runs that share a seed."""
    shared = draw.normal(0, math.sqrt(correlation), seeds)
    own = draw.normal(0, math.sqrt(1 - correlation), (recipes, seeds))
    return {k: by_seed(k + shared + row) for k, row in enumerate(own)}


@pytest.mark.parametrize(("recipes", "seeds", "correlation"), [(5, 5, 0.0), (6, 10, 0.0), (5, 5, 0.9), (6, 10, 0.5), (9, 2, 0.0)])
def test_a_difference_within_a_family_lies_in_its_interval_as_often_as_it_says(recipes, seeds, correlation):
    draw, hit = np.random.default_rng(recipes * seeds), 0
    for _ in range(TRIALS):
        runs = family(draw, recipes, seeds, correlation)
        found = difference(runs[1], runs[0], runs)
        hit += abs(found.mean - 1) <= found.half_width
    assert hit / TRIALS == pytest.approx(0.95, abs=NEAR)


def test_runs_are_paired_where_the_family_shows_that_a_seed_makes_them_alike():
    draw = np.random.default_rng(3)
    alike, apart = family(draw, 5, 6, 0.95), family(draw, 5, 6, 0.0)
    found = difference(alike[3], alike[0], alike)
    effect = seed_effect(alike)
    assert found.paired and effect.correlation > 0.8 and effect.p < 0.01
    assert found.freedom == 4 * 5 and found.error == pytest.approx(effect.error * math.sqrt(2 / 6))
    unpaired = difference(apart[3], apart[0], apart)
    spread = pooled([list(r.values()) for r in apart.values()])
    assert not unpaired.paired and unpaired.freedom == 5 * 5
    assert unpaired.error == pytest.approx(spread.sd * math.sqrt(2 / 6))


def test_the_seeds_effect_is_that_of_a_two_way_analysis_of_variance():
    pandas = pytest.importorskip("pandas")
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    runs = family(np.random.default_rng(5), 4, 6, 0.4)
    rows = [(k, s, v) for k, by in runs.items() for s, v in by.items()]
    table = pandas.DataFrame(rows, columns=["recipe", "seed", "value"])
    expected = anova_lm(ols("value ~ C(recipe) + C(seed)", table).fit())
    found = seed_effect({**runs, "one run": {0: 5.0}})
    assert found.p == pytest.approx(expected.loc["C(seed)", "PR(>F)"])
    assert found.error**2 == pytest.approx(expected.loc["Residual", "mean_sq"])
    assert found.freedom == expected.loc["Residual", "df"]
    assert found.seeds == tuple(range(6))


def test_pairs_go_by_seed_and_not_by_order():
    runs = {k: {s: 10.0 * s + k + 0.01 * ((s * k) % 3) for s in order} for k, order in enumerate(([0, 1, 2], [2, 1, 0], [1, 0, 2]))}
    found = difference(runs[1], runs[0], runs)
    assert found.paired and found.mean == pytest.approx(1.01)


def test_families_too_small_for_an_effect_of_the_seeds():
    assert seed_effect({}) is None and seed_effect({"a": {0: 1.0, 1: 2.0}}) is None
    assert seed_effect({"a": {0: 1.0, 1: 2.0}, "b": {1: 1.0, 2: 2.0}}) is None
    same = {k: {0: 1.0, 1: 1.0} for k in "abc"}
    assert seed_effect(same).p == 1.0 and difference(same["a"], same["b"], same).p == 1.0


def test_a_family_without_a_common_seed_is_not_paired_but_lends_its_deviation():
    runs = {k: {2 * k: float(k), 2 * k + 1: k + 1.0} for k in range(3)}
    found = difference(runs[2], runs[0], runs)
    assert not found.paired and found.freedom == 3 and found.mean == 2.0
    assert found.error == pytest.approx(math.sqrt(0.5))  # variance 1/2 of each run, two runs a side


def test_the_images_alone():
    """Against draws of test sets for two nets that are right on 30 and 25 % of images."""
    draw = np.random.default_rng(0)
    simulated = 100 * (draw.binomial(10_000, 0.3, 100_000) - draw.binomial(10_000, 0.25, 100_000)) / 10_000
    low, high = np.quantile(simulated, [0.025, 0.975])
    found = statistics.of_images(30.0, 25.0, 10_000)
    assert found == pytest.approx((high - low) / 2, rel=0.01)
    z = (3000 / 10_000 * 0.7 + 2500 / 10_000 * 0.75) / 10_000
    assert found == pytest.approx(100 * stats.norm.ppf(0.975) * math.sqrt(z))


# --------------------------------------------------------------------------------------------------------- power


@pytest.mark.parametrize(("n", "power"), [(3, 0.8), (5, 0.8), (5, 0.5), (12, 0.9)])
def test_a_detectable_difference_is_found_that_often(n, power):
    draw, sd, trials = np.random.default_rng(n), 0.7, 40_000
    samples = draw.normal(detectable(sd / math.sqrt(n), n - 1, power=power), sd, (trials, n))
    found = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / trials))


def test_more_seeds_find_smaller_differences():
    sizes = [detectable(1 / math.sqrt(n), n - 1) for n in (2, 3, 5, 10, 100)]
    assert sizes == sorted(sizes, reverse=True)
    assert detectable(1.0, 0) == math.inf > detectable(1.0, 1)
    assert detectable(0.0, 4) == 0.0
    assert detectable(1.0, 4, level=0.5, power=0.3) == 0.0  # found as often as that by chance alone


@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.5, 0.55)])
def test_a_detectable_difference_is_that_of_the_noncentral_t(level, power):
    bar, shift = stats.t.ppf((1 + level) / 2, 60), detectable(1.0, 60, level, power)
    assert stats.nct.sf(bar, 60, shift) + stats.nct.cdf(-bar, 60, shift) == pytest.approx(power, abs=1e-4)


def test_the_smallest_p_that_is_told():
    assert [statistics.p_in_words(p) for p in (0.001, 0.0012, 0.00099)] == ["p = 0.001", "p = 0.0012", "p < 0.001"]


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(2).random(12).tolist()
    assert list(holm(dict(enumerate(p))).values()) == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_holm_keeps_the_chance_of_a_false_finding_in_a_family():
    p = np.random.default_rng(7).random((2000, 9))
    false = [min(holm(dict(enumerate(row))).values()) < 0.05 for row in p.tolist()]
    assert np.mean(false) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 2000))


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.quantile(4, level=95),
        lambda: statistics.quantile(4, level=0.0),
        lambda: detectable(1.0, 4, level=1.0),
    ],
)
def test_a_level_that_is_no_share_is_named(call):
    with pytest.raises(ValueError, match=re.escape("level = ")):
        call()


def test_a_power_that_is_no_share_is_named():
    with pytest.raises(ValueError, match=re.escape("power = 80 is impossible")):
        detectable(1.0, 4, power=80)


def test_paired_by_image_one_run_each_is_mcnemars_test():
    from statsmodels.stats.contingency_tables import mcnemar

    images, both = 10_000, range(200)
    first, second = [*both, *range(1000, 1060)], [*both, *range(2000, 2100)]
    found = statistics.by_image([first], [second], images)
    assert found.values == (pytest.approx(97.4), pytest.approx(97.0)) and found.mean == pytest.approx(0.4)
    assert found.paired and found.n == (1, 1)
    table = [[images - 360, 100], [60, 200]]
    assert found.p == pytest.approx(mcnemar(table, exact=False, correction=False).pvalue, rel=0.02)
    assert found.half_width == pytest.approx(1.96 * 100 * np.sqrt(160 - 40**2 / images) / images, rel=1e-3)


def test_paired_by_image_several_runs_are_one_value_an_image():
    random = np.random.default_rng(0)
    right = random.random((2, 3, 500)) > 0.1
    found = statistics.by_image(*[[np.flatnonzero(~run).tolist() for run in side] for side in right], 500)
    values = 100 * (right[0].mean(0) - right[1].mean(0))
    assert found.mean == pytest.approx(values.mean()) and found.error == pytest.approx(values.std(ddof=1) / np.sqrt(500))
    with pytest.raises(ValueError, match="no runs"):
        statistics.by_image([], [[1]], 500)
    with pytest.raises(IndexError):
        statistics.by_image([[500]], [[1]], 500)
