"""The scoreboard says what the records say."""

from __future__ import annotations

import functools
import statistics

import pytest
from scipy import stats
from typer.testing import CliRunner

from bnnlib import recipes, records
from bnnlib.experiments import report


@pytest.fixture
def put(a_record):
    return functools.partial(_put, a_record)


def _put(a_record, folder, recipe, seed, last, best, **changes):
    r = recipes.load(recipe)
    point = {
        "lr": 0.01,
        "train_loss": 0.5,
        "train_top1": 80.0,
        "test_loss": 0.4,
        "test_top5": 99.9,
        "seconds": 1.5,
    }
    curve = [{"epoch": 1, "test_top1": best, **point}, {"epoch": 2, "test_top1": last, **point}]
    fields = {
        "recipe": recipe,
        "seed": seed,
        "resolved": r.resolved(),
        "recipe_hash": r.hash(),
        "top1_last": last,
        "top1_best": best,
        "curve": curve,
    }
    return records.write(a_record(**{**fields, **changes}), records.path_of(recipe, seed, folder))


def test_mean_deviation_and_verdict(tmp_path, put):
    values = [(99.0, 99.2), (99.1, 99.3), (99.3, 99.4)]
    for seed, (last, best) in enumerate(values):
        put(tmp_path, "s4-lenet5", seed, last, best)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert row.last.mean == pytest.approx(statistics.fmean(v[0] for v in values))
    assert row.last.sd == pytest.approx(statistics.stdev(v[0] for v in values))
    assert row.compared is row.best, "the source's figure is a best epoch picked on the test set"
    assert row.difference == pytest.approx(99.3 - 99.23)
    error = statistics.stdev(v[1] for v in values) * (1 + 1 / 3) ** 0.5
    p = 2 * stats.t.sf(abs(row.difference) / error, 2)
    assert row.p == pytest.approx(p) and row.verdict == f"no difference shown: +0.07, p = {p:.2g}"
    assert f"| 99.23* | 99.13 ± 0.15 | 99.30 ± 0.10* | 3 | {row.verdict} |" in report.markdown_table(tmp_path)


@pytest.mark.parametrize(("best", "verdict"), [(99.33, "one run, +0.10"), (98.0, "one run, −1.23")])
def test_one_seed_has_no_deviation_and_no_verdict(tmp_path, best, verdict, put):
    put(tmp_path, "s4-lenet5", 0, 97.0, best)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert str(row.last) == "97.00"
    assert row.verdict == verdict


def test_a_figure_is_a_run_like_ours_or_not_by_the_deviation_of_its_family(tmp_path, put):
    """Nets of one topology, data and length lend their deviation; the p values of all figures are adjusted together."""
    data = {"name": "cifar10", "fingerprint": "sha256:" + "0" * 64, "train": 50_000, "test": 10_000}
    runs = {"s2-student": (80.0, 1.0), "s1-vgg-lr1e-3": (70.0, 0.2), "s2-ablation-plain-ce-one": (75.0, 0.4)}
    for name, (low, apart) in runs.items():
        for seed in (0, 1):
            top1 = low + apart * seed
            put(tmp_path, name, seed, top1, top1, dataset=data)
    student, base = report.rows(tmp_path, ["s2-student", "s1-vgg-lr1e-3"])
    sd = ((0.5 + 0.02 + 0.08) / 3) ** 0.5
    raw = [2 * stats.t.sf(abs(d) / (sd * 1.5**0.5), 3) for d in (student.difference, base.difference)]
    assert student.prediction.freedom == 3
    assert [student.prediction.p, base.prediction.p] == pytest.approx(raw)
    assert [student.p, base.p] == pytest.approx([max(2 * min(raw), max(raw)) if p == max(raw) else 2 * p for p in raw])


def test_rows_without_records_and_without_figures(tmp_path, put):
    put(tmp_path, "s3-mlp", 0, 97.0, 97.0)
    table = report.markdown_table(tmp_path)
    assert "`s4-lenet5` LeNet-5, binary | S4 | mnist | 99.23* | – | – | 0 | not run yet |" in table
    assert "| – | 97.00 | 97.00* | 1 | no figure to compare |" in table
    assert "s3-mlp-real" not in table, "neither run nor published"


def test_a_recipe_changed_since_its_record_is_named_stale(tmp_path, put):
    path = put(tmp_path, "s4-lenet5", 4, 99.0, 99.0)
    record = records.read(path)
    longer = {**record.resolved, "epochs": record.resolved["epochs"] + 1}
    records.write(record.model_copy(update={"resolved": longer}), path)
    assert "stale: recipe changed since seed 4" in report.markdown_table(tmp_path)
    answer = CliRunner().invoke(report.app, ["--folder", str(tmp_path)])
    assert answer.exit_code == 0 and "stale: s4-lenet5 changed since seed 4 was run" in answer.stderr


