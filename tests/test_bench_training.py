"""The benchmark of training steps runs and writes what the page on costs reads; what it measures is not tested."""

import json

import pytest
import torch
from typer.testing import CliRunner

from bnnlib import recipes
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks import training_steps
from bnnlib.book.pages import costs


@pytest.mark.parametrize("name", ["s4-lenet5", "s4-nin-60ep"])  # without and with dropout behind signs
def test_all_contenders_train_one_net(name):
    recipe = recipes.load(name)
    losses = {}
    for kernels in (True, False):
        step = training_steps.step_of(recipe, 4, bf16=False, compile=False, kernels=kernels)
        losses[kernels] = [step().item() for _ in range(2)]
    assert losses[True][0] == pytest.approx(losses[False][0], rel=1e-3)
    assert losses[True][1] == pytest.approx(losses[False][1], rel=0.1), "a sum's last place may turn a sign after the update"
    assert losses[True][0] != losses[True][1]


def test_a_quick_run_writes_a_record_that_the_page_on_costs_reads(tmp_path):
    answer = CliRunner().invoke(training_steps.app, ["--quick", "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    (run,) = record["runs"]
    (case,) = run["cases"]
    assert path.name.startswith("training-") and run["threads"] == 1 and case["recipe"] == "s4-lenet5"
    assert {"bits", "fp32"} <= set(case["times"])
    assert "ours" not in costs.steps(tmp_path), "a quick run measures nothing"
    case["times"] = {"bits": {"median_us": 2000.0}, "fp32": {"median_us": 8000.0}, "bf16-compile": {"median_us": 6000.0}}
    bench_record.write(record | {"quick": False}, tmp_path, "training-")
    row = costs.steps(tmp_path).splitlines()[-1].split(" | ")
    assert row[1:] == ["float32", "1", "8", "0.25", "0.75", "bfloat16, compiled", "≈3.00× |"]


def test_an_unknown_recipe_is_named():
    answer = CliRunner().invoke(training_steps.app, ["s4-lenet"])
    assert answer.exit_code == 1 and "s4-lenet" in answer.stderr and not torch.is_autocast_enabled("cpu")
