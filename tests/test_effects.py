"""Effects against a least-squares fit, against brute force, and the cells of the ablation."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from bnnlib import recipes
from bnnlib.book.studies import effects
from bnnlib.book.studies.effects import Factorial

FACTORS = {"a": ("0", "1"), "b": ("0", "1"), "c": ("x", "y", "z")}
CELLS = list(itertools.product(*FACTORS.values()))


def draw(seeds=2, rng=0, sizes=None):
    """Values with main effects, interactions and noise."""
    random = np.random.default_rng(rng)
    return {
        cell: list(70 + random.normal(0, 3) + random.normal(0, 0.5, sizes[i] if sizes else seeds))
        for i, cell in enumerate(CELLS)
    }


def fit(values, level=0.95):
    """The saturated model by ordinary least squares, factors a and b coded -1/2, 1/2, c by deviations from
    its mean: coefficient and interval of a, of b, and of a x b, which are the averaged effects."""
    rows, y = [], []
    for cell, found in values.items():
        a, b = (float(v) - 0.5 for v in cell[:2])
        c = {"x": (1, 0), "y": (0, 1), "z": (-1, -1)}[cell[2]]
        rows += [np.kron(np.kron([1, a], [1, b]), [1, *c])] * len(found)
        y += found
    X, y = np.array(rows), np.array(y)
    beta, residual, rank, _ = np.linalg.lstsq(X, y, rcond=None)
    assert rank == 12
    freedom = len(y) - rank
    variance = residual[0] / freedom * np.linalg.inv(X.T @ X)
    half = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(np.diag(variance))
    at = {"b": 3, "a": 6, "ab": 9}
    return {name: (beta[i], half[i]) for name, i in at.items()}


@pytest.mark.parametrize("sizes", [None, [2, 1, 3, 2, 2, 1, 1, 4, 2, 3, 2, 2]], ids=["two seeds", "uneven"])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_against_least_squares(sizes, level):
    values = draw(sizes=sizes)
    found, expected = Factorial(FACTORS, values, level), fit(values, level)
    for name, changes in {
        "a": {"a": ("0", "1")},
        "b": {"b": ("0", "1")},
        "ab": {"a": ("0", "1"), "b": ("0", "1")},
    }.items():
        estimate = found.effect(**changes)
        assert (estimate.value, estimate.half_width) == pytest.approx(expected[name]), name


def test_effects_of_a_factor_with_three_levels_by_brute_force():
    values = draw(3, rng=1)
    mean = {cell: statistics.fmean(v) for cell, v in values.items()}
    found = Factorial(FACTORS, values)
    rest = list(itertools.product("01", "01"))
    main = statistics.fmean(mean[(*r, "z")] - mean[(*r, "y")] for r in rest)
    assert found.effect(c=("y", "z")).value == pytest.approx(main)
    pair = statistics.fmean(
        (mean["1", b, "z"] - mean["0", b, "z"]) - (mean["1", b, "x"] - mean["0", b, "x"]) for b in "01"
    )
    assert found.effect(a=("0", "1"), c=("x", "z")).value == pytest.approx(pair)
    three = [(mean["1", b, "y"] - mean["0", b, "y"]) - (mean["1", b, "x"] - mean["0", b, "x"]) for b in "01"]
    assert found.effect(a=("0", "1"), b=("0", "1"), c=("x", "y")).value == pytest.approx(three[1] - three[0])


def test_a_step_from_runs_outside_the_experiment():
    """Its spread is the cells' own, pooled by analysis of variance; what the runs outside scatter plays no
    part."""
    values, outside, cell = draw(3, rng=3), [64.0, 70.0], ("1", "0", "y")
    values[cell] = values[cell][:2]
    found = Factorial(FACTORS, values).step_from(outside, cell)
    within = [v - statistics.fmean(group) for group in values.values() for v in group]
    freedom = len(within) - len(values)
    variance = sum(v * v for v in within) / freedom * (1 / 2 + 1 / 2)
    assert found.value == pytest.approx(statistics.fmean(values[cell]) - 67)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(variance))
    single = Factorial(FACTORS, {cell: [71.0]})
    assert single.step_from([70.0], cell) == effects.Estimate(1.0, math.inf)
    assert single.step_from([], cell) is None
    assert single.step_from([70.0], CELLS[0]) is None
    with pytest.raises(ValueError, match="factor 'a' has no level '2'"):
        single.step_from([70.0], ("2", "0", "x"))


def test_attribution_is_the_average_over_all_orders():
    values = draw(2, rng=2)
    mean = {cell: statistics.fmean(v) for cell, v in values.items()}
    start, end = ("0", "0", "x"), ("1", "1", "z")
    steps = {0: [], 1: [], 2: []}
    for order in itertools.permutations(range(3)):
        here = list(start)
        for i in order:
            before = mean[tuple(here)]
            here[i] = end[i]
            steps[i].append(mean[tuple(here)] - before)
    found = Factorial(FACTORS, values).attribution(start, end)
    assert [part.value for part in found.values()] == pytest.approx(
        [statistics.fmean(s) for s in steps.values()]
    )
    assert sum(part.value for part in found.values()) == pytest.approx(mean[end] - mean[start])
    assert set(Factorial(FACTORS, values).attribution(start, ("1", "0", "x"))) == {"a"}


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds):
    random, hit = np.random.default_rng(seeds), 0
    for _ in range(2000):
        values = {cell: list(random.normal(float(cell[0]) * 2, 0.7, seeds)) for cell in CELLS}
        estimate = Factorial(FACTORS, values).effect(a=("0", "1"))
        hit += abs(estimate.value - 2) <= estimate.half_width
    assert hit / 2000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))


def test_a_plan_is_what_runs_of_that_spread_give():
    values = {cell: [70.0 - 0.3, 70.0, 70.0 + 0.3] for cell in CELLS}  # a deviation of 0.3 in every cell
    done, plan = Factorial(FACTORS, values), Factorial(FACTORS, {})
    for changes in ({"a": ("0", "1")}, {"a": ("0", "1"), "c": ("x", "z")}):
        expected = done.effect(**changes).half_width
        assert plan.planned(plan.weights(changes), 3, 0.3) == pytest.approx(expected)
    with pytest.raises(ValueError, match="seeds = 1"):
        plan.planned({}, 1, 0.3)
    with pytest.raises(ValueError, match="deviation of -0.1 is impossible"):
        plan.planned({}, 2, -0.1)


def test_one_seed_a_cell_has_effects_but_no_intervals():
    found = Factorial(FACTORS, draw(1)).effect(a=("0", "1"))
    assert found.half_width == math.inf and not found.clear
    assert "±" not in str(found)
    assert str(effects.Estimate(1.234, 0.5)) == "+1.23 ± 0.50" and effects.Estimate(1.0, 0.5).clear


def test_a_missing_cell_takes_away_what_needs_it_and_nothing_else():
    values = draw() | {("1", "1", "z"): []}
    found = Factorial(FACTORS, values)
    assert found.missing == [("1", "1", "z")]
    assert found.effect(a=("0", "1")) is None
    assert found.effect(c=("x", "y")) is not None
    assert found.attribution(("0", "0", "x"), ("1", "1", "z"))["a"] is None
    assert found.attribution(("0", "0", "x"), ("1", "1", "y"))["a"] is not None


def test_averages_over_the_levels_that_are_complete():
    values = draw()
    lacking = {cell: v for cell, v in values.items() if cell != ("1", "0", "y")}
    found = Factorial(FACTORS, lacking)
    assert found.complete("c") == ("x", "z")
    mean = {cell: statistics.fmean(v) for cell, v in values.items()}
    expected = statistics.fmean(mean["1", b, c] - mean["0", b, c] for b in "01" for c in "xz")
    estimate = found.effect({"c": found.complete("c")}, a=("0", "1"))
    assert estimate.value == pytest.approx(expected) and found.effect(a=("0", "1")) is None
    spread = math.sqrt(statistics.fmean(statistics.variance(v) for v in lacking.values()))
    half = stats.t.ppf(0.975, 11) * spread * math.sqrt(8 / 16 / 2)
    assert estimate.half_width == pytest.approx(half), "the spread is that of all cells"
    for whole in (values, {}, {cell: v for cell, v in values.items() if cell[0] == "0"}):
        assert Factorial(FACTORS, whole).complete("c") == ("x", "y", "z"), "all complete, or none"


def test_an_effect_at_one_level_of_another_factor():
    values = draw(3, rng=3)
    mean = {cell: statistics.fmean(v) for cell, v in values.items()}
    found = Factorial(FACTORS, values)
    at = [found.effect({"b": [b]}, a=("0", "1")).value for b in "01"]
    for b, value in zip("01", at, strict=True):
        assert value == pytest.approx(statistics.fmean(mean["1", b, c] - mean["0", b, c] for c in "xyz"))
    assert found.effect(a=("0", "1"), b=("0", "1")).value == pytest.approx(at[1] - at[0])


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="no factor 'd': there are a, b, c"):
        Factorial(FACTORS, {}).effect(d=("0", "1"))
    with pytest.raises(ValueError, match="no factor 'd': there are a, b, c"):
        Factorial(FACTORS, {}).complete("d")
    with pytest.raises(ValueError, match="factor 'c' has no level 'q': it has x, y, z"):
        Factorial(FACTORS, {}).effect({"c": ["q"]}, a=("0", "1"))
    with pytest.raises(ValueError, match="factor 'c' has no level 'q': it has x, y, z"):
        Factorial(FACTORS, {}).effect(c=("x", "q"))
    with pytest.raises(ValueError, match="a cell has 2 levels, there are 3"):
        Factorial(FACTORS, {("0", "1"): [1.0]})
    with pytest.raises(ValueError, match="level = 95"):
        Factorial(FACTORS, {}, level=95)


# ------------------------------------------------------------------------------------- the ablation of S2


@pytest.mark.parametrize("epochs", effects.S2_EPOCHS)
def test_the_ablation_has_every_cell_once_and_its_recipes_differ_in_nothing_else(epochs):
    cells = effects.s2_cells(epochs)
    assert list(cells) == list(itertools.product(*effects.S2_FACTORS.values()))
    assert len(set(cells.values())) == 12
    rest = []
    for name in cells.values():
        fields = recipes.load(name).resolved()
        for run_alike in ("name", "title", "source", "published", "seeds", "distill", "factors", "shortens"):
            fields.pop(run_alike)
        fields["model"].pop("shortcut", None)
        fields["model"].pop("layer", None)
        rest.append(fields)
    assert rest[0]["epochs"] == epochs
    assert all(fields == rest[0] for fields in rest)
    teachers = {str(recipes.load(name).distill) for name in cells.values()} - {"None"}
    assert len(teachers) == 1


def test_the_schedules_of_the_ablation_differ_in_their_length_and_their_teacher_alone():
    for cell, name in effects.s2_cells(3).items():
        short, long = (recipes.load(n).resolved() for n in (name, effects.s2_cells(20)[cell]))
        differ = {field for field in long if short[field] != long[field]}
        assert differ - {"name", "title", "published", "seeds", "shortens"} <= {"epochs", "distill"}


def test_an_ablation_of_another_length_is_refused():
    with pytest.raises(ValueError, match="no ablation of 7 epochs: its cells are trained for 20 or 3"):
        effects.s2_cells(7)


def test_s1_and_s2_are_opposite_corners():
    cells = effects.s2_cells()
    assert cells["off", "off", "mean|W|"] == "s1-vgg-lr1e-3"
    assert cells["on", "on", "1"] == "s2-student"
    assert cells["on", "on", "learned"] == "s2-student-learned"
    assert effects.s2_cells(3)["on", "on", "1"] == "s2-student-3ep"


def test_the_parts_that_the_chapter_shows():
    parts = dict(effects.s2_parts())
    assert len(parts) == 4 + 5
    design = Factorial(effects.S2_FACTORS, {})
    for changes in parts.values():
        weights = design.weights(changes)
        assert sum(weights.values()) == pytest.approx(0)
        assert sum(w for w in weights.values() if w > 0) == pytest.approx(2 ** (len(changes) - 1))
