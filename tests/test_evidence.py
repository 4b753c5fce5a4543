"""Differences of two recipes from their records: intervals against SciPy and simulation, and what is refused."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats

from bnnlib import recipes, statistics
from bnnlib.book.studies import evidence
from bnnlib.book.studies.evidence import Claim, difference

XNORPP, XNOR = "tiny-s5-resnet18-xnorpp", "tiny-s5-resnet18-xnor"
CLAIM = Claim("Learned against analytic", XNORPP, XNOR, source=5.9)


@pytest.fixture
def run(a_record):
    def make(recipe, top1, seed=0, epochs=7, **changes):
        point = {**a_record().curve[0].model_dump(), "test_top1": top1}
        curve = [{**point, "epoch": e} for e in range(1, epochs + 1)]
        data = {
            "name": "tiny-imagenet",
            "fingerprint": "sha256:" + "0" * 64,
            "train": 100_000,
            "test": 10_000,
        }
        fields = {"recipe": recipe, "seed": seed, "dataset": data, "curve": curve, "best_epoch": 1}
        return a_record(**{**fields, "top1_last": top1, "top1_best": top1, **changes})

    return make


def test_two_runs_or_more_are_compared_as_scipy_does_by_welch(run):
    a, b = [30.0, 32.0, 31.5, 35.0], [25.0, 27.5, 25.0]
    first = [run("a", v, seed) for seed, v in enumerate(a)]
    second = [run("b", v, seed) for seed, v in enumerate(b)]
    found, expected = difference(first, second), stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval))
    assert (found.seeds, found.basis, found.p) == ((4, 3), "4 and 3 seeds, 95 % interval", pytest.approx(expected.pvalue))
    assert found.values == pytest.approx((np.mean(a), np.mean(b)))
    assert found.clear and str(found) == f"{found.mean:+.2f} ± {found.half_width:.2f}"


def test_a_family_lends_its_deviation_and_its_seeds_pair_where_they_make_runs_alike(run):
    draw = np.random.default_rng(0)
    shared = draw.normal(0, 1, 5)
    family = {k: [run(k, 50 + i + s + 0.01 * draw.normal(), seed) for seed, s in enumerate(shared)] for i, k in enumerate("abc")}
    found = difference(family["b"], family["a"], family=family)
    assert found.paired and found.basis == "5 seeds each, paired, 95 % interval" and found.half_width < 0.05
    assert difference(family["b"], family["a"]).half_width > 0.5


def test_runs_of_different_machines_say_so(run):
    other = {"hardware": {"cpu": "a cpu", "gpu": "a GPU", "threads": 1}}
    first, second = [run("a", v, s) for s, v in enumerate((30.0, 31.0))], [run("b", v, s, **other) for s, v in enumerate((20.0, 22.0))]
    apart = difference(first, second)
    assert apart.basis == "2 seeds each, 95 % interval; runs on different processors"
    both = dataclasses.replace(apart, settings=(("a", "2.14.1"), ("b", "2.11.0")))
    assert both.basis.endswith("; runs on different processors and versions of PyTorch")
    assert difference(first, first).settings == ()


def test_one_run_has_the_interval_of_the_test_images_and_no_verdict(run):
    found = difference([run("a", 30.0)], [run("b", 25.0)])
    assert (found.mean, found.seeds, found.p, found.one_run) == (pytest.approx(5.0), (1, 1), None, True)
    assert found.half_width == pytest.approx(statistics.of_images(30.0, 25.0, 10_000))
    assert found.basis == "one run each, 95 % interval from the 10,000 test images alone"
    common = difference([run("a", 30.0, 1), run("a", 40.0, 2)], [run("b", 25.0, 2)])
    assert common.values == (40.0, 25.0), "the seed that both have"
    assert difference([run("a", 30.0, 1)], [run("b", 25.0, 2)]).mean == pytest.approx(5.0)
    assert difference([], [run("b", 25.0)]) is None


@pytest.mark.parametrize(
    "other",
    [
        {"epochs": 63},
        {"profile": "quick"},
        {"dataset": {"name": "imagenet", "fingerprint": "sha256:" + "1" * 64, "train": 9, "test": 9}},
    ],
    ids=["schedule", "profile", "data"],
)
def test_runs_that_differ_in_more_than_the_recipe_are_refused(run, other):
    with pytest.raises(ValueError, match="a and b cannot be compared"):
        difference([run("a", 30.0)], [run("b", 25.0, **other)])


def test_schedules_are_found_by_their_names():
    assert evidence.schedules(XNORPP) == [XNORPP, f"{XNORPP}-7ep"]
    assert evidence.pairs(CLAIM) == [(XNORPP, XNOR), (f"{XNORPP}-7ep", f"{XNOR}-7ep")]
    with pytest.raises(recipes.RecipeError, match="no recipe 'tiny'"):
        evidence.schedules("tiny")


def test_without_records_the_answer_is_the_shortest_runs():
    said = evidence.answers([CLAIM], {})
    hours = 2 * recipes.load(f"{XNOR}-7ep").cost.hours
    assert "Not measured yet" in said and f"needs `{XNORPP}-7ep` and `{XNOR}-7ep` (about {hours:g} h on" in said


def test_half_of_a_comparison_asks_for_the_other_half(run):
    runs = {f"{XNORPP}-7ep": [run(f"{XNORPP}-7ep", 20.0)]}
    said = evidence.answers([CLAIM], runs)
    assert f"`{XNOR}-7ep`" in said and f"`{XNORPP}-7ep`" not in said
    long = {XNORPP: [run(XNORPP, 40.0, epochs=63)]}
    assert f"needs `{XNOR}` " in evidence.answers([CLAIM], long), "one run, if a longer one"


def test_what_is_measured_comes_first(run):
    runs = {n: [run(n, 20.0)] for n in (f"{XNORPP}-7ep", f"{XNOR}-7ep")}
    gap = Claim("Real-valued less binary", "tiny-s5-resnet18-real", XNORPP)
    said = evidence.answers([gap, CLAIM], runs)
    assert said.index("Learned against analytic, 7 epochs") < said.index("Not measured yet")
    assert "- Real-valued less binary: needs `tiny-s5-resnet18-real-7ep` (about" in said
    assert "Not measured" not in evidence.answers([CLAIM], runs)


def test_each_schedule_is_answered_by_itself(run):
    runs = {n: [run(n, v)] for n, v in ((f"{XNORPP}-7ep", 20.0), (f"{XNOR}-7ep", 18.0))}
    runs |= {n: [run(n, v, epochs=63)] for n, v in ((XNORPP, 40.0), (XNOR, 34.0))}
    found = evidence.measured(CLAIM, runs)
    assert {e: round(d.mean, 6) for e, d in found.items()} == {63: 6.0, 7: 2.0}
    long, short = evidence.answers([CLAIM], runs).split("\n\n")
    assert re.search(r"63 epochs: 40\.00 − 34\.00 = \*\*\+6\.00 ± \d", long)
    assert "7 epochs: 20.00 − 18.00" in short
    for said in (long, short):
        assert "One run: it is more than another choice of test images explains, and what another seed would give is not" in said
        assert said.endswith("The source has +5.9 on ImageNet, another data set.")


def test_no_difference_is_called_that(run):
    runs = {n: [run(n, 20.0)] for n in (f"{XNORPP}-7ep", f"{XNOR}-7ep")}
    said = evidence.answers([Claim("A against B", XNORPP, XNOR)], runs)
    assert "One run: it is no more than another choice of test images explains" in said
    runs = {n: [run(n, 20.0 + s, s) for s in (0, 1)] for n in (f"{XNORPP}-7ep", f"{XNOR}-7ep")}
    said = evidence.answers([Claim("A against B", XNORPP, XNOR)], runs)
    assert said.endswith("(2 seeds each, 95 % interval). No difference is shown (p = 1).")


def test_top5_and_a_minus(run):
    runs = {n: [run(n, 20.0, top5_last=five)] for n, five in ((f"{XNORPP}-7ep", 41.0), (f"{XNOR}-7ep", 43.5))}
    said = evidence.answers([Claim("Top-5, A less B", XNORPP, XNOR, source=-1.0, field="top5_last")], runs)
    assert "41.00 − 43.50 = **−2.50 ± " in said and "The source has −1.0 on ImageNet" in said
    assert said.startswith("Top-5, A less B")


def test_claims_that_are_told_together_are_corrected_together(run):
    """Of two comparisons with p = .03, one is a finding by itself, and neither is beside the other."""
    real = "tiny-s5-resnet18-real"
    values = {f"{real}-7ep": [23.6, 22.9, 24.0], f"{XNORPP}-7ep": [20.0, 21.0, 22.0], f"{XNOR}-7ep": [18.0, 19.1, 18.4]}
    models = {n: {"model": {"name": "resnet18-real" if n.startswith(real) else "resnet18"}} for n in values}
    runs = {n: [run(n, v, s, resolved=models[n]) for s, v in enumerate(each)] for n, each in values.items()}
    gap = Claim("Real-valued less binary", real, XNORPP)
    alone = evidence.measured(CLAIM, runs)[7].p
    assert 0.025 < alone < 0.05
    assert f"A difference is shown (p = {alone:.2g})" in evidence.answers([CLAIM], runs)
    said = evidence.answers([gap, CLAIM], runs).split("\n\n")
    assert [f"No difference is shown (p = {2 * alone:.2g}, corrected for 2 comparisons)" in one for one in said] == [True, True]


def test_recipes_that_spread_alike_lend_a_claim_their_deviation(run):
    third = "tiny-s5-resnet18-none-7ep"
    values = {f"{XNORPP}-7ep": [20.0, 21.0], f"{XNOR}-7ep": [18.0, 19.0], third: [19.0, 19.2, 18.9, 19.1]}
    runs = {n: [run(n, v, s) for s, v in enumerate(each)] for n, each in values.items()}
    lent, alone = (evidence.measured(CLAIM, found)[7] for found in (runs, {n: runs[n] for n in list(runs)[:2]}))
    assert lent.mean == alone.mean == 2 and lent.half_width < alone.half_width
    longer = {**runs, third: [run(third, v, s, epochs=9) for s, v in enumerate(values[third])]}
    assert evidence.measured(CLAIM, longer)[7] == alone, "of other epochs"