def test_an_imagenet_row_says_how_to_run_it_and_never_shows_another_sets_figure(tmp_path, put, a_record):
    cost = recipes.load("s5-resnet18-xnorpp").cost
    (row,) = report.rows(tmp_path, ["s5-resnet18-xnorpp"])
    assert row.last is None
    assert row.verdict == "needs ImageNet: run this, below"
    assert row.needs == (
        "`python -m bnnlib.train s5-resnet18-xnorpp --data DIR`, "
        f"about {cost.hours:g} h and {cost.memory_gb:g} GB on {cost.hardware}"
    )
    table = report.markdown_table(tmp_path)
    assert f"| S5 | imagenet | 57.6? | – | – | 0 | {row.verdict} |" in table
    assert f"\n- {row.needs}\n" in table
    assert "? `s5-resnet18-xnorpp`: the source prints 57.6 for" in table
    assert "| imagenet | 55.8 |" in table and "`tiny-" not in table
    path = put(tmp_path, "tiny-s5-resnet18-xnorpp", 0, 40.0, 41.0)
    with pytest.raises(
        records.RecordError,
        match="record of tiny-s5-resnet18-xnorpp seed 0 is of mnist, the recipe of tiny-imagenet",
    ):
        report.rows(tmp_path)
    tiny = {"name": "tiny-imagenet", "fingerprint": "sha256:" + "0" * 64, "train": 100_000, "test": 10_000}
    records.write(a_record(**{**records.read(path).model_dump(), "dataset": tiny}), path)
    assert "| tiny-imagenet | – | 40.00 | 41.00* | 1 | no figure to compare |" in report.markdown_table(
        tmp_path
    )
    assert report.rows(tmp_path, ["s5-resnet18-xnorpp"])[0].last is None
    path.parent.rename(tmp_path / "s5-resnet18-xnorpp")
    with pytest.raises(records.RecordError, match="does not belong there"):
        report.rows(tmp_path)


def test_write_and_check_between_the_markers(tmp_path, put):
    folder, readme = tmp_path / "runs", tmp_path / "README.md"
    put(folder, "s4-lenet5", 0, 99.0, 99.1)
    readme.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    run = CliRunner().invoke
    assert run(report.app, ["--check", str(readme), "--folder", str(folder)]).exit_code == 1
    assert run(report.app, ["--write", str(readme), "--folder", str(folder)]).exit_code == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{report.START}\n| network") and text.endswith(f"{report.END}\nafter\n")
    assert run(report.app, ["--check", str(readme), "--folder", str(folder)]).exit_code == 0
    put(folder, "s4-lenet5", 1, 98.0, 99.1)
    answer = run(report.app, ["--check", str(readme), "--folder", str(folder)])
    assert answer.exit_code == 1 and "python -m bnnlib.report --write" in answer.stderr


def test_groups_of_the_scoreboard(tmp_path, put):
    for name in ("s4-lenet5", "s4-lenet5-15ep-paper", "s3-mlp", "ours-lenet5"):
        put(tmp_path, name, 0, 97.0, 98.0)
    parts = report.grouped_tables(tmp_path).split("### ")[1:]
    assert [part.partition("\n")[0] for part in parts] == [
        report.GROUPS[name] for name in ("headlines", "ours", "ablations", "other")
    ]
    assert "| 99.23* | 97.00 | 98.00* | 1 | one run, −1.23 | S4, mnist |" in parts[0]
    assert "`s3-mlp` | 97.00 | 98.00* | 1 | S3, mnist |" in parts[3]
    assert "{dropdown}" in parts[3] and "`python -m bnnlib.train s4-nin`" in parts[3]
    (headline,) = [line for line in report.headline_table(tmp_path).splitlines() if "S4" in line]
    assert headline == "| S4, mnist: LeNet-5, binary | 99.23* | 98.00* | 1 | one run, −1.23 |"


@pytest.mark.parametrize(
    "text", ["", report.START, f"{report.END}{report.START}", f"{report.START}{report.START}{report.END}"]
)
def test_missing_markers_are_an_error(text):
    with pytest.raises(ValueError, match="needs one <!-- scoreboard:start -->"):
        report.with_table(text, "table")


def test_the_readme_shows_what_the_records_say():
    answer = CliRunner().invoke(report.app, ["--check", str(records.ROOT / "README.md")])
    assert answer.exit_code == 0, answer.stderr


def test_no_committed_record_is_stale():
    stale = [row.recipe.name for row in report.rows() if row.stale]
    assert not stale, f"recipes changed since their records were made: {stale}"


def test_a_title_with_bars_stays_in_its_cell():
    name = "s2-ablation-shortcut-kd-mean"
    rows = [line for line in report.markdown_table(names=[name]).splitlines() if line.startswith("|")]
    assert "scale mean\\|W\\|" in rows[-1]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_the_epoch_that_reaches_a_figure(a_record):
    record = a_record()
    assert [report.first_epoch_reaching(record, x) for x in (50.0, 91.0, 91.1)] == [1, 1, None]


def test_the_processor_of_a_record_is_no_markup():
    for name in ("<script>alert(1)</script>", "a | b", "[x](http://y)", "`code`", "a\nb\x1b[2J", "x" * 10_000):
        assert not set(report.machine({"cpu": name})) & set("<>|[]`*\n\x1b") and len(report.machine({"cpu": name})) <= 100
    assert report.machine({"cpu": "Intel(R) Xeon(R) Processor family 6 model 207"}) == "Intel(R) Xeon(R) Processor family 6 model 207"


def test_a_best_epoch_chosen_on_validation_images_has_no_star(tmp_path, put, a_record):
    path = put(tmp_path, "s4-lenet5", 0, 97.0, 98.0)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert row.best_marked == "98.00*"
    fields = records.read(path).model_dump()
    for point in fields["curve"]:
        point["validation_top1"] = 50.0 + point["test_top1"] / 10
    records.write(records.Record.model_validate({**fields, "best_of": "validation"}), path)
    (row,) = report.rows(tmp_path, ["s4-lenet5"])
    assert row.best_marked == "98.00"


def test_groups_go_by_what_a_recipe_states_and_not_by_its_name(tmp_path):
    groups = {name: report.group(report.row(recipes.load(name), [])) for name in recipes.names()}
    assert groups["s1-vgg-5ep-relu"] == groups["s2-ablation-plain-kd-one-3ep"] == groups["ours-mlp-gradient-paper"] == "ablations"
    assert groups["s1-vgg-lr1e-3"] == groups["s2-student"] == "headlines" and groups["s4-nin-60ep"] == "short"
    assert groups["ours-vgg-6ep"] == "ours" and groups["s3-mlp"] == "other"
