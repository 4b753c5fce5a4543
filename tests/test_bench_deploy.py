"""The benchmark of whole networks runs and writes what the chapter reads; what it measures is not tested."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bnnlib import layers, models, recipes
from bnnlib.benchmarks import contenders, nets, networks, onnx_runtime, speed
from bnnlib.ops import _backend

compiled = pytest.mark.skipif(isinstance(_backend.backend(), _backend.Fallback), reason="no compiled kernels here")


@pytest.mark.parametrize(("name", "options"), [("vgg", {"shortcut": True}), ("ours-vgg", {}), ("lenet5", {}), ("mlp", {})])
def test_the_real_twin_has_the_topology_and_no_sign(name, options):
    model = models.build(name, **options).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = nets.full_precision_twin(model)
    assert not any(isinstance(m, layers.BinaryLayer | layers.RSign) for m in twin.modules())
    for key, layer in layers.binary_layers(model).items():
        real = twin.get_submodule(key)
        assert real.weight.shape == layer.weight.shape and (real.bias is None) == (layer.bias is None)
        assert isinstance(real, nn.Linear) or (real.stride, real.padding) == (layer.stride, layer.padding)
    shape = (1, 28, 28) if name in ("lenet5", "mlp") else (3, 32, 32)
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert twin(x).shape == model(x).shape
        assert not torch.equal(twin(x), twin(1.01 * x))  # nothing in it sees signs alone
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@compiled
@pytest.mark.parametrize(("name", "compile"), [("s4-lenet5", False), ("s3-mlp", True)])
def test_networks_meet_every_kind_of_rival_and_all_have_its_shape(name, compile):
    found = networks.contenders(name, 2, compile=compile)
    assert any("compile" in name for name in found) == compile
    kinds = {speed.kind(name) for name in found}
    assert kinds >= {"fp32", ""} and ("bf16" in kinds) == contenders.multiplies_bf16()
    assert ("int8" in kinds) == ("x86" in torch.backends.quantized.supported_engines)
    with torch.inference_mode():
        results = {name: call().float() for name, call in found.items()}
    assert {y.shape for y in results.values()} == {(2, 10)}
    expected = results["fp32-eager"]
    for name, y in results.items():
        if speed.kind(name):
            assert (y - expected).abs().max() < 0.15 * expected.abs().max(), name


@pytest.mark.parametrize("name", nets.nets())
def test_the_int8_twin_of_every_net_is_that_net_rounded(name):
    """Its rounding is calibrated on noise: correlated with the twin, not equal."""
    torch.manual_seed(0)
    twin, shape = nets.full_precision_twin(nets.model_of(name)[0]), nets.shape_of(name)
    x = torch.randn(2, *shape)
    with torch.inference_mode():
        wanted, got = twin(x), nets.int8_twin(twin, shape)(x)
    assert got.shape == wanted.shape and torch.corrcoef(torch.stack([wanted.flatten(), got.flatten()]))[0, 1] > 0.6


def test_the_nets_are_those_of_the_book():
    assert set(nets.NETS) <= set(nets.nets()) <= set(recipes.names())
    known = [nets.topology(name) for name in nets.nets()]
    assert len(known) == len(set(known))
    for name in nets.shipped():
        assert nets.topology(name) in known
    assert nets.shape_of("tiny-s5-resnet18-xnorpp") == (3, 64, 64)


@compiled
def test_a_quick_run_writes_a_whole_record(tmp_path):
    answer = CliRunner().invoke(networks.app, ["--quick", "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert path.name == f"deploy-{path.name[7:-16]}-{record['date']}.json"
    assert record["quick"] and record["environment"]["torch"]
    row = networks.case(record, "s4-lenet5", 1, 1)
    assert set(networks.packed(row)) == {"packed-float32", "packed-bfloat16", "packed-int8"}
    assert {"fp32-eager", "fp32-channels_last", "fake-quantised"} <= set(row["times"])
    assert speed.best_rival(row) in row["times"] and speed.ratio(row, "fp32-eager", "packed-int8").paired
    assert networks.case(record, "s4-lenet5", 7, 1) is None
    (profile,) = record["runs"][0]["profiles"]
    assert {"real_conv", "binary_conv"} <= {op["kind"] for op in profile["packed"]}
    assert {row["layer"] for row in profile["fp32"]} >= {"conv1", "conv2.layer", "fc1.layer", "fc2", "rest"}
    assert [row["layer"] for row in profile["fp32"] if row["binary"]] == ["conv2.layer", "fc1.layer"]
    assert "fp32-eager" in answer.stdout
    assert not networks.newest_of_each(tmp_path)  # a quick record is none


@pytest.mark.skipif(bool(onnx_runtime.missing()), reason=f"{onnx_runtime.missing()} missing here")
def test_onnx_runs_a_network_in_its_own_process(tmp_path):
    from bnnlib.deploy import onnx_export

    torch.manual_seed(0)
    twin = nets.full_precision_twin(models.build("lenet5")).eval()
    path = onnx_export.write(twin, (1, 28, 28), tmp_path / "net.onnx")
    calls = onnx_runtime.networks(path, (1, 28, 28), 3, 1)
    assert set(calls) == {"onnx-fp32", "onnx-int8"}
    (full,), (small,) = calls["onnx-fp32"](), calls["onnx-int8"]()
    random = np.random.default_rng(0)  # the images of its calibration come first
    *_, x = (random.standard_normal((n, 1, 28, 28), dtype=np.float32) for n in (4, 4, 4, 4, 3))
    with torch.no_grad():
        wanted = twin(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(full, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(small - wanted).max() < 0.2 * np.abs(wanted).max()
    assert (tmp_path / "net.int8.onnx").stat().st_size < path.stat().st_size / 3


def test_a_damaged_record_is_named(tmp_path):
    assert not networks.newest_of_each(tmp_path)
    (tmp_path / "deploy-x-2026-01-01.json").write_text('{"date": 1')
    with pytest.raises(networks.BenchError, match="deploy-x-2026-01-01.json is no benchmark record"):
        networks.newest_of_each(tmp_path)
    whole = {"quick": False, "nets": {}, "runs": []}
    for cpu, day in (("x", "2026-01-01"), ("x", "2026-03-01"), ("x", "2026-02-01"), ("y", "2026-01-15")):
        environment = {"environment": {"cpu": cpu}}
        (tmp_path / f"deploy-{cpu}-{day}.json").write_text(json.dumps({"date": day, **environment, **whole}))
    found = [(r["environment"]["cpu"], r["date"]) for r in networks.newest_of_each(tmp_path)]
    assert found == [("x", "2026-03-01"), ("y", "2026-01-15")]


def test_an_unknown_recipe_is_named():
    answer = CliRunner().invoke(networks.app, ["s4-lenet"])
    assert answer.exit_code == 1 and "no recipe 's4-lenet'" in answer.stderr
