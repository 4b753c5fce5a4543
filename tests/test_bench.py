"""The benchmark runs and writes what the chapter reads; what it measures is not tested."""

from __future__ import annotations

import json

import pytest

from bnnlib import bench
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
    assert set(record["runs"][0]["ladder"]["fp32_over"]) >= {"one-word", "scalar", "reference"}
    assert "MAC/cycle" in capsys.readouterr().out
