"""The benchmark runs and writes what the chapter reads; what it measures is not tested."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bnnlib import native
from bnnlib.benchmarks import BenchError, contenders, peaks, speed, turns, workers
from bnnlib.benchmarks import kernels as bench
from bnnlib.benchmarks import onnx_runtime as bench_onnx
from bnnlib.ops import _backend

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
compiled = pytest.mark.skipif(isinstance(_backend.backend(), _backend.Fallback), reason="no compiled kernels here")


def test_ratios_are_medians_of_rounds():
    assert turns.median_ratio([2.0, 9.0, 4.0], [1.0, 1.0, 2.0]) == 2.0
    assert turns.faster([3.0, 3.0, 1.0], [2.0, 2.0, 9.0]) == [2.0, 2.0, 9.0]


def test_a_record_keeps_the_rounds_that_its_ratios_come_from():
    seconds = {"int8-x86": [2.0, 9.0, 4.0], "bits": [1.0, 1.0, 2.0]}
    case = {"times": turns.times(seconds)}
    assert case["times"]["int8-x86"] == {"median_us": 4e6, "best_us": 2e6, "rounds_us": [2e6, 9e6, 4e6]}
    assert speed.ratio(case, "int8-x86", "bits").median == turns.median_ratio(*seconds.values())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_clock_goes_by_a_chain_that_no_cpu_folds(tmp_path):
    """One loop of eight instructions, each of which reads what the one before it wrote, none an addition or a move, which
    newer cores carry out when they rename registers; and the function counts a latency of 3 for each."""
    (tmp_path / "clock.cpp").write_text(
        '#include "measure/peaks.h"\nextern "C" double chain(bnn::isize n) { return bnn::clock_chain(n); }\n'
    )
    command = ["g++", "-std=c++17", "-O3", f"-I{KERNELS}", "-S", "clock.cpp", "-o", "clock.s"]
    subprocess.run(command, cwd=tmp_path, check=True)
    body = re.search(r"^chain:$(.*?)\.cfi_endproc", (tmp_path / "clock.s").read_text(), re.MULTILINE | re.DOTALL)[1]
    chain = re.findall(r"#APP(.*?)#NO_APP", body, re.DOTALL)
    steps = [line.split(None, 1) for line in chain[0].splitlines() if line.strip() and not line.startswith("#")]
    expected = {"x86_64": ("imul", 3), "aarch64": ("eor", 1)}.get(os.uname().machine)
    if expected is None:
        pytest.skip("no chain for this machine")
    assert len(chain) == 1 and [step[0] for step in steps] == 8 * [expected[0]]
    registers = {register.strip() for _, operands in steps for register in operands.split(",")}
    assert len(registers) == (1 if expected[0] == "imul" else 2)


@compiled
def test_every_limit_counts_what_its_rounds_do():
    module = native.load()
    for name, what, supported in module.limits():
        if supported and name != "clock-tsc":  # which counts time
            assert what and module.run_limit(name, 20) == 2 * module.run_limit(name, 10) > 0
    assert {"clock"} == {name for name, _, supported in module.limits() if supported and name == "clock"}


@compiled
@pytest.mark.parametrize("name, products", [("int8-amx", 4 * 16 * 16 * 64), ("bf16-amx", 4 * 16 * 16 * 32)])
def test_limits_of_tiles_are_there_where_the_system_lends_tiles(name, products):
    module = native.load()
    supported = {n: s for n, _, s in module.limits()}
    if not supported.get(name):
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        assert "amx_int8" not in flags or "amx_bf16" not in flags
        pytest.skip("no tiles here")
    assert module.run_limit(name, 3) == 3 * products


@compiled
def test_the_clock_is_written_down_with_those_it_is_checked_against():
    found = peaks.measure_peaks(1)
    assert not any(name.startswith("clock") for name in found["units"])
    if os.uname().machine == "x86_64":
        assert {"rotations", "tsc"} <= set(found["other_clocks_hz"])
    assert set(speed.clocks(found)) == {"chain", *found["other_clocks_hz"]}


@compiled
def test_layers_meet_every_kind_of_rival():
    found = contenders.layer_contenders((64, 64, 1, 8), 1)
    kinds = {kind: [name for name in found if speed.kind(name) == kind] for kind in ("", *speed.RIVALS)}
    ours = {"bits", "channels_last", "nchw", "pack-channels_last", "pack-nchw"}
    assert set(kinds[""]) - {"bits-counted"} == ours
    if "bits-counted" in found:
        assert torch.equal(found["bits-counted"](), found["bits"]())
    assert set(kinds["fp32"]) == {"fp32-nchw", "fp32-channels_last", "fp32-compile"}
    assert kinds["bf16"] == (["bf16", "bf16-compile"] if contenders.multiplies_bf16() else ["bf16"])
    expected = found["fp32-channels_last"]()
    for name in kinds["fp32"] + kinds["bf16"]:  # they are the same convolution
        torch.testing.assert_close(found[name]().float(), expected, rtol=0.05, atol=0.3)
    assert all(found[name]().shape == expected.shape for name in kinds["int8"])


def test_a_contender_that_is_far_behind_leaves_after_three_rounds(monkeypatch):
    cost = {"quick": 0.1, "slow": 0.35, "hopeless": 3.0}
    monkeypatch.setattr(turns, "timed", lambda call, calls: cost[call] * calls)
    seconds = turns.alternate({name: name for name in cost}, rounds=5)
    assert {name: len(s) for name, s in seconds.items()} == {"quick": 5, "slow": 5, "hopeless": 3}
    assert speed.paired(seconds["hopeless"], seconds["quick"]).median == pytest.approx(30)


def test_contenders_take_turns():
    calls = []
    seconds = turns.alternate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, slice_s=0
    )
    assert "".join(calls) == "aabb" + "ab" * 3 and [len(s) for s in seconds.values()] == [3, 3]


def test_something_may_be_looked_at_between_the_rounds():
    calls = []
    turns.alternate({"a": lambda: calls.append("a")}, rounds=2, slice_s=0, between=lambda: calls.append("|"))
    assert "".join(calls) == "aa|a|a|"


@compiled
def test_the_tiles_rate_of_a_round_is_the_lower_one_of_before_and_after_it(monkeypatch):
    class Module:
        rates = iter([4.0, 2.0, 1.0, 3.0])  # products a second; looking takes the best of thirty
        now, tried = 0.0, 0

        def limits(self):
            return [("int8-amx", "int8, tiles", True)]

        def run_limit(self, name, rounds):
            assert name == "int8-amx"
            if self.tried % 30 == 0:
                self.rate = next(self.rates)
            self.tried += 1
            self.now += self.tried  # seconds
            return self.rate * self.tried

    module = Module()
    monkeypatch.setattr(peaks.native, "load", lambda: module)
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: module.now)
    tiles = peaks.TileUnit()
    for _ in range(4):
        tiles.look()
    assert tiles.rounds() == {"tiles_per_second": [2, 1, 1]}


@compiled
def test_without_tiles_nothing_is_looked_at():
    tiles = peaks.TileUnit()
    tiles.here = False
    tiles.look()
    assert tiles.rounds() == {}


@compiled
def test_a_quick_run_writes_a_whole_record(tmp_path):
    answer = CliRunner().invoke(bench.app, ["--quick", "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["quick"] and record["environment"]["torch"] and record["runs"][0]["threads"] == 1
    for run in record["runs"]:
        (layer,) = run["layers"]
        assert {"bits", "channels_last", "nchw", "bf16"} <= set(layer["times"])
        assert {"bits-in", "float-in", "one-word", "fp32"} <= set(run["gemms"][0]["times"])
        for case in (layer, run["gemms"][0], run["alternation"]):
            for spent in case["times"].values():
                assert spent["median_us"] == pytest.approx(statistics.median(spent["rounds_us"]), abs=0.01, rel=1e-3)
        peaks = run["peaks"]
        for unit in peaks["units"].values():
            assert unit["per_cycle"] == pytest.approx(unit["per_second"] / peaks["clock_hz"], abs=0.06)
        assert all(math.isfinite(hz) for hz in speed.clocks(peaks).values())
        for gradients in run["gradients"]:
            assert set(gradients["bf16_over"]) == set(gradients["fp32_over"]) == {"input", "weight"}
    for run in record["runs"][1:]:
        (row,) = run["scaling"]
        assert row["one_over_all"] == pytest.approx(speed.ratio(row, "one", "all").median, abs=2e-3)
    assert set(record["runs"][0]["ladders"][0]["fp32_over"]) >= {"one-word", "scalar", "reference"}
    assert speed.best_rival(record["runs"][0]["layers"][0]) in answer.stdout and "MAC/cycle" in answer.stdout


@compiled
def test_layers_alone_are_measured_alone(tmp_path):
    answer = CliRunner().invoke(bench.app, ["--quick", "--layers", "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    (path,) = tmp_path.iterdir()
    for run in json.loads(path.read_text())["runs"]:
        assert "layers" in run and "peaks" in run and not {"gemms", "ladders", "scaling", "alternation"} & set(run)


def test_another_process_times_its_own_calls():
    class Peer:
        def ask(self, question):
            assert question["run"] == "theirs"
            return {"seconds": 0.5 * question["calls"]}

    seconds = turns.alternate({"theirs": bench_onnx.Remote(Peer(), "theirs")}, rounds=2, slice_s=2)
    assert seconds == {"theirs": [0.5, 0.5]}


@compiled
def test_a_worker_that_fails_is_told_in_a_sentence(monkeypatch):
    def fails(module, threads, *options):
        raise BenchError(f"-m {module} failed: no room")

    monkeypatch.setattr(workers, "on_threads", fails)
    answer = CliRunner().invoke(bench.app, ["--layers"])
    assert answer.exit_code == 1 and answer.stderr == "error: -m bnnlib.benchmarks.kernels failed: no room\n"


@compiled
def test_kernels_that_do_not_load_anew_are_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(bench.sys, "executable", shutil.which("false"))
    with pytest.raises(BenchError, match="cannot be built and loaded anew"):
        bench.measure_import()


def test_a_peer_that_dies_is_reported():
    with bench_onnx.Peer(sorted(os.sched_getaffinity(0))[:1]) as peer:
        with pytest.raises(BenchError, match="ONNX Runtime died"):
            peer.ask({"run": "nobody", "calls": 1})


def test_onnx_runtime_computes_the_same_layer():
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    x = random.standard_normal((2, 8, 9, 9), dtype=np.float32)
    w = random.standard_normal((5, 8, 3, 3), dtype=np.float32)
    calls = bench_onnx.sessions((8, 5, 3, 9), batch=2, threads=1)
    y = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1)
    np.testing.assert_allclose(calls["onnx-fp32"]().numpy(), y.numpy(), rtol=1e-4, atol=1e-4)
    x8 = random.integers(0, 256, (2, 9, 9, 8), dtype=np.uint8)
    w8 = random.integers(-127, 128, w.shape, dtype=np.int8)
    levels, w8 = (torch.from_numpy(t).double() for t in (x8, w8))
    sums = torch.nn.functional.conv2d(levels.permute(0, 3, 1, 2) - 64, w8, padding=1)  # 64 stands for 0
    y8 = (sums * 0.05 * 0.02 + 128).clamp(0, 255).permute(0, 2, 3, 1)
    np.testing.assert_allclose(calls["onnx-int8"]().numpy(), y8.numpy(), rtol=0, atol=0.51)
    with bench_onnx.Peer(sorted(os.sched_getaffinity(0))[:1]) as peer:
        remote = peer.contenders((8, 5, 3, 9), 2)
        assert set(remote) == set(calls) and peer.version() == onnxruntime.__version__
