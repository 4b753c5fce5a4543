"""The tables of the scoreboard show what its rows say, each in the group and between the markers where it belongs."""

from __future__ import annotations

from bnnlib import recipes
from bnnlib.experiments import report, scoreboard


def test_rows_without_records_and_without_figures(tmp_path, put_record):
    put_record(tmp_path, "s3-mlp", 0, 97.0, 97.0)
    table = scoreboard.markdown_table(tmp_path)
    assert "`s4-lenet5` LeNet-5, binary | S4 | mnist | 99.23* | – | – | 0 | not run yet |" in table
    assert "| – | 97.00 | 97.00* | 1 | no figure to compare |" in table
    assert "s3-mlp-real" not in table, "neither run nor published"


def test_groups_of_the_scoreboard(tmp_path, put_record):
    for name in ("s4-lenet5", "s4-lenet5-15ep-paper", "s3-mlp", "ours-lenet5"):
        put_record(tmp_path, name, 0, 97.0, 98.0)
    parts = scoreboard.grouped_tables(tmp_path).split("### ")[1:]
    assert [part.partition("\n")[0] for part in parts] == [
        scoreboard.GROUPS[name] for name in ("headlines", "ours", "ablations", "other")
    ]
    assert "| 99.23* | 97.00 | 98.00* | 1 | one run, −1.23 | S4, mnist |" in parts[0]
    assert "`s3-mlp` | 97.00 | 98.00* | 1 | S3, mnist |" in parts[3]
    assert "{dropdown}" in parts[3] and "`python -m bnnlib.train s4-nin`" in parts[3]
    (headline,) = [line for line in scoreboard.headline_table(tmp_path).splitlines() if "S4" in line]
    assert headline == "| S4, mnist: LeNet-5, binary | 99.23* | 98.00* | 1 | one run, −1.23 |"
    assert scoreboard.own_table(tmp_path).splitlines()[2:] == ["| mnist: [LeNet-5, ours](bnnlib/recipes/lenet5/ours-lenet5.yaml) | 97.00 | 1 |"]


def test_a_title_with_bars_stays_in_its_cell():
    name = "s2-ablation-shortcut-kd-mean"
    rows = [line for line in scoreboard.markdown_table(names=[name]).splitlines() if line.startswith("|")]
    assert "scale mean\\|W\\|" in rows[-1]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


def test_groups_go_by_what_a_recipe_states_and_not_by_its_name():
    rows = report.chapter_rows({name: [] for name in recipes.names()})
    groups = {name: scoreboard.group(row) for name, row in rows.items()}
    assert groups["s1-vgg-5ep-relu"] == groups["s2-ablation-plain-kd-one-3ep"] == groups["ours-mlp-gradient-paper"] == "ablations"
    assert groups["s1-vgg-lr1e-3"] == groups["s2-student"] == "headlines" and groups["s4-nin-60ep"] == "short"
    assert groups["ours-vgg-6ep"] == "ours" and groups["s3-mlp"] == "other"
