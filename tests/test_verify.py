"""Packed networks against PyTorch: the comparison sees what it is there to see, and its records are read whole."""

import json
import sys

import pytest
from typer.testing import CliRunner

from bnnlib import deploy
from bnnlib.benchmarks import verify
from bnnlib.benchmarks.record import BenchError
from bnnlib.ops import _backend

compiled = pytest.mark.skipif(isinstance(_backend.backend(), _backend.Fallback), reason="no compiled kernels here")


@compiled
def test_a_quick_run_writes_a_record(tmp_path):
    answer = CliRunner().invoke(verify.app, ["--quick", "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    record = json.loads((tmp_path / "s4-lenet5.json").read_text())
    assert record["quick"] and record["environment"]["torch"]
    if sys.platform == "linux":
        assert [row["kind"] for row in record["memory"]] == list(verify.MEMORY)
        assert all(0 < row["above"] < row["whole"] for row in record["memory"])
        assert "packed-alone-int8" in answer.stdout
    (read,) = verify.read(tmp_path)
    assert read["net"] == "s4-lenet5" and read["memory"] == record["memory"]


def test_a_shipped_net_stands_for_its_topology():
    names = verify.names()
    assert len(names) == len(set(names)) and set(verify.shipped()) <= set(names)
    covered = {verify.topology(name) for name in names}
    assert covered == {verify.topology(name) for name in [*verify.nets(), *verify.shipped()]}
    untrained = [name for name in names if name not in verify.shipped()]
    assert not {verify.topology(name) for name in untrained} & {verify.topology(name) for name in verify.shipped()}


@compiled
def test_agreement_is_counted_layer_by_layer(bnn_data):
    found = verify.measure_agreement("s4-lenet5", limit=50)
    assert found["images"] == 50
    assert found["bits"] == [
        {"layer": "conv2.layer", "bits": 50 * 20 * 12 * 12, "flipped": 0},
        {"layer": "fc1.layer", "bits": 50 * 800, "flipped": 0},
    ]
    assert found["agreement"]["float32"] == 100 and found["top1"]["float32"] == found["top1"]["pytorch"]
    assert verify.measure_agreement("s1-vgg-5ep-paper") is None


@compiled
def test_a_flipped_bit_is_counted(bnn_data, monkeypatch):
    """The comparison sees what it is there to see: a threshold moved by one step."""
    convert = deploy.convert

    def wrong(*args, **options):
        network = convert(*args, **options)
        op = next(op for op in network.graph.ops if op.stages[0]["op"] == "threshold")
        name = op.stages[0]["threshold"]
        network.graph.tensors[name] = network.graph.tensors[name] + 2
        return deploy.PackedNetwork(network.graph)

    monkeypatch.setattr(deploy, "convert", wrong, raising=False)
    found = verify.measure_agreement("s4-lenet5", limit=50)
    assert [row["flipped"] > 0 for row in found["bits"]] == [False, True]


def test_records_come_in_the_order_of_the_book(tmp_path):
    for name in ("zzz", "s4-lenet5", "s2-student"):
        record = {"net": name, "date": "2026-01-01", "environment": {"cpu": "A"}, "agreement": None, "memory": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert [record["net"] for record in verify.read(tmp_path)] == ["s2-student", "s4-lenet5", "zzz"]
    assert "no accuracy" in verify.summary(record)


def test_a_damaged_record_is_named(tmp_path):
    assert verify.read(tmp_path) == []
    for damage in ('{"net": 1', "{}", "[]"):
        (tmp_path / "x.json").write_text(damage)
        with pytest.raises(BenchError, match="x.json is no"):
            verify.read(tmp_path)


def test_an_unknown_recipe_is_named():
    answer = CliRunner().invoke(verify.app, ["s4-lenet"])
    assert answer.exit_code == 1 and "no recipe 's4-lenet'" in answer.stderr


def test_the_stored_records_are_whole():
    for record in verify.read():
        assert record["environment"]["cpu"] and (record["agreement"] is None or record["agreement"]["images"] == 10_000)
