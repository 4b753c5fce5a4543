"""A row compares a recipe's records with its source's figure, and its verdict says what the comparison shows."""

from __future__ import annotations

import statistics

import pytest
from scipy import stats
from typer.testing import CliRunner

from bnnlib import recipes, records
from bnnlib.book import readme
from bnnlib.experiments import report, scoreboard


def test_mean_deviation_and_verdict(tmp_path, put_record):
    values = [(99.0, 99.2), (99.1, 99.3), (99.3, 99.4)]
    for seed, (last, best) in enumerate(values):
        put_record(tmp_path, "s4-lenet5", seed, last, best)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert row.last.mean == pytest.approx(statistics.fmean(v[0] for v in values))
    assert row.last.sd == pytest.approx(statistics.stdev(v[0] for v in values))
    assert row.compared is row.best, "the source's figure is a best epoch picked on the test set"
    assert row.difference == pytest.approx(99.3 - 99.23)
    error = statistics.stdev(v[1] for v in values) * (1 + 1 / 3) ** 0.5
    p = 2 * stats.t.sf(abs(row.difference) / error, 2)
    assert row.p == pytest.approx(p) and row.verdict == f"no difference shown: +0.07, p = {p:.2g}"
    assert f"| 99.23* | 99.13 ± 0.15 | 99.30 ± 0.10* | 3 | {row.verdict} |" in scoreboard.markdown_table(tmp_path)


@pytest.mark.parametrize(("best", "verdict"), [(99.33, "one run, +0.10"), (98.0, "one run, −1.23")])
def test_one_seed_has_no_deviation_and_no_verdict(tmp_path, best, verdict, put_record):
    put_record(tmp_path, "s4-lenet5", 0, 97.0, best)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert str(row.last) == "97.00"
    assert row.verdict == verdict


def test_a_figure_is_a_run_like_ours_or_not_by_the_deviation_of_its_family(tmp_path, put_record):
    """Nets of one topology, data and length lend their deviation; the p values of all figures are adjusted together."""
    data = {"name": "cifar10", "fingerprint": "sha256:" + "0" * 64, "train": 50_000, "test": 10_000}
    runs = {"s2-student": (80.0, 1.0), "s1-vgg-lr1e-3": (70.0, 0.2), "s2-ablation-plain-ce-one": (75.0, 0.4)}
    for name, (low, apart) in runs.items():
        for seed in (0, 1):
            top1 = low + apart * seed
            put_record(tmp_path, name, seed, top1, top1, dataset=data)
    student, base = report.rows(tmp_path, ["s2-student", "s1-vgg-lr1e-3"])
    sd = ((0.5 + 0.02 + 0.08) / 3) ** 0.5
    raw = [2 * stats.t.sf(abs(d) / (sd * 1.5**0.5), 3) for d in (student.difference, base.difference)]
    assert student.prediction.freedom == 3
    assert [student.prediction.p, base.prediction.p] == pytest.approx(raw)
    assert [student.p, base.p] == pytest.approx([max(2 * min(raw), max(raw)) if p == max(raw) else 2 * p for p in raw])


def test_a_recipe_changed_since_its_record_is_named_stale(tmp_path, put_record):
    path = put_record(tmp_path, "s4-lenet5", 4, 99.0, 99.0)
    record = records.read(path)
    longer = {**record.resolved, "epochs": record.resolved["epochs"] + 1}
    records.write(record.model_copy(update={"resolved": longer}), path)
    assert "stale: recipe changed since seed 4" in scoreboard.markdown_table(tmp_path)
    answer = CliRunner().invoke(readme.app, ["--folder", str(tmp_path)])
    assert answer.exit_code == 0 and "stale: s4-lenet5 changed since seed 4 was run" in answer.stderr


def test_an_imagenet_row_says_how_to_run_it_and_never_shows_another_sets_figure(tmp_path, put_record, a_record):
    cost = recipes.load("s5-resnet18-xnorpp").cost
    (row,) = report.rows(tmp_path, ["s5-resnet18-xnorpp"])
    assert row.last is None
    assert row.verdict == "needs ImageNet: run this, below"
    assert row.needs == (
        "`python -m bnnlib.train s5-resnet18-xnorpp --data DIR`, "
        f"about {cost.hours:g} h and {cost.memory_gb:g} GB on {cost.hardware}"
    )
    table = scoreboard.markdown_table(tmp_path)
    assert f"| S5 | imagenet | 57.6? | – | – | 0 | {row.verdict} |" in table
    assert f"\n- {row.needs}\n" in table
    assert "? `s5-resnet18-xnorpp`: the source prints 57.6 for" in table
    assert "| imagenet | 55.8 |" in table and "`tiny-" not in table
    path = put_record(tmp_path, "tiny-s5-resnet18-xnorpp", 0, 40.0, 41.0)
    with pytest.raises(
        records.RecordError,
        match="record of tiny-s5-resnet18-xnorpp seed 0 is of mnist, the recipe of tiny-imagenet",
    ):
        report.rows(tmp_path)
    tiny = {"name": "tiny-imagenet", "fingerprint": "sha256:" + "0" * 64, "train": 100_000, "test": 10_000}
    records.write(a_record(**{**records.read(path).model_dump(), "dataset": tiny}), path)
    assert "| tiny-imagenet | – | 40.00 | 41.00* | 1 | no figure to compare |" in scoreboard.markdown_table(
        tmp_path
    )
    assert report.rows(tmp_path, ["s5-resnet18-xnorpp"])[0].last is None
    path.parent.rename(tmp_path / "s5-resnet18-xnorpp")
    with pytest.raises(records.RecordError, match="does not belong there"):
        report.rows(tmp_path)


def test_no_committed_record_is_stale():
    stale = [row.recipe.name for row in report.rows() if row.stale]
    assert not stale, f"recipes changed since their records were made: {stale}"


def test_the_epoch_that_reaches_a_figure(a_record):
    record = a_record()
    assert [report.first_epoch_reaching(record, x) for x in (50.0, 91.0, 91.1)] == [1, 1, None]


def test_the_processor_of_a_record_is_no_markup():
    for name in ("<script>alert(1)</script>", "a | b", "[x](http://y)", "`code`", "a\nb\x1b[2J", "x" * 10_000):
        assert not set(report.machine({"cpu": name})) & set("<>|[]`*\n\x1b") and len(report.machine({"cpu": name})) <= 100
    assert report.machine({"cpu": "Intel(R) Xeon(R) Processor family 6 model 207"}) == "Intel(R) Xeon(R) Processor family 6 model 207"


def test_a_best_epoch_chosen_on_validation_images_has_no_star(tmp_path, put_record, a_record):
    path = put_record(tmp_path, "s4-lenet5", 0, 97.0, 98.0)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert row.best_marked == "98.00*"
    fields = records.read(path).model_dump()
    for point in fields["curve"]:
        point["validation_top1"] = 50.0 + point["test_top1"] / 10
    records.write(records.Record.model_validate({**fields, "best_of": "validation"}), path)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert row.best_marked == "98.00"
