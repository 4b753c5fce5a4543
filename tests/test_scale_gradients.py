"""The recipes that differ in the gradient of the scaled sign alone, and the learning rates that they train at."""

import json

import pytest

from bnnlib import layers, models, recipes, records
from bnnlib.book.studies import scale_gradients

GRADIENTS = ["identity", "detached", "paper", "corrected", "s4"]


def test_the_short_recipes_differ_in_the_gradient_alone():
    rest = []
    for gradient in GRADIENTS:
        fields = recipes.load(f"s4-lenet5-15ep-{gradient}").resolved()
        model = fields.pop("model")
        net = models.build(model.pop("name"), **model)
        assert {m.weight_quantizer.gradient for m in layers.binary_layers(net).values()} == {gradient}
        assert fields.pop("factors") == {"gradient": gradient}
        rest.append({k: v for k, v in fields.items() if k not in ("name", "title")})
    assert all(fields == rest[0] for fields in rest)
    assert rest[0]["published"]["top1"] is None


@pytest.mark.parametrize("net", ["mlp", "lenet5"])
def test_each_gradient_is_trained_at_the_rate_that_its_search_found_best(net):
    best = scale_gradients.best_rates(net)
    for gradient, name in scale_gradients.names(net).items():
        assert recipes.load(name).optimizer.lr == best[gradient], gradient
    tried = json.loads(scale_gradients.rates_path(net).read_text())["validation_top1"]
    assert {tuple(sorted(map(float, rates))) for rates in tried.values()} == {scale_gradients.RATES}
    assert min(scale_gradients.SEARCH_SEEDS) >= max(recipes.load(n).seeds for n in scale_gradients.names(net).values())


@pytest.mark.parametrize("net", ["mlp", "lenet5"])
def test_the_wrong_images_of_each_run_are_those_of_its_record(net):
    errors = scale_gradients.read(scale_gradients.errors_path(net))
    for gradient, name in scale_gradients.names(net).items():
        by_seed = {run.seed: run for run in records.read_all(recipe=name)}
        assert sorted(by_seed) == sorted(map(int, errors["wrong"][gradient])) == list(range(recipes.load(name).seeds))
        for seed, wrong in errors["wrong"][gradient].items():
            right = 100 * (1 - len(wrong) / errors["test_images"])
            assert by_seed[int(seed)].top1_last == pytest.approx(right, abs=0.02), (gradient, seed)
