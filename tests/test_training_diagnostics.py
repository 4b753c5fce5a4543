"""What is recorded of the signs in training: against brute force, and without a trace in the training itself."""

from __future__ import annotations

import copy
import signal

import numpy as np
import pytest
import torch
from torch import nn

from bnnlib import layers, recipes
from bnnlib.records import RecordError
from bnnlib.training import diagnostics, loop, stopping
from bnnlib.training.setup import load_data, setup, start_fabric
from bnnlib.training.steps import train_step, validate

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = """
title: a tiny run on the embedded digits
source: ours
dataset: digits
model: {name: lenet5}
epochs: 3
batch_size: 64
optimizer: {name: adam, lr: 0.01}
diagnostics: true
quick: {train: 320, test: 100, epochs: 3}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(recipe, folder, **options):
    return loop.train(recipe, profile="quick", runs=folder, progress=False, **options)


def a_net(recipe, tmp_path, **changes):
    recipe = recipes.load(recipe, changes).for_profile("quick", keep=changes)
    fabric = start_fabric("32-true")
    return setup(fabric, recipe, load_data(fabric, recipe, "quick", None), 0, profile="quick", runs=tmp_path)


def test_watching_leaves_the_training_as_it_is(recipe, tmp_path):
    watched, plain = run(recipe, tmp_path / "a"), run(recipe, tmp_path / "b", overrides={"diagnostics": False})
    for name in ("train_loss", "test_loss", "test_top1"):
        assert [getattr(e, name) for e in watched.record.curve] == [getattr(e, name) for e in plain.record.curve]
    for x, y in zip(watched.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    assert not diagnostics.path_of(plain.run_dir / "record.json").exists()
    found = diagnostics.read(diagnostics.path_of(watched.run_dir / "record.json"))
    assert (found.recipe, found.seed, found.started) == ("tiny", 0, watched.record.started)
    assert [e.epoch for e in found.epochs] == [1, 2, 3]
    for epoch, point in zip(found.epochs, watched.record.curve, strict=True):
        assert epoch.test_top1 == point.test_top1 and 0 <= epoch.renormed_top1 <= 100
        for layer in epoch.layers:
            assert sum(layer.histogram) == layer.weights and 0 < layer.flipped < 0.5
            assert 0 < layer.flipped_a_step < layer.flipped


def test_a_resumed_run_records_what_an_uninterrupted_one_does(recipe, tmp_path, monkeypatch):
    whole = run(recipe, tmp_path / "whole")
    original, seen = loop.train_step, []

    def interrupted(*args, **kwargs):
        seen.append(1)
        if len(seen) == 8:
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(stopping.Interrupted):
        patched.setattr(loop, "train_step", interrupted)
        run(recipe, tmp_path / "parts")
    parts = run(recipe, tmp_path / "parts")
    one, other = (diagnostics.read(diagnostics.path_of(r.run_dir / "record.json")) for r in (whole, parts))
    assert one.epochs == other.epochs


def test_flips_are_counted_as_by_comparing_signs(recipe, tmp_path):
    net = a_net(recipe, tmp_path)
    watch, before = diagnostics.Watch(net), {n: layer.binary_weight() for n, layer in layers.binary_layers(net.model).items()}
    shares: dict[str, list[float]] = {name: [] for name in before}
    net.model.train()
    for step, (_, x, y) in enumerate(net.train.epoch(0)):
        was = {n: layer.binary_weight() for n, layer in layers.binary_layers(net.model).items()}
        watch.step_begins(step)
        train_step(net, x, y, 0, step)
        watch.step_ended()
        for name, layer in layers.binary_layers(net.model).items():
            shares[name].append((layer.binary_weight() != was[name]).double().mean().item())
    for found in watch.epoch_ended(1, 50.0).layers:
        layer = layers.binary_layers(net.model)[found.name]
        assert found.flipped == pytest.approx((layer.binary_weight() != before[found.name]).double().mean().item())
        assert found.flipped_a_step == pytest.approx(np.mean(shares[found.name]))
        latent = layer.weight.detach().double().flatten().numpy()
        assert found.mean_abs == pytest.approx(abs(latent).mean())
        edges = np.array(diagnostics.EDGES) * abs(latent).mean()
        wanted = np.histogram(latent.clip(edges[0] * (1 - 1e-12), edges[-1] * (1 - 1e-12)), edges)[0]
        assert found.histogram == wanted.tolist()


@pytest.mark.parametrize("changes", [{"channels_last": True}, {"model.layer": {"scale": "learned", "transform": "center"}}], ids=["mean", "centred"])
def test_the_agreement_of_gradients_is_that_of_flipping_signs_one_by_one(recipe, tmp_path, changes):
    """By hand, with a real-valued convolution that holds +-1 in place of its first binary layer, and the loss's own
    difference. In float32 too: a rounding that turns a later layer's sign changes the loss as much as a flip does."""
    net = a_net(recipe, tmp_path, **changes)
    state = copy.deepcopy(net.model.state_dict())
    found = diagnostics.agreement(net)
    assert all(torch.equal(a, b) for a, b in zip(net.model.state_dict().values(), state.values(), strict=True))

    _, x, y = next(net.train.epoch(0))
    x, y = x[: diagnostics.IMAGES], y[: diagnostics.IMAGES]
    trained = copy.deepcopy(net.model).train()
    nn.functional.cross_entropy(trained(x), y).backward()
    name, layer = next(iter(layers.binary_layers(trained).items()))
    sample = torch.randperm(layer.weight.numel(), generator=diagnostics.random.generator(0, "flips", name))[: diagnostics.SAMPLED]
    signs, scale = layer.binary_weight().contiguous(), layer.scaling_factors()

    def loss(signs):
        model = copy.deepcopy(net.model).train()
        replaced = dict(model.named_modules())[name]
        bias = 0 if layer.bias is None else layer.bias[:, None, None]
        replaced.forward = lambda x: bias + scale * nn.functional.conv2d(
            torch.where(x >= 0, 1.0, -1.0), signs, None, replaced.stride, replaced.padding
        )
        return nn.functional.cross_entropy(model(x), y).item()

    slopes = []
    for i in sample.tolist():
        flipped = signs.clone()
        flipped.view(-1)[i] *= -1
        slopes.append((loss(flipped) - loss(signs)) / (-2 * signs.view(-1)[i].item()))
    gradient = layer.weight.grad.flatten()[sample].double().numpy()
    wanted = gradient @ slopes / np.linalg.norm(gradient) / np.linalg.norm(slopes)
    assert found[name] == pytest.approx(wanted, abs=1e-4)
    assert found[name] > 0.2, "the estimator points the same way"


def test_batch_norm_is_estimated_anew_on_training_images(recipe, tmp_path):
    net = a_net(recipe, tmp_path)
    for step, (_, x, y) in enumerate(net.train.epoch(0)):
        train_step(net, x, y, 0, step)
    wanted = diagnostics.renormed_top1(net)
    norms = [m for m in net.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.running_mean += 100
    spoiled = validate(net, net.test)["top1"]
    assert diagnostics.renormed_top1(net) == wanted > spoiled + 20
    assert all(norm.running_mean.min() > 50 for norm in norms), "the net itself stays as it is"


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "signs-seed0.json"
    path.write_text("{}")
    with pytest.raises(RecordError, match="signs-seed0.json is no record of signs"):
        diagnostics.read(path)
    with pytest.raises(RecordError, match="signs-seed9.json"):
        diagnostics.read(tmp_path / "signs-seed9.json")
