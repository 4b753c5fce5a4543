"""The networks: their parameters, order and shapes as the sources have them."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnnlib import layers, models
from bnnlib.layers import BinaryConv2d, BinaryLinear, RPReLU
from bnnlib.models.blocks import Block, activation


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def leaves(model: nn.Module) -> list[str]:
    """Modules that hold no others but the parts of a binary layer."""
    inside = {part for m in model.modules() if isinstance(m, layers.BinaryLayer) for part in m.children()}
    whole = [m for m in model.modules() if isinstance(m, layers.BinaryLayer) or not list(m.children())]
    return [type(m).__name__ for m in whole if m not in inside]


# ---- LeNet-5 (S4) ------------------------------------------------------------------------------------------

# conv1        1 x 20 x 5 x 5 + 20 biases          520
# bn1          no affine                             0
# conv2.bn     gamma and beta of 20                 40
# conv2       20 x 50 x 5 x 5 + 50 biases       25,050
# fc1.bn       gamma and beta of 50                100
# fc1        800 x 500 + 500 biases            400,500
# fc2        500 x 10 + 10 biases                5,010
LENET5 = 520 + 40 + 25_050 + 100 + 400_500 + 5_010


@pytest.mark.parametrize("name", ["lenet5", "lenet5-real"])
def test_lenet5_has_the_sources_parameters(name):
    assert LENET5 == 431_220
    assert count(models.build(name)) == LENET5


def test_lenet5_is_binary_in_the_middle_alone():
    binary = layers.binary_layers(models.build("lenet5"))
    assert {name: tuple(m.weight.shape) for name, m in binary.items()} == {
        "conv2.layer": (50, 20, 5, 5),
        "fc1.layer": (500, 800),
    }
    for m in binary.values():
        assert isinstance(m.weight_quantizer, layers.ScaledSign) and m.weight_quantizer.gradient == "s4"
        assert [type(part) for part in (m.input_quantizer, m.constraint)] == [layers.ClippedSTE, layers.CenterClip]
        assert m.input_quantizer.zero == 1 and m.output_scale is None
        assert m.bias is not None
    assert not layers.binary_layers(models.build("lenet5-real"))


def test_lenet5_norms_are_s4s():
    net = models.build("lenet5")
    norms = [net.bn1, net.conv2.bn, net.fc1.bn]
    assert [(m.num_features, m.eps, m.momentum, m.affine) for m in norms] == [
        (20, 1e-4, 0.1, False),
        (20, 1e-4, 0.1, True),
        (50, 1e-4, 0.1, True),
    ]
    with torch.no_grad():
        net.conv2.bn.weight.fill_(-3)
        net.fc1.bn.weight.fill_(0.5)
    layers.project_(net)
    assert net.conv2.bn.weight.unique().tolist() == [pytest.approx(0.01)]
    assert net.fc1.bn.weight.unique().tolist() == [0.5]


def test_lenet5_computes_the_layers_in_s4s_order():
    """Written out: conv BN ReLU pool, [BN sign conv ReLU] pool, [BN sign linear ReLU], linear."""
    torch.manual_seed(0)
    net = models.build("lenet5").double().eval()
    for norm in (net.bn1, net.conv2.bn, net.fc1.bn):
        nn.init.normal_(norm.running_mean, 0, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(5, 1, 28, 28, dtype=torch.float64)
    p = net.state_dict()

    def norm(v, name):
        shape = (1, -1, 1, 1)
        v = (v - p[f"{name}.running_mean"].view(shape)) / (p[f"{name}.running_var"].view(shape) + 1e-4).sqrt()
        return (
            v * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)
            if f"{name}.weight" in p
            else v
        )

    def pm(v):
        return (v >= 0).double() * 2 - 1

    v = F.max_pool2d(norm(F.conv2d(x, p["conv1.weight"], p["conv1.bias"]), "bn1").relu(), 2)
    w = p["conv2.layer.weight"]
    alpha = w.abs().mean((1, 2, 3)).view(-1, 1, 1, 1)
    v = F.max_pool2d(F.conv2d(pm(norm(v, "conv2.bn")), alpha * pm(w), p["conv2.layer.bias"]).relu(), 2)
    v = pm(norm(v, "fc1.bn")).reshape(5, 800)
    w = p["fc1.layer.weight"]
    v = F.linear(v, w.abs().mean(1, keepdim=True) * pm(w), p["fc1.layer.bias"]).relu()
    torch.testing.assert_close(net(x), F.linear(v, p["fc2.weight"], p["fc2.bias"]), rtol=1e-9, atol=1e-10)


def test_the_real_lenet5_is_the_binary_one_without_signs():
    torch.manual_seed(0)
    binary, real = models.build("lenet5"), models.build("lenet5-real")
    assert list(binary.state_dict()) == list(real.state_dict())  # so weights may be carried over
    twin = [{"BinaryConv2d": "Conv2d", "BinaryLinear": "Linear"}.get(name, name) for name in leaves(binary)]
    assert leaves(real) == twin
    real.load_state_dict(binary.state_dict())
    real.eval()
    x = torch.randn(3, 1, 28, 28)
    v = real.pool(real.bn1(real.conv1(x)).relu())
    v = real.pool(real.conv2.layer(real.conv2.bn(v)).relu())
    v = real.fc1.layer(real.fc1.bn(v).flatten(1)).relu()
    torch.testing.assert_close(real(x), real.fc2(v))


def test_lenet5_options():
    net = models.build(
        "lenet5",
        in_channels=3,
        classes=7,
        act="rprelu",
        gamma_min=None,
        first_affine=True,
        layer={"scale": "learned", "latent": "free"},
    )
    assert net(torch.randn(2, 3, 28, 28)).shape == (2, 7)
    # + conv1 of 3 channels, bn1 affine, 3 vectors for each of 3 activations, 2 learned scales, fewer classes
    assert count(net) == LENET5 + 2 * 20 * 25 + 2 * 20 + 3 * (20 + 50 + 500) + 50 + 500 - 3 * 501
    assert [m.scale_kind for m in layers.binary_layers(net).values()] == ["learned", "learned"]
    kept = layers.binary_layers(models.build("lenet5", layer={"latent": "free"})).values()
    assert {m.weight_quantizer.gradient for m in kept} == {"s4"}  # what is not given stays S4's
    with torch.no_grad():
        net.fc1.bn.weight.fill_(-3)
    layers.project_(net)
    assert net.fc1.bn.weight.unique().tolist() == [-3]


# ---- the MLP (S3) ------------------------------------------------------------------------------------------

MLP = (784 * 1024 + 1024) + (1024 * 768 + 768) + (768 * 512 + 512) + (512 * 10 + 10)


@pytest.mark.parametrize("name", ["mlp", "mlp-real"])
def test_mlp_has_the_sources_parameters(name):
    assert MLP == 1_989_898
    net = models.build(name)
    assert count(net) == MLP
    assert [(m.in_features, m.out_features) for m in (net.fc1, net.fc2, net.fc3, net.fc4)] == [
        (784, 1024),
        (1024, 768),
        (768, 512),
        (512, 10),
    ]
    assert list(net.state_dict()) == [f"fc{i}.{p}" for i in (1, 2, 3, 4) for p in ("weight", "bias")]


def test_mlp_computes_the_layers_in_s3s_order():
    torch.manual_seed(0)
    net, real = models.build("mlp").double().eval(), models.build("mlp-real").double()
    real.load_state_dict(net.state_dict())
    x = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    p = net.state_dict()
    v = F.linear(
        F.linear(x.flatten(1), p["fc1.weight"], p["fc1.bias"]), p["fc2.weight"], p["fc2.bias"]
    ).relu()  # none between the two
    assert (v == 0).any()

    def strict(t):  # S3's rule: only what is above zero is +1
        return (t > 0).double() * 2 - 1

    assert not (p["fc3.weight"] == 0).any()  # so S3's rule and ours agree on the weights
    last = F.linear(
        F.linear(strict(v), strict(p["fc3.weight"]), p["fc3.bias"]).relu(), p["fc4.weight"], p["fc4.bias"]
    )
    torch.testing.assert_close(net(x), last, rtol=1e-12, atol=1e-12)
    last = F.linear(F.linear(v, p["fc3.weight"], p["fc3.bias"]).relu(), p["fc4.weight"], p["fc4.bias"])
    torch.testing.assert_close(real(x), last, rtol=1e-12, atol=1e-12)


def test_s3s_layer_is_identity_ste_without_scale():
    layer = models.build("mlp").fc3
    assert isinstance(layer, BinaryLinear)
    assert type(layer.input_quantizer) is type(layer.weight_quantizer) is layers.IdentitySTE
    assert layer.output_scale is layer.constraint is None and layer.input_quantizer.zero == -1
    assert layer.bias is not None


def test_s3s_layer_would_be_constant_with_sign_of_zero_plus_one():
    """After a ReLU nothing is negative: with sign(0) = +1 the layer is fed ones alone, whatever the image."""
    torch.manual_seed(0)
    net = models.build("mlp").eval()
    x = torch.rand(20, 1, 28, 28)
    assert len(net(x).unique(dim=0)) > 1
    net.fc3.input_quantizer = layers.IdentitySTE()
    assert len(net(x).unique(dim=0)) == 1


# ---- blocks, teachers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_block_of_a_flat_input(binary):
    block = Block(12, 5, binary=binary, dropout=0.5)
    assert isinstance(block.bn, nn.BatchNorm1d)
    assert block(torch.randn(4, 12)).shape == (4, 5)
    assert (block(torch.randn(4, 12)) >= 0).all()  # ReLU at the end
    dropouts = [m.p for m in block.modules() if isinstance(m, nn.Dropout)]
    assert (block.layer.dropout, dropouts) == (0.5, []) if binary else dropouts == [0.5]


def test_block_of_a_map():
    block = Block(6, 4, 3, padding=1, layer={"scale": "learned", "bias": False}, act="none")
    assert isinstance(block.layer, BinaryConv2d)
    assert block.layer.bias is None
    assert block(torch.randn(2, 6, 5, 4)).shape == (2, 4, 5, 4)


def test_activations():
    x = torch.tensor([[-2.0, 0.0, 3.0]])
    assert activation("relu", 3)(x).tolist() == [[0, 0, 3]]
    assert activation("none", 3)(x).tolist() == x.tolist()
    assert activation("prelu", 3).weight.shape == (3,)
    assert isinstance(activation("rprelu", 3), RPReLU)
    with pytest.raises(
        ValueError, match="unknown activation 'gelu': choose one of relu, prelu, rprelu, none"
    ):
        activation("gelu", 3)


def test_convnet():
    net = models.build("convnet", in_channels=3, widths=(4, 8), depth=2, classes=5)
    expected = sum(a * b * 9 + 2 * b for a, b in ((3, 4), (4, 4), (4, 8), (8, 8))) + 8 * 5 + 5
    assert count(net) == expected
    assert net(torch.randn(2, 3, 12, 12)).shape == (2, 5)
    assert not layers.binary_layers(net)


# ---- build -------------------------------------------------------------------------------------------------


def test_a_name_is_taken_once_but_a_definition_may_run_again(monkeypatch):
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    with pytest.raises(ValueError, match="the model 'lenet5' is taken by bnnlib.models.lenet.LeNet5: choose another name"):
        models.register("lenet5")(BinaryConv2d)
    for size in (3, 4):  # a notebook's cell

        class Net(nn.Linear):
            def __init__(self, size=size):
                super().__init__(size, 2)

        assert models.register("own")(Net) is Net
    assert models.build("own").in_features == 4


def test_names():
    assert {"lenet5", "lenet5-real", "mlp", "mlp-real"} <= set(models.names())
    assert models.names() == sorted(models.names())


@pytest.mark.parametrize("name", ["lenet5", "lenet5-real", "mlp", "mlp-real", "convnet"])
def test_a_model_takes_a_step(name):
    """Forward, backward and one step leave every parameter finite; each gets a gradient that is not zero."""
    torch.manual_seed(0)
    net = models.build(name)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    shape = (4, 1, 28, 28)
    F.cross_entropy(net(torch.rand(shape)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
    optimizer.step()
    layers.project_(net)
    assert net.eval()(torch.rand(shape)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet", {}, f"unknown model 'lenet': choose one of {', '.join(models.names())}"),
        (
            "lenet5",
            {"width": 2},
            "unknown option 'width' of model 'lenet5': it takes in_channels, classes, act",
        ),
        ("lenet5-real", {"layer": {}}, "unknown option 'layer' of model 'lenet5-real'"),
        ("lenet5", {"act": "gelu"}, "unknown activation 'gelu'"),
        ("lenet5", {"layer": {"scales": "mean"}}, "scales"),
        ("lenet5", {"layer": {"scale": "max"}}, "unknown scale 'max': choose one of"),
        ("lenet5", {"layer": "mean"}, "model 'lenet5' with {'layer': 'mean'}"),
        ("lenet5", {"classes": -1}, "model 'lenet5' with {'classes': -1}"),
        ("mlp", {"classes": "ten"}, "model 'mlp' with {'classes': 'ten'}"),
        ("convnet", {"widths": 5}, "model 'convnet' with {'widths': 5}"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.build(name, **options)
