"""Tables of a chapter's runs: rows where there are records, verdicts by the statistics, commands where there are none."""

from __future__ import annotations

import pytest
from scipy import stats

from bnnlib import recipes
from bnnlib.book import results
from bnnlib.records import RecordError


@pytest.fixture
def runs(a_record):
    def one(recipe, seed, value, **changes):
        point = {**a_record().curve[0].model_dump(), "epoch": 1, "test_top1": value}
        last = {"top1_last": value, "top1_best": value, "best_epoch": 1, "curve": [point]}
        resolved = {**a_record().resolved, **recipes.load(recipe).resolved()}
        return a_record(recipe=recipe, seed=seed, resolved=resolved, **{**last, **changes})

    def some(recipe, *values, **changes):
        return [one(recipe, seed, value, **changes) for seed, value in enumerate(values)]

    return some


def test_rows_are_those_with_records(runs):
    found = {"s4-lenet5": runs("s4-lenet5", 99.0, 99.2), "s4-lenet5-real": []}
    text = results.accuracies(found, "Accuracy.", name="tab-x", source="S4").data
    assert "Accuracy. *: chosen on the test set." in text and ":name: tab-x" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| LeNet-5")]
    assert "| 99.23* | 99.10 ± 0.14 |" in row and "real-valued" not in text
    assert "S4 %" in text and "against S4" in text


def test_titles_of_a_chapter_and_tables_without_a_figure(runs):
    found = {"s3-mlp": runs("s3-mlp", 93.0)}
    text = results.accuracies(found, "Accuracy.", titles={"s3-mlp": "the MLP"}).data
    assert "| the MLP | 93.00 |" in text and "source %" not in text and "against" not in text


@pytest.mark.parametrize("profile", ["quick", "demo"])
def test_short_runs_are_compared_with_nothing(runs, profile):
    text = results.accuracies({"s4-lenet5": runs("s4-lenet5", 40.0, profile=profile)}, "Accuracy.").data
    assert f"| {profile} run |" in text and "below" not in text
    assert f"Test accuracy of the {profile} runs, after " in text and "Accuracy. *" not in text


def test_short_runs_do_not_go_by_the_epochs_of_a_full_one(runs):
    name = "tiny-s5-resnet18-xnorpp-7ep"
    (full, short) = (runs(name, 40.0, profile=profile) for profile in ("full", "demo"))
    assert results.title(name, full) == results.title(name) == "ResNet-18, XNOR-Net++, 7 epochs"
    assert results.title(name, short) == "ResNet-18, XNOR-Net++"


def test_a_run_of_another_set_is_refused(runs):
    small = {"name": "digits", "fingerprint": "sha256:" + "0" * 64, "train": 32, "test": 32}
    with pytest.raises(RecordError, match="seed 0 is of digits, the recipe of mnist"):
        results.accuracies({"s4-lenet5": runs("s4-lenet5", 90.0, dataset=small)}, "Accuracy.")
    short = runs("s4-lenet5", 90.0, dataset=small, profile="quick")
    assert "| quick run |" in results.accuracies({"s4-lenet5": short}, "Accuracy.").data


def test_verdicts_and_columns(runs):
    found = {"s4-lenet5": runs("s4-lenet5", 90.0, 90.0), "s4-nin": []}
    text = results.accuracies(found, "Accuracy.").data
    assert "| 99.23* | 90.00 ± 0.00 | 90.00 ± 0.00 | 2 | below by 9.23, p < 0.001 |" in text
    five = results.accuracies(found, "Accuracy.", top5=True).data
    assert "| 99.23* | 90.00 ± 0.00 | 99.00 ± 0.00 | 2 |" in five and "best epoch" not in five
    for table in (text, five):
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


def test_a_title_with_bars_stays_in_its_cell(runs):
    name = "s2-ablation-shortcut-kd-mean"
    data = {"name": "cifar10", "fingerprint": "sha256:" + "0" * 64, "train": 50_000, "test": 10_000}
    text = results.accuracies({name: runs(name, 80.0, dataset=data)}, "Accuracy.").data
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "scale mean\\|W\\|" in rows[-1]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_no_run_is_a_sentence():
    assert "There is no run to show" in results.accuracies({"s4-lenet5": []}, "Accuracy.").data
    assert "no pair of runs" in results.differences([("a", "s4-lenet5", "s4-nin")], {}, "Differences.").data


def test_differences_have_intervals_and_p(runs):
    a, b = (96.0, 97.0), (93.0, 92.5)
    found = {"s3-mlp-real": runs("s3-mlp-real", *a), "s3-mlp": runs("s3-mlp", *b)}
    text = results.differences([("real less binary", "s3-mlp-real", "s3-mlp")], found, "Differences.").data
    p = stats.ttest_ind(a, b, equal_var=False).pvalue
    (row,) = [line for line in text.splitlines() if line.startswith("| real less binary")]
    assert "96.50, 92.75" in row and "+3.75 ±" in row and "2 and 2" in row and f"| {p:.2g} |" in row


def test_one_run_has_no_p_value_and_other_machines_are_marked(runs):
    one = runs("s3-mlp-real", 96.0, hardware={"cpu": "One CPU", "threads": 1})
    other = runs("s3-mlp", 93.0, 92.5, hardware={"cpu": "Another CPU", "threads": 1})
    pair = [("real less binary", "s3-mlp-real", "s3-mlp")]
    text = results.differences(pair, {"s3-mlp-real": one, "s3-mlp": other}, "Differences.").data
    assert "| real less binary† |" in text and "| one run |" in text and "different processors" in text


def test_pending_runs_have_their_commands_and_fold():
    text = results.pending({"s4-nin": [], "s4-lenet5": ["a record"]}).data
    assert text.startswith(":::{dropdown}") and "`python -m bnnlib.train s4-nin`" in text and "lenet5" not in text
    assert results.pending([]).data == ""
