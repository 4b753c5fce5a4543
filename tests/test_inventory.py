"""Layers counted by hand, and the entropy of signs against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bnnlib import layers, models
from bnnlib.book.studies import inventory
from bnnlib.deploy.preparing import hooked
from bnnlib.training import building

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_layers_of_s1s_net_as_counted_by_hand():
    found = inventory.weighted_layers(models.build("vgg"), X)
    widths = [(3, 128, 32), (128, 128, 32), (128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 512, 8)]
    widths.append((512, 512, 8))
    convs = [(9 * i * o, 9 * i * o * side * side) for i, o, side in widths]
    assert [(layer.weights, layer.macs) for layer in found[:7]] == convs
    assert [(layer.shape, layer.macs) for layer in found[7:]] == [
        ((1024, 8192), 8192 * 1024),
        ((10, 1024), 10 * 1024),
    ]
    assert [layer.binary for layer in found] == [False] + 6 * [True] + 2 * [False]
    assert found[1].products == 9 * 128 and found[1].output == (128, 32, 32)
    assert found[1].bits == found[1].weights and found[0].bits == 32 * found[0].weights


@pytest.mark.parametrize("name", ["vgg", "nin", "nin-real", "s2-teacher", "ours-vgg", "convnet"])
def test_the_weights_found_are_the_models(name):
    model = models.build(name, **({"in_channels": 3} if name == "convnet" else {}))
    found = inventory.weighted_layers(model, X)
    assert sum(layer.weights for layer in found if layer.binary) == building.parameter_count(model)["binary"]
    assert {layer.name + ".weight" for layer in found} == {
        n for n, p in model.named_parameters() if p.dim() > 1
    }
    table = inventory.frame(model, X)
    assert table["KiB at 32 bits"].sum() * 256 == pytest.approx(sum(layer.weights for layer in found))


def test_a_linear_layer_on_more_than_rows_and_a_grouped_stride():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Linear(2, 5))
    conv, linear = inventory.weighted_layers(net, torch.zeros(1, 4, 5, 5))
    assert conv.macs == 6 * 2 * 2 * (2 * 9) and conv.products == 18
    assert linear.weights == 10


def test_a_look_leaves_the_model_as_it_was():
    model = models.build("vgg").train()
    model.blocks[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inventory.sign_information(model, X)
    inventory.weighted_layers(model, X)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and not model.blocks[2].training and not model.blocks[2].conv.training
    assert not any(map(hooked, model.modules()))


def test_entropy_by_its_definition():
    for p in (0.1, 0.25, 0.5, 0.9):
        expected = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
        assert inventory.entropy(torch.tensor(p, dtype=torch.float64)).item() == pytest.approx(expected)


def test_information_of_signs_that_are_known():
    """Channel 0 all positive, channel 1 half, channel 2 one quarter negative: (0 + 1 + 0.811) / 3 bits."""
    x = torch.ones(1, 3, 2, 2)
    x[0, 1, 0] = x[0, 2, 0, 0] = -1
    net = nn.Sequential(layers.BinaryConv2d(3, 2, 1))
    quarter = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    (found,) = inventory.sign_information(net, x).values()
    assert found == pytest.approx((1 + quarter) / 3)


def resnet(**options):
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
        assert inventory.operations(resnet(downsample=downsample), x) == dict(zip(inventory.KINDS, counts, strict=True))


def test_operations_of_linear_layers_and_real_valued_nets():
    lenet = models.build("lenet5-real")
    found = inventory.operations(lenet, torch.zeros(1, 1, 28, 28))
    assert found["1-bit"] == found["additions"] == 0
    assert found["real"] == 20 * 25 * 24 * 24 + 50 * 20 * 25 * 8 * 8 + 800 * 500 + 500 * 10
    binary = inventory.operations(models.build("lenet5"), torch.zeros(1, 1, 28, 28))
    assert binary["1-bit"] == 50 * 20 * 25 * 8 * 8 + 800 * 500
