"""The measurement of gradients along a run: the run is the recipe's own, and what is measured is what the formulas say."""

import re

import pytest
import torch
import torch.nn.functional as F

from bnnlib import data, layers, models, recipes, records, storage
from bnnlib.book.studies import gradient_runs, gradients
from bnnlib.training import loop
from bnnlib.training.setup import setup

GRADIENTS = ["identity", "detached", "paper", "corrected", "s4"]


@pytest.fixture(scope="module")
def measured():
    recipe = recipes.load(gradients.RECIPE, {"batch_size": 32})
    return gradient_runs.measure(
        recipe,
        data.load("digits"),
        seeds=[1],
        steps=4,
        every=2,
        rounds=1,
        trained_with=["corrected", "detached"],
    )


def test_a_run_that_is_followed_is_the_recipes_own(monkeypatch, tmp_path):
    """Initial weights, augmentation, smoothing, accumulation: a run that is looked at ends at the weights of one that is
    not."""
    changes = {
        "batch_size": 48, "dataset": "digits", "epochs": 1, "init": "normal-fan-in", "augment": {"crop": 2},
        "label_smoothing": 0.1, "accumulate": 2, "optimizer.name": "sgd", "schedule": {"name": "cosine"},
    }  # fmt: skip
    recipe, digits = recipes.load(gradients.RECIPE, changes), data.load("digits")
    trained = loop.train(gradients.RECIPE, overrides=changes, runs=tmp_path, progress=False)
    kept = []
    monkeypatch.setattr(gradient_runs, "setup", lambda *a, **k: kept.append(setup(*a, **k)) or kept[-1])
    steps = -(-len(digits.train) // 48)
    gradient_runs.follow(recipe, digits, trained_with="corrected", seed=0, steps=steps, every=steps)
    for (name, a), (_, b) in zip(trained.model.state_dict().items(), kept[0].model.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_points_and_costs_of_a_measurement(measured):
    assert {(p.trained_with, p.step, p.layer) for p in measured.points} == {
        (kind, step, layer)
        for kind in ("corrected", "detached")
        for step in (0, 2, 3)
        for layer in ("conv2.layer", "fc1.layer")
    }
    assert {(p.layer, p.n) for p in measured.points} == {("conv2.layer", 500), ("fc1.layer", 800)}
    assert [c.what for c in measured.costs] == ["training step", "scaled sign"]
    for cost in measured.costs:
        assert set(cost.ratio) == set(cost.quartiles) == set(GRADIENTS)
        assert cost.ratio["detached"] == 1


def test_cosines_of_a_measurement_are_what_the_formulas_say(measured):
    for p in measured.points:
        assert p.cosine["corrected"] == pytest.approx(1)
        assert p.channel_cosine["s4"] == pytest.approx(1)
        # no |W| is above 1 here, so within a channel these three are multiples of g
        assert p.channel_cosine["identity"] == pytest.approx(p.channel_cosine["detached"], abs=1e-9)
        assert p.channel_cosine["identity"] == pytest.approx(p.channel_cosine["paper"], abs=1e-9)
        assert p.rms["s4"] == pytest.approx(
            p.rms["corrected"] * p.n * (1 - 1 / (20 if p.layer == "conv2.layer" else 800))
        )


def test_the_first_steps_are_those_of_training(measured):
    """The measured run is the recipe's own: the first point's g is what a hand-written first step gives."""
    recipe = recipes.load(gradients.RECIPE, {"batch_size": 32})
    torch.manual_seed(1)
    net = models.build(recipe.model.name, layer={"gradient": "identity"})
    layers.project_(net)
    _, x, y = next(data.Batches(data.load("digits").train, 32, seed=1, drop_last=True).epoch(0))
    F.cross_entropy(net(x), y).backward()
    expected = gradients.compare(net.fc1.layer.weight, net.fc1.layer.weight.grad)
    first = next(p for p in measured.points if p.layer == "fc1.layer" and p.step == 0)
    assert first.cosine["detached"] == pytest.approx(expected["cosine"]["detached"], rel=1e-3)
    assert first.along == pytest.approx(expected["along"], rel=1e-2)


def test_a_measurement_is_read_back_and_a_damaged_one_refused(measured, tmp_path):
    path = tmp_path / "m.json"
    text = measured.model_dump_json()
    storage.write_atomically(path, text.encode())
    assert gradients.read(path) == measured
    path.write_text(text[:-20])
    with pytest.raises(records.RecordError, match="m.json is damaged"):
        gradients.read(path)
    with pytest.raises(records.RecordError, match=re.escape("python -m bnnlib.gradients")):
        gradients.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d: gradient_runs.follow(
                recipes.load(gradients.RECIPE), d, trained_with="xnor", seed=0, steps=1, every=1
            ),
            "unknown gradient 'xnor'",
        ),
        (
            lambda d: gradient_runs.follow(
                recipes.load(gradients.RECIPE), d, trained_with="s4", seed=0, steps=0, every=1
            ),
            "steps is 0",
        ),
        (lambda d: gradient_runs.costs(recipes.load(gradients.RECIPE), d, rounds=0), "rounds is 0"),
        (
            lambda d: gradient_runs.costs(recipes.load("s3-mlp"), d, rounds=1),
            "s3-mlp: its binary layers have no scaled sign",
        ),
    ],
)
def test_impossible_measurements_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(data.load("digits"))


def test_the_stored_measurement_fits_its_recipe():
    path = gradients.FOLDER / "lenet5-cosine.json"
    if not path.exists():
        pytest.skip("not measured yet: python -m bnnlib.gradients")
    found = gradients.read(path)
    assert found.recipe_hash == recipes.load(found.recipe).hash(), (
        "the recipe has changed since: python -m bnnlib.gradients"
    )
    assert found.dataset.name == "mnist"
    assert {p.trained_with for p in found.points} == {"detached", "corrected"}
