"""NIN and the VGG-style nets: parameters counted by hand from the sources' tables, order of the layers,
shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnnlib import layers, models, quantizers

# NIN: (C_in, C_out, kernel) of each binary block, with 2 C_in of its batch norm, and C_out biases
NIN_BLOCKS = [
    (192, 160, 1),
    (160, 96, 1),
    (96, 192, 5),
    (192, 192, 1),
    (192, 192, 1),
    (192, 192, 3),
    (192, 192, 1),
]
NIN = (
    (3 * 25 * 192 + 192)
    + sum(2 * i + i * o * k * k + o for i, o, k in NIN_BLOCKS)
    + 2 * 192
    + (192 * 10 + 10)
)
VGG_CONVS = [(128, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
VGG_BODY = sum(9 * i * o for i, o in VGG_CONVS)
CLASSIFIER = (8192 * 1024 + 1024) + 2 * 1024 + (1024 * 10 + 10)
VGG = (27 * 128 + 2 * 128) + VGG_BODY + sum(2 * i for i, _ in VGG_CONVS) + CLASSIFIER
SHORTCUTS = (128 * 256 + 2 * 256) + (256 * 512 + 2 * 512)
TEACHER = (
    sum(9 * i * o + 2 * o for i, o in [(3, 128), (128, 256), (256, 512)])
    + (8192 * 1024 + 1024)
    + (1024 * 10 + 10)
)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "total", "binary"),
    [
        ("nin", {}, NIN, sum(i * o * k * k for i, o, k in NIN_BLOCKS)),
        ("nin-real", {}, NIN, 0),
        ("vgg", {}, VGG, VGG_BODY),
        ("vgg", {"shortcut": True}, VGG + SHORTCUTS, VGG_BODY),
        ("vgg", {"binary": False}, VGG, 0),
        (
            "vgg",
            {"shortcut": True, "layer": {"scale": "learned"}},
            VGG + SHORTCUTS + sum(o for _, o in VGG_CONVS),
            VGG_BODY,
        ),
        ("s2-teacher", {}, TEACHER, 0),
    ],
    ids=str,
)
def test_parameters_as_counted_by_hand(name, options, total, binary):
    model = models.build(name, **options)
    assert count(model) == total
    assert sum(m.weight.numel() for m in layers.binary_layers(model).values()) == binary


def test_the_binary_convs_take_the_memory_that_s2_states():
    assert VGG_BODY * 4 / 2**20 == 18.0 and VGG_BODY / 8 / 2**20 == 0.5625


@pytest.mark.parametrize("name", ["nin", "nin-real", "vgg", "s2-teacher", "ours-vgg"])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_gradients(name, training):
    torch.manual_seed(0)
    model = models.build(name).train(training)
    x = torch.randn(2, 3, 32, 32)
    y = model(x)
    assert y.shape == (2, 10) and y.isfinite().all()
    if training:
        y.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["nin", "vgg", "ours-vgg"])
def test_the_gradient_passes_through_every_binary_conv(name):
    """Not around it alone: an estimator whose derivative is 0 at -1 and +1 stops it behind another sign."""
    torch.manual_seed(0)
    model, passed = models.build(name), {}
    for at, layer in layers.binary_layers(model).items():
        layer.register_full_backward_hook(lambda _, given, __, at=at: passed.update({at: given[0].abs().sum().item()}))
    model(torch.randn(4, 3, 32, 32, requires_grad=True)).square().sum().backward()
    assert passed.keys() == layers.binary_layers(model).keys() and min(passed.values()) > 0


def test_our_block_has_the_polynomial_estimators_gradient():
    torch.manual_seed(0)
    block = models.build("ours-vgg").blocks[0].double()
    with torch.no_grad():
        block.sign.shift.normal_(std=0.3)
    x = torch.randn(2, 128, 5, 5, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(2, 128, 5, 5, dtype=torch.float64)
    found = torch.autograd.grad(block.conv(block.sign(x)), (x, block.sign.shift), dy)
    shifted = x + block.sign.shift[:, None, None]
    weight = quantizers.sign(quantizers.standardize(block.conv.weight)).detach()
    through = torch.nn.grad.conv2d_input(x.shape, weight, dy, padding=1)
    expected = (through * (2 - 2 * shifted.abs()).clamp(min=0)).detach()
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], expected.sum((0, 2, 3)))


def test_vgg_block_in_both_orders_and_with_its_shortcut():
    torch.manual_seed(0)
    x = torch.randn(2, 128, 8, 8)
    block = models.build("vgg").blocks[1].eval()
    w = quantizers.sign(block.conv.weight)
    alpha = block.conv.weight.abs().mean((1, 2, 3))[:, None, None]
    expected = F.max_pool2d(F.conv2d(quantizers.sign(block.bn(x)), w, padding=1) * alpha, 2)
    torch.testing.assert_close(block(x), expected)

    block = models.build("vgg", order="sign-conv-bn").blocks[1].eval()
    w, alpha = (
        quantizers.sign(block.conv.weight),
        block.conv.weight.abs().mean((1, 2, 3))[:, None, None],
    )
    torch.testing.assert_close(
        block(x), F.max_pool2d(block.bn(F.conv2d(quantizers.sign(x), w, padding=1) * alpha), 2)
    )

    block = models.build("vgg", shortcut=True, layer={"scale": "none"}).blocks[2].eval()
    conv, norm = block.shortcut
    side = norm(F.conv2d(x, conv.weight))
    main = F.conv2d(quantizers.sign(block.bn(x)), quantizers.sign(block.conv.weight), padding=1)
    torch.testing.assert_close(block(x), main + side)
    block.pool = True
    torch.testing.assert_close(block(x), F.max_pool2d(main, 2) + F.max_pool2d(side, 2))
    assert isinstance(models.build("vgg", shortcut=True).blocks[0].shortcut, nn.Identity)


def test_a_sign_after_the_stems_relu_sees_nothing_of_the_image():
    """Why the recipe with S1's order in words leaves that ReLU out."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    blind = models.build("vgg", order="sign-conv-bn").eval()(x)
    assert torch.equal(blind[0], blind[1])
    seeing = models.build("vgg", order="sign-conv-bn", stem_act="none").eval()(x)
    assert not torch.equal(seeing[0], seeing[1])


