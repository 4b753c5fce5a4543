"""Sizes computed without weights are those of the files that are written."""

import pytest
import safetensors.torch
import torch

from bnnlib import deploy, models, recipes
from bnnlib.deploy import sizes
from bnnlib.training import building


@pytest.mark.parametrize("name", ["s4-lenet5", "s3-mlp", "ours-lenet5", "tiny-s5-resnet18-dense"])
def test_the_size_of_the_file(tmp_path, name):
    recipe = recipes.load(name)
    found = sizes.of(recipe.model.name, recipe.model.options)
    model = models.build(recipe.model.name, **recipe.model.options)
    for real in ("float32", "bfloat16", "int8"):
        path = deploy.save(model, tmp_path / "x", recipe=recipe, real=real)
        # the document says besides where the model comes from
        assert 0 < path.stat().st_size - getattr(found, real) < 600
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    safetensors.torch.save_file(state, tmp_path / "fp32")
    assert abs((tmp_path / "fp32").stat().st_size - found.fp32) < 400
    assert 31 < found.latent / found.bits <= 32
    assert found.factor == pytest.approx(found.fp32 / found.float32)


def test_sizes_take_no_memory():
    """A model of 4 TB."""
    found = sizes.of("mlp", {"features": 10**9})
    assert found.fp32 > 4 * 1024 * 10**9
    assert not torch.zeros(1).is_meta


def test_a_file_is_its_bits_and_a_header():
    found, real = sizes.of("lenet5"), sizes.of("lenet5-real")
    counts = building.parameter_count(models.build("lenet5"))
    # rows of bits are padded to whole words; the header names every tensor; counters of batches are left out
    assert counts["bits"] / 8 < found.float32 < counts["bits"] / 8 + 12_000
    assert found.int8 < found.bfloat16 < found.float32
    assert real.float32 == pytest.approx(4 * counts["total"], rel=0.01)
