"""The commands that look at runs: `bnn runs`, `bnn compare`, `bnn plan`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from bnnlib import recipes, records
from bnnlib.benchmarks import gpu, kernels, networks, verify
from bnnlib.book import readme
from bnnlib.book.chapters import __main__ as chapters
from bnnlib.cli import MODULES
from bnnlib.experiments import folders, hours, pair, plan
from bnnlib.paths import ROOT
from bnnlib.training import checkpoint, cli, status

LENET = "s4-lenet5"


def test_run_folders_are_listed_with_how_far_they_are(tmp_path):
    def put(profile, seed, **told):
        folder = tmp_path / LENET / profile / f"seed{seed}"
        folder.mkdir(parents=True)
        status.write(folder, status.Status(recipe=LENET, seed=seed, epochs=10, **told))
        return folder

    put("full", 0, epoch=10, share=0.0, seconds=100.0, top1=99.0)
    put("full", 1, epoch=2, share=0.5, seconds=50.0, top1=90.0)
    running = put("demo", 0, epoch=0, share=0.0, seconds=0.0)
    (tmp_path / "old" / "full" / "seed0").mkdir(parents=True)  # of an earlier version: no status
    bad = put("quick", 0, epoch=1, share=0.0, seconds=1.0)
    (bad / status.NAME).write_text("{")
    with checkpoint.Lock(running):
        found = {(row.profile, row.seed): row for row in folders.rows(tmp_path)}
        assert {key: row.state for key, row in found.items()} == {
            ("full", 0): "finished", ("full", 1): "stopped", ("demo", 0): "training",
        }  # fmt: skip
    assert found["full", 1].left == pytest.approx(150.0)
    shown = folders.table(list(found.values()))
    assert f"{LENET}/full/seed1" in shown and "2/10" in shown and "90.00" in shown and "2 min" in shown
    answer = CliRunner().invoke(folders.app, ["--runs", str(tmp_path / "none")])
    assert answer.exit_code == 0 and "no run in" in answer.stderr


def test_two_runs_side_by_side(tmp_path, a_record, monkeypatch):
    for seed in (0, 1, 2):
        records.write(a_record(seed=seed), records.path_of(LENET, seed, tmp_path))
    answer = CliRunner().invoke(pair.app, [LENET, f"{LENET}:1", "--folder", str(tmp_path), "--figure", str(tmp_path / "c.png")])
    assert answer.exit_code == 0, answer.output
    assert "90.00" in answer.stdout and "+0.00" in answer.stdout and "two seeds of this recipe differ" in answer.stdout
    assert (tmp_path / "c.png").stat().st_size > 1000
    folder = tmp_path / "run"
    records.write(a_record(profile="quick"), folder / "record.json")
    assert "quick" in CliRunner().invoke(pair.app, [LENET, str(folder), "--folder", str(tmp_path)]).stdout
    monkeypatch.setenv("BNN_RUNS", str(tmp_path))  # as `bnn runs` lists it; what it lists may not be finished
    records.write(a_record(profile="demo"), tmp_path / LENET / "demo" / "seed0" / "record.json")
    answer = CliRunner().invoke(pair.app, [LENET, f"{LENET}/demo/seed0", "--folder", str(tmp_path)])
    assert answer.exit_code == 0 and "demo" in answer.stdout, answer.output
    status.write(tmp_path / LENET / "full" / "seed0", status.Status(recipe=LENET, seed=0, epoch=1, share=0.0, epochs=2, seconds=1.0))
    answer = CliRunner().invoke(pair.app, [LENET, f"{LENET}/full/seed0", "--folder", str(tmp_path)])
    assert answer.exit_code == 1 and "has no record yet" in answer.stderr
    other = a_record().resolved | {"label_smoothing": 0.3}
    said = pair.table(a_record(), a_record(resolved=other), [])
    assert "recipes differ in label_smoothing (0.0 -> 0.3)" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("s4-lenet", "did you mean s4-lenet5"),
        (f"{LENET}:7", f"{LENET} has no record of seed 7; it has seeds 0"),
        (f"{LENET}:x", "give a record's file, a run folder, or recipe:seed"),
        ("nothing.json", "record nothing.json"),
        (f"{LENET}/demo/seed9", "neither as a path nor in"),
    ],
)
def test_a_run_that_is_none_is_named(tmp_path, a_record, name, said):
    records.write(a_record(), records.path_of(LENET, 0, tmp_path))
    answer = CliRunner().invoke(pair.app, [LENET, name, "--folder", str(tmp_path)])
    assert answer.exit_code == 1 and said in answer.stderr and answer.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [(pair, [LENET, LENET]), (plan, []), (readme, [])], ids=["compare", "plan", "report"])
def test_a_folder_of_records_that_is_none_is_named(command, tmp_path):
    module, arguments = command
    answer = CliRunner().invoke(module.app, [*arguments, "--folder", str(tmp_path / "none")])
    assert answer.exit_code == 2 and "there is no folder" in answer.output and LENET not in answer.stdout


@pytest.mark.parametrize(
    "command",
    [
        (cli, ["s3-mlp", "--out"]), (cli, ["s3-mlp", "--runs"]), (folders, ["--runs"]),
        (kernels, ["--quick", "--out"]), (networks, ["--quick", "--out"]), (verify, ["--quick", "--out"]), (gpu, ["--out"]),
        (chapters, ["run", "one-binary-neuron", "--out"]),
    ],
    ids=["train-out", "train-runs", "runs", "kernels", "networks", "verify", "gpu", "chapters"],
)  # fmt: skip
def test_a_file_in_the_place_of_a_folder_is_told_before_anything_is_done(tmp_path, command):
    """Not when hours were measured and the record is to be written."""
    (tmp_path / "a-file").write_text("mine")
    module, arguments = command
    for below in ("",) if module is folders else ("", "/new"):  # which only reads
        answer = CliRunner().invoke(module.app, [*arguments, f"{tmp_path / 'a-file'}{below}"])
        words = answer.output.replace("│", " ").split()  # typer draws a frame, and cuts a path where its line ends
        assert answer.exit_code == 2 and "a-file" in "".join(words) and "is a file" in " ".join(words)
    assert (tmp_path / "a-file").read_text() == "mine"


@pytest.mark.parametrize("command", [name for name in MODULES if name != "lab"])  # which hands options on
def test_an_option_that_is_none_is_told_with_status_2(command):
    answer = CliRunner().invoke(importlib.import_module(MODULES[command][0]).app, ["--nope"])
    assert answer.exit_code == 2 and "No such option" in answer.output and "--nope" in answer.output


@pytest.mark.parametrize("module", sorted({module for module, _ in MODULES.values()}))
def test_help_hides_nothing_in_square_brackets(module):
    """Typer reads them as a style, and leaves out what is in them."""
    app = getattr(importlib.import_module(module), "app", None)
    if app is None:
        pytest.skip("has no options of its own")
    commands = [typer.main.get_command(app)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for text in (command.help, *(getattr(each, "help", None) for each in command.params)):
            assert "[" not in (text or ""), f"{command.name}: {text}"


@pytest.mark.parametrize(
    ("figure", "said"), [("none/a.png", "none/a.png: No such file or directory"), ("a.xyz", "Format 'xyz' is not supported")]
)
def test_a_figure_that_cannot_be_drawn_is_named(tmp_path, a_record, figure, said):
    records.write(a_record(), records.path_of(LENET, 0, tmp_path))
    answer = CliRunner().invoke(pair.app, [LENET, LENET, "--folder", str(tmp_path), "--figure", str(tmp_path / figure)])
    assert answer.exit_code == 1 and said in answer.stderr and answer.stderr.count("\n") == 1


def test_the_plan_is_what_has_no_record(tmp_path, a_record):
    for seed, device, seconds in [(1, "cpu", 7200.0), (5, "cuda", 360.0), (6, "cuda", 720.0), (7, "cuda", 36.0)]:
        record = a_record(seed=seed, wall_time_s=seconds, hardware={"device": device})
        records.write(record, records.path_of(LENET, seed, tmp_path))
    found = {row.recipe.name: row for row in plan.missing(tmp_path)}
    assert found[LENET].seeds == (0, 2, 3, 4)
    assert found[LENET].hours == {"cpu": hours.Hours(2.0), "cuda": hours.Hours(0.1)}  # medians, the kinds apart
    other = found["s4-lenet5-15ep-s4"].hours["cpu"]
    assert other.mark == "~" and other.value == pytest.approx(2.0 / 2 * 15)  # that record has two epochs
    alexnet = found["tiny-s4-alexnet"]
    assert alexnet.hours == {"cpu": None, "cuda": hours.Hours(alexnet.recipe.cost.hours, "?")}
    assert not any(recipes.load(name).dataset == "imagenet" for name in found)
    said = plan.table([found[LENET], alexnet])
    assert "0 to 4 (4)" in said and "5 runs, one after another" in said and "on a CPU 8 hours; length of 1 not known" in said
    assert "nothing is missing" in plan.table([])
    assert CliRunner().invoke(plan.app, ["s4-lenet"]).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [["report"], ["compare", LENET, f"{LENET}:1"], ["plan"], ["recipes"], ["deploy", "info", "results/models/s4-lenet5.safetensors"]],
    ids=lambda arguments: arguments[0],
)
def test_a_reader_that_stops_early_is_no_error(arguments):
    running = subprocess.Popen(
        [sys.executable, "-m", "bnnlib", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    running.stdout.close()
    assert running.communicate()[1] == ""