def test_nin_drops_out_behind_the_pools_alone_and_after_the_sign():
    found = {name: m.dropout for name, m in layers.binary_layers(models.build("nin")).items() if m.dropout}
    assert found == {"features.6.layer": 0.5, "features.10.layer": 0.5}


def test_our_body_holds_no_real_valued_conv():
    model = models.build("ours-vgg")
    assert not [m for m in model.blocks.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sum(m.weight.numel() for m in layers.binary_layers(model).values()) == VGG_BODY


@pytest.mark.parametrize("shifts", [True, False])
@pytest.mark.parametrize("shortcut", ["each", "pairs", "none"])
def test_our_body_taken_apart(shifts, shortcut):
    """Each choice against the formula: the first two blocks, the second of which pools, and the two after them, in which
    the width doubles."""
    torch.manual_seed(0)
    model = models.build("ours-vgg", shifts=shifts, act="prelu", shortcut=shortcut).eval()
    blocks = [m for m in model.blocks.modules() if hasattr(m, "conv")]
    assert len(blocks) == 6
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, layers.RSign):
            nn.init.normal_(module.shift, std=0.3)
    with torch.no_grad():
        given = x = start = model.stem(torch.randn(2, 3, 32, 32))
        for at, block in enumerate(blocks):
            signs = quantizers.sign(x + block.sign.shift[:, None, None] if shifts else x)
            y = F.conv2d(signs, quantizers.sign(quantizers.standardize(block.conv.weight)), padding=1)
            pooled = at % 2 == 1
            y = block.bn(F.max_pool2d(y, 2) if pooled else y)
            side = F.avg_pool2d(x, 2) if pooled else x
            if side.shape[1] != y.shape[1]:
                side = torch.cat([side] * (y.shape[1] // side.shape[1]), 1)
            x = block.act(y + side if shortcut == "each" else y)
            if shortcut == "pairs" and pooled:
                around = F.avg_pool2d(given, 2)
                x = x + torch.cat([around] * (x.shape[1] // around.shape[1]), 1)
                given = x
        torch.testing.assert_close(model.blocks(start), x)
    assert ("blocks.0.sign.shift" in model.state_dict()) == (shifts and shortcut != "pairs")


@pytest.mark.parametrize(
    ("name", "options"),
    [("vgg", {"order": "bn-conv"}), ("ours-vgg", {"classifier": "max"}), ("ours-vgg", {"shortcut": "both"}), ("nin", {"act": "gelu"})],
    ids=str,
)
def test_unknown_choices_are_named(name, options):
    with pytest.raises(ValueError, match=repr(next(iter(options.values())))):
        models.build(name, **options)


@pytest.mark.parametrize("shortcut", ["each", "pairs", "none"])
def test_our_net_converts_whole(shortcut):
    """Nothing of it is left to PyTorch, whatever it is taken apart into."""
    from bnnlib import deploy

    net = deploy.convert(models.build("ours-vgg", shortcut=shortcut).eval(), (3, 32, 32))
    assert not net.calls
