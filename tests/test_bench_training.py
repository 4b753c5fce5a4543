"""The benchmark of training steps runs and writes what the page on costs reads; what it measures is not tested."""

import json

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from bnnlib import ops, recipes
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks import training_steps
from bnnlib.book.pages import costs
from bnnlib.quantizers import sign


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_pytorchs_way_is_the_kernels_way(dropout):
    torch.manual_seed(0)
    given = F.dropout(sign(torch.randn(2, 70, 6, 5)), dropout), sign(torch.randn(9, 70, 3, 3)), torch.randn(9)
    found = {}
    for way in (training_steps.by_pytorch, ops.conv2d_of_signs):
        x, w, bias = (t.clone().double().requires_grad_() for t in given)
        y = way(x, w, bias, 1, (1, 1), 1, 1, dropout)
        found[way] = y, *torch.autograd.grad(y.square().sum(), (x, w, bias))
    for mine, reference in zip(*found.values(), strict=True):
        assert torch.allclose(mine, reference)


def test_both_contenders_train_one_net():
    losses = {}
    for kernels in (True, False):
        step = training_steps.step_of(recipes.load("s4-lenet5"), 4, bf16=False, compile=False, kernels=kernels)
        losses[kernels] = [step().item() for _ in range(2)]
    assert losses[True][0] == pytest.approx(losses[False][0], rel=1e-3)
    assert losses[True][1] == pytest.approx(losses[False][1], rel=0.2), "a sum's last place may turn a sign after the update"
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
    assert row[0].endswith("(in float32)") and row[1:] == ["1", "0.25", "0.75", "bfloat16, compiled", "3.00 |"]


def test_an_unknown_recipe_is_named():
    answer = CliRunner().invoke(training_steps.app, ["s4-lenet"])
    assert answer.exit_code == 1 and "s4-lenet" in answer.stderr and not torch.is_autocast_enabled("cpu")
