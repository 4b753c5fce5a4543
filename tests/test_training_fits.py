"""A data set of one's own under a recipe: what does not fit is named, with the field that mends it, before anything is trained."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bnnlib import models, recipes
from bnnlib.recipes import RecipeError
from bnnlib.training import fits, loop


@pytest.fixture
def folder(tmp_path):
    def make(classes, channels=1, size=28, count=12):
        rng = np.random.default_rng(0)
        for part in ("train", "test"):
            for name in range(classes):
                (tmp_path / "own" / part / f"c{name:02}").mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 256, (size, size) if channels == 1 else (size, size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / "own" / part / f"c{name:02}" / f"{i}.png")
        return f"imagefolder:{tmp_path / 'own'}"

    return make


def train(tmp_path, name, **changes):
    changes = {"dataset": name, "quick.train": 20, "quick.test": 10, **changes}
    return loop.train("s4-lenet5", profile="quick", overrides=changes, runs=tmp_path / "runs", out=tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("tree", "changes", "message"),
    [
        ({"classes": 12}, {}, r"has 10 outputs, and imagefolder:.* has 12 classes: --set model.classes=12"),
        ({"classes": 2, "channels": 3}, {}, r"does not take images of imagefolder:.*, 3x28x28 .*--set model.in_channels=3"),
        ({"classes": 2, "size": 20}, {}, r"does not take images of .*, 1x20x20"),
        (
            {"classes": 2, "size": 96},
            {"model.name": "resnet18", "model.image": 64, "model.in_channels": 1, "model.classes": 2, "model.width": 8},
            r"1x96x96 .*for another size of image --set model.image=96",
        ),
    ],
)
def test_what_does_not_fit_is_named(tree, changes, message, folder, tmp_path):
    with pytest.raises(RecipeError, match=message):
        train(tmp_path, folder(**tree), **changes)


def test_a_net_that_reads_numbers_while_it_is_built_is_no_mistake(monkeypatch):
    def build(size: int = 2):
        return nn.Linear(int(torch.full((1,), size).item()), 1)

    monkeypatch.setitem(models.BUILDERS, "reads", build)
    recipe = recipes.load("s4-lenet5", {"model.name": "reads", "model.size": 3})
    state = torch.get_rng_state()
    fits.check_names(recipe)
    assert torch.equal(torch.get_rng_state(), state), "no random number is used up"
    with pytest.raises(ValueError, match="unknown option 'sizes' of model 'reads'"):
        fits.check_names(recipes.load("s4-lenet5", {"model.name": "reads", "model.sizes": 3}))


def test_fewer_classes_are_trained_with_a_word(folder, tmp_path):
    name = folder(classes=3)
    with pytest.warns(UserWarning, match="10 outputs for 3 classes .*--set model.classes=3 leaves none unused"):
        train(tmp_path, name)
