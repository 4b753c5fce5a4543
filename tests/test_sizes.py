"""Whole files against their parts counted by hand, operations against the arithmetic of the layers."""

import pytest
import torch

from bnnlib import building, models, recipes, sizes


def net(**options):
    with torch.device("meta"):
        return models.build("resnet18", image=64, classes=200, **options)


def test_operations_of_each_downsample_by_hand():
    x = torch.zeros(1, 3, 64, 64, device="meta")
    sides = (16, 8, 4, 2)
    widths = (64, 128, 256, 512)
    body = sum(
        (4 * w * w - (w * w // 2 if i else 0)) * 9 * s * s  # the first conv of a stage has half the inputs
        for i, (w, s) in enumerate(zip(widths, sides, strict=True))
    )
    shortcuts = sum(w * (w // 2) * s * s for w, s in zip(widths[1:], sides[1:], strict=True))
    ends = 3 * 64 * 49 * 32 * 32 + 512 * 200
    expected = {
        "real": (body, 0, ends + shortcuts),
        "binary-weight": (body, shortcuts, ends),
        "binary": (body + shortcuts, 0, ends),
    }
    for downsample, counts in expected.items():
        assert sizes.operations(net(downsample=downsample), x) == dict(zip(sizes.KINDS, counts, strict=True))


def test_operations_of_linear_layers_and_real_valued_nets():
    lenet = models.build("lenet5-real")
    found = sizes.operations(lenet, torch.zeros(1, 1, 28, 28))
    assert found["1-bit"] == found["additions"] == 0
    assert found["real"] == 20 * 25 * 24 * 24 + 50 * 20 * 25 * 8 * 8 + 800 * 500 + 500 * 10
    binary = sizes.operations(models.build("lenet5"), torch.zeros(1, 1, 28, 28))
    assert binary["1-bit"] == 50 * 20 * 25 * 8 * 8 + 800 * 500


def test_a_file_is_its_bits_and_a_header():
    recipe = recipes.load("s4-lenet5")
    counts = building.parameter_count(building.model(recipe))
    (whole,) = sizes.packed_bytes(recipe)
    # rows of bits are padded to whole words; the header names every tensor; counters of batches are left out
    assert counts["bits"] / 8 < whole < counts["bits"] / 8 + 12_000
    floats, halves, bytes_ = sizes.packed_bytes(recipe, ("float32", "bfloat16", "int8"))
    assert floats == whole and bytes_ < halves < floats
    real = sizes.packed_bytes(recipes.load("s4-lenet5-real"))[0]
    assert real == pytest.approx(4 * counts["total"], rel=0.01)
