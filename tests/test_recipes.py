"""The recipes of the library: all load, build, and say what their sources say."""

import inspect
import json
from pathlib import Path

import pytest
import torch

from bnnlib import models, recipes
from bnnlib.recipes import Recipe, load


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_loads_and_builds(name):
    recipe = load(name)
    assert recipe.name == name
    assert models.build(recipe.model.name, **recipe.model.options)
    assert Recipe.model_validate_json(json.dumps(recipe.resolved())) == recipe  # as a record keeps it
    head = (
        name.split("-")[0]
        if name.split("-")[0] in ("s1", "s2", "s3", "s4", "s5", "ours")
        else name.split("-")[1]
    )
    assert head == recipe.source.lower()  # the source's id comes first, or right after a data set
    quick = recipe.for_profile("quick")
    assert (quick.epochs, quick.compile, quick.precision) == (recipe.quick.epochs, False, "32-true")
    assert recipe.for_profile("full") is recipe


def test_the_four_recipes_of_s4_and_s3_say_what_the_sources_say():
    lenet, real, mlp, mlp_real = map(load, ("s4-lenet5", "s4-lenet5-real", "s3-mlp", "s3-mlp-real"))
    assert (lenet.epochs, lenet.batch_size, lenet.seeds, lenet.dataset, lenet.input, lenet.augment) == (
        60,
        128,
        5,
        "mnist",
        "normalized",
        None,
    )
    assert (lenet.optimizer.name, lenet.optimizer.lr, lenet.optimizer.weight_decay) == ("adam", 0.01, 1e-5)
    assert (lenet.schedule.name, lenet.schedule.every, lenet.schedule.gamma) == ("step", 15, 0.1)
    assert (lenet.published.top1, real.published.top1, lenet.published.epoch) == (
        99.23,
        99.34,
        "best-on-test",
    )
    assert (mlp.epochs, mlp.batch_size, mlp.seeds, mlp.input, mlp.stop_epoch_below_loss) == (
        5,
        100,
        3,
        "unit",
        0.009,
    )
    assert (mlp.optimizer.name, mlp.optimizer.lr, mlp.optimizer.weight_decay, mlp.published.top1) == (
        "adam",
        0.004,
        0,
        None,
    )
    for binary, twin in ((lenet, real), (mlp, mlp_real)):
        differing = {k for k, v in binary.resolved().items() if twin.resolved()[k] != v}
        assert differing - {"name", "title", "published"} == {"model"}
        assert twin.model.name == f"{binary.model.name}-real"


def test_defaults_of_the_nets_are_those_that_the_records_were_made_with():
    """A record holds the options that its recipe states, not the builder's defaults: a default that changes must be
    stated in the recipes that have records, and then here."""
    found = {
        name: {
            parameter.name: parameter.default
            for parameter in inspect.signature(build).parameters.values()
            if parameter.default is not inspect.Parameter.empty
        }
        for name, build in models.BUILDERS.items()
    }
    expected = json.loads((Path(__file__).parent / "builder_defaults.json").read_text())
    assert json.loads(json.dumps(found)) == expected


@pytest.mark.parametrize("name", recipes.names())
def test_the_demo_profile_of_every_recipe_is_a_net_that_can_be_built(name):
    demo = load(name).for_profile("demo")
    with torch.device("meta"):
        models.build(demo.model.name, **demo.model.options)
    assert demo.epochs > demo.schedule.warmup_epochs
    if demo.dataset in ("cifar10", "tiny-imagenet"):
        assert load(name).demo.train <= 5000, "minutes"
