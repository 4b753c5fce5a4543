"""The benchmark runs and writes what the chapter reads; what it measures is not tested."""

from __future__ import annotations

import json
import os

import pytest

from bnnlib.benchmarks import kernels as bench
from bnnlib.benchmarks import onnx_runtime as bench_onnx
from bnnlib.ops import _backend


def test_ratios_are_medians_of_rounds():
    assert bench.ratio([2.0, 9.0, 4.0], [1.0, 1.0, 2.0]) == 2.0
    assert bench.faster([3.0, 3.0, 1.0], [2.0, 2.0, 9.0]) == [2.0, 2.0, 9.0]


def test_contenders_take_turns():
    calls = []
    seconds = bench.alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, slice_s=0
    )
    assert "".join(calls) == "aabb" + "ab" * 3 and [len(s) for s in seconds.values()] == [3, 3]


@pytest.mark.skipif(isinstance(_backend.backend(), _backend.Fallback), reason="no compiled kernels here")
def test_a_quick_run_writes_a_whole_record(tmp_path, capsys):
    assert bench.main(["--quick", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["quick"] and record["environment"]["torch"] and record["runs"][0]["threads"] == 1
    for run in record["runs"]:
        (layer,) = run["layers"]
        assert {"bits", "channels_last", "nchw", "bf16"} <= set(layer["fp32_over"])
        assert run["peaks"]["clock_hz"] > 0 and run["alternation"]["pair_over_sum"] > 0
        assert run["peaks"]["memory_bytes_per_second"] > 0 and {"bits-in", "one-word"} <= set(
            run["gemms"][0]["fp32_over"]
        )
        for gradients in run["gradients"]:
            assert set(gradients["bf16_over"]) == set(gradients["fp32_over"]) == {"input", "weight"}
    for run in record["runs"][1:]:
        assert run["scaling"][0]["one_over_all"] > 0
    assert set(record["runs"][0]["ladders"][0]["fp32_over"]) >= {"one-word", "scalar", "reference"}
    assert "MAC/cycle" in capsys.readouterr().out


def test_another_process_times_its_own_calls():
    class Peer:
        def ask(self, question):
            assert question["run"] == "theirs"
            return {"seconds": 0.5 * question["calls"]}

    seconds = bench.alternate({"theirs": bench_onnx.Remote(Peer(), "theirs")}, rounds=2, slice_s=2)
    assert seconds == {"theirs": [0.5, 0.5]}


def test_a_peer_that_dies_is_reported():
    with bench_onnx.Peer(sorted(os.sched_getaffinity(0))[:1]) as peer:
        with pytest.raises(RuntimeError, match="ONNX Runtime died"):
            peer.ask({"run": "nobody", "calls": 1})


def test_onnx_runtime_computes_the_same_layer():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    x = random.standard_normal((2, 8, 9, 9), dtype=np.float32)
    w = random.standard_normal((5, 8, 3, 3), dtype=np.float32)
    calls = bench_onnx.sessions((8, 5, 3, 9), batch=2, threads=1)
    y = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1)
    np.testing.assert_allclose(calls["onnx-fp32"]().numpy(), y.numpy(), rtol=1e-4, atol=1e-4)
    assert calls["onnx-int8"]().numpy().shape == (2, 9, 9, 5)
    with bench_onnx.Peer(sorted(os.sched_getaffinity(0))[:1]) as peer:
        remote = peer.contenders((8, 5, 3, 9), 2)
        assert set(remote) == set(calls) and remote["onnx-fp32"].seconds(2) > 0 and peer.version()
