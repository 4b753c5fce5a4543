"""The attack on the library, for a few seconds; and that it finds what is wrong."""

from __future__ import annotations

import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bnnlib import fuzz
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.interpreter import interpret
from bnnlib.deploy.randomgraphs import Maker
from bnnlib.fuzz.guards import guarded


@pytest.mark.parametrize("kind", fuzz.CASES)
def test_a_short_attack_finds_nothing(kind):
    done = CliRunner().invoke(fuzz.app, ["--minutes", "5", "--seed", "30", "--only", kind, "--cases", "40"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("seed 30\n") and "40 cases, 0 findings" in done.output


BAD = """
import os, signal, sys
from bnnlib import fuzz
def bad(draw, folder):
    number = draw.randrange(4)
    if number == 0:
        raise ValueError("wrong")
    if number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        bytearray(fuzz.MEMORY * 2)
fuzz.CASES["bad"] = bad
fuzz.app(sys.argv[1:])
"""


def test_exceptions_signals_and_memory_are_findings_with_their_number():
    tried, findings = fuzz.hunt("bad", 3, 5, 12, 300, [sys.executable, "-c", BAD])
    assert tried == 12
    wanted = {n: random.Random(f"3 bad {n}").randrange(4) for n in range(5, 17)}
    said = {0: "ValueError: wrong", 1: "SIGSEGV", 2: "MemoryError"}
    assert {number for number, _ in findings} == {n for n, kind in wanted.items() if kind < 3}
    assert all(said[wanted[number]] in what for number, what in findings)
    again = fuzz.hunt("bad", 3, findings[0][0], 1, 300, [sys.executable, "-c", BAD])
    assert again == (1, findings[:1]) or again[1][0][0] == findings[0][0]


def test_a_finding_is_printed_with_the_command_that_reproduces_it(monkeypatch):
    monkeypatch.setattr(fuzz, "hunt", lambda *arguments: (7, [(5, "something is wrong")]))
    done = CliRunner().invoke(fuzz.app, ["--seed", "9", "--only", "yaml"])
    assert done.exit_code == 1
    assert "yaml: 7 cases" in done.output and "python -m bnnlib.fuzz --only yaml --seed 9 --case 5 --cases 1" in done.output
    assert CliRunner().invoke(fuzz.app, ["--only", "no"]).exit_code == 2


def test_the_interpreter_by_hand():
    """A convolution with a border, a pooling and a sign, in numbers that one can follow."""
    tensors = {"w": np.array([0b1101], np.uint8).reshape(1, 1), "low": np.zeros(1, np.float32), "high": np.full(1, 1.5, np.float32)}
    geometry = {"kernel": [2, 2], "stride": [1, 1], "padding": [0, 1], "dilation": [1, 1], "groups": 1}
    stages = [{"op": "store", "slot": "y"}, {"op": "sign", "low": "low", "high": "high", "slot": "b"}]
    slots = {"x": Slot("float32", (2, 2, 1)), "y": Slot("float32", (1, 3, 1)), "b": Slot("bits", (1, 3, 1))}
    op = Op("real_conv", ["x"], {**geometry, "weights": "bits"}, {"weight": "w"}, stages)
    graph = Graph(["x"], ["y", "b"], slots, [op], tensors)
    graph.validate()
    held = interpret(graph, np.array([[[[1, 2], [3, 4]]]], np.float32))
    assert held["y"].ravel().tolist() == [-1 + 3, 1 - 2 + 3 + 4, 2 + 4]  # weights 1 -1 / 1 1
    assert held["b"].ravel().tolist() == [-1, -1, -1]


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("count", [False, True])
def test_the_interpreters_mean_pools_are_pytorchs(count, ceil):
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32)
    for kernel, stride, padding in (((3, 2), (2, 3), (1, 1)), ((4, 3), (3, 2), (2, 0)), ((2, 2), (3, 3), (1, 0))):
        window = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding), "ceil": ceil, "count_padding": count}
        want = torch.nn.functional.avg_pool2d(torch.from_numpy(x).double(), kernel, stride, padding, ceil, count).numpy()
        slots = {"x": Slot("float32", (7, 6, 3)), "y": Slot("float32", (*want.shape[2:], 3))}
        graph = Graph(["x"], ["y"], slots, [Op("avg_pool", ["x"], window, {}, [{"op": "store", "slot": "y"}])], {})
        graph.validate()
        np.testing.assert_allclose(interpret(graph, x)["y"], want.transpose(0, 2, 3, 1), rtol=1e-12)


@pytest.mark.parametrize("stage", [{"op": "exp"}, {"op": "sqrt"}, {"op": "elu", "alpha": 1.0}, {"op": "over", "slot": "x"}])
def test_the_interpreter_names_a_stage_that_it_does_not_know(stage):
    slots = {"x": Slot("float32", (1, 1, 1)), "y": Slot("float32", (1, 1, 1))}
    graph = Graph(["x"], ["y"], slots, [Op("map", ["x"], {"repeat": 1}, {}, [stage, {"op": "store", "slot": "y"}])], {})
    graph.validate()
    with pytest.raises(ValueError, match=f"no stage '{stage['op']}'"):
        interpret(graph, np.ones((1, 1, 1, 1), np.float32))


GUARDED = """
import sys
import numpy as np
from bnnlib.fuzz.guards import guarded
array = guarded((3, 5), np.float32)
assert array.sum() == 15 and array.flags.writeable
array[:] = 2
print("guarded", flush=True)
np.lib.stride_tricks.as_strided(array, (1 << 20,), (int(sys.argv[1]),))[int(sys.argv[2])] = 1
print("nothing happened")
"""


@pytest.mark.parametrize(("step", "place"), [(4, 15), (-4096, 1)])
def test_guarded_arrays_end_where_memory_does(step, place):
    done = subprocess.run([sys.executable, "-c", GUARDED, str(step), str(place)], capture_output=True, text=True)
    assert done.stdout == "guarded\n" and done.returncode == -signal.SIGSEGV, done.stderr
    with pytest.raises(MemoryError, match="values of 4 bytes"):
        guarded((2**40, 2**20), np.float32)


def test_random_graphs_hold_every_operation_and_stage():
    from bnnlib.deploy.operations import FUNCTIONS, OPERATIONS, STAGES

    graphs = [Maker(random.Random(seed)).graph for seed in range(200)]
    for graph in graphs:
        graph.validate()
    rounded = {*FUNCTIONS, "over", "over_from"} - {"abs", "square"}  # tests/test_deploy_supported.py has these
    ops = [op for graph in graphs for op in graph.ops]
    assert {op.kind for op in ops} == set(OPERATIONS) - {"torch"}
    assert {stage["op"] for op in ops for stage in op.stages} == set(STAGES) - rounded
