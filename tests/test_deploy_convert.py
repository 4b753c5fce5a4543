"""Converted networks against the models that they come from: bit for bit where integers are binarised, close elsewhere."""

from __future__ import annotations

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from torch import nn

from bnnlib import data, deploy, layers, models
from bnnlib.data import evaluate
from bnnlib.deploy import layerkinds, thresholds
from bnnlib.packing import quantize_activations

IMAGE = {"lenet5": (1, 28, 28), "mlp": (1, 28, 28)}
NETS = {
    "lenet5": ("lenet5", {}),
    "lenet5, ours": ("lenet5", {"act": "prelu", "gamma_min": None, "first_affine": True, "layer": {"scale": "learned", "transform": "standardize"}}),
    "mlp": ("mlp", {}),
    "nin": ("nin", {}),
    "s1": ("vgg", {}),
    "s1, bn after": ("vgg", {"order": "sign-conv-bn"}),
    "s1, relu": ("vgg", {"act": "relu"}),
    "s2": ("vgg", {"shortcut": True, "layer": {"scale": "none"}}),
    "s2, learned": ("vgg", {"shortcut": True, "layer": {"scale": "learned"}}),
    "ours": ("ours-vgg", {}),
    "ours, average": ("ours-vgg", {"classifier": "average"}),
}  # fmt: skip


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode with numbers as training might leave them, and worse: gammas below, at and near zero."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda t: torch.randn(t.shape, generator=generator)  # noqa: E731
    uniform = lambda t: torch.rand(t.shape, generator=generator)  # noqa: E731
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.copy_(3 * normal(module.running_mean))
                module.running_var.copy_(10 * uniform(module.running_var) ** 4)
                if module.affine:
                    module.weight.copy_(normal(module.weight))
                    module.weight[::7] = 0
                    module.weight[1::11] *= 1e-6
                    module.bias.copy_(normal(module.bias))
            elif isinstance(module, layers.BinaryLayer):
                if module.scale_kind == "learned":
                    module.scale.copy_(normal(module.scale))
                if module.bias is not None:
                    module.bias.copy_(3 * normal(module.bias))
            elif isinstance(module, nn.PReLU):
                module.weight.copy_(uniform(module.weight))
            elif isinstance(module, (layers.RSign, layers.RPReLU)):
                for name, parameter in module.named_parameters():
                    parameter.copy_(uniform(parameter) if name == "slope" else normal(parameter))
    return model.eval()


def model_bits(model: nn.Module, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What every binary layer of the model reads, as booleans; and the model's result."""
    seen = {}
    hooks = [
        layer.register_forward_pre_hook(lambda m, a, name=name: seen.update({name: m.binarize_input(a[0]) > 0}))
        for name, layer in layers.binary_layers(model).items()
        if layer.binary_input
    ]
    with torch.no_grad():
        y = model(x)
    for hook in hooks:
        hook.remove()
    return seen, y


def flips(net, model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """Bits that differ, by layer."""
    want, _ = model_bits(model, x)
    got = net.bits(x)
    assert set(got) == set(want)
    return {name: int((got[name].reshape(want[name].shape) != want[name]).sum()) for name in want}


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(seed)
    kind, options = NETS[name]
    return shaken(models.build(kind, **options), seed), IMAGE.get(kind, (3, 32, 32))


def first_layer(model: nn.Module) -> list[str]:
    """The real-valued layers before the first binarisation."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, layers.BinaryLayer):
            break
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found.append(name)
    return found


# ---- the book's nets ----------------------------------------------------------------------------------------

EXACT = ["lenet5", "lenet5, ours", "mlp", "nin", "s1", "s1, bn after", "s1, relu", "ours", "ours, average"]


@pytest.mark.parametrize("name", EXACT)
def test_every_bit_behind_integers_is_the_models(name):
    """With the first layer's sums PyTorch's own, no bit differs, and nothing else stays in PyTorch."""
    model, shape = build(name)
    net = deploy.convert(model, shape, keep=first_layer(model))
    x = torch.randn(4, *shape)
    assert sum(flips(net, model, x).values()) == 0
    with torch.no_grad():
        y = model(x)
    torch.testing.assert_close(net(x), y, rtol=1e-4, atol=1e-4 * y.abs().max().item())
    assert {op.attributes["module"] for op in net.graph.ops if op.kind == "torch"} == set(first_layer(model))
    packed = {note["layer"] for note in net.notes if note["as"] == "1 bit"}
    assert packed == set(layers.binary_layers(model))


@pytest.mark.parametrize("name", NETS)
def test_all_native_is_close(name):
    """Sums in another order move last bits; a flip of a sign near zero may follow, seldom."""
    model, shape = build(name, seed=1)
    net = deploy.convert(model, shape)
    assert all(op.kind != "torch" for op in net.graph.ops)
    x = torch.randn(3, *shape)
    count = flips(net, model, x)
    read = {k: v.numel() for k, v in net.bits(x).items()}
    assert sum(count.values()) <= 1e-3 * sum(read.values())
    with torch.no_grad():
        y = model(x)
    if sum(count.values()) == 0:
        torch.testing.assert_close(net(x), y, rtol=1e-3, atol=1e-3 * y.abs().max().item())


@pytest.mark.parametrize("options", [{}, {"downsample": "binary"}, {"downsample": "binary-weight"}, {"order": "bireal"}, {"order": "xnor"},
                                     {"order": "resnet"}, {"real_blocks": [0, 4]}, {"scale": "mean"}, {"scale": "dense"},
                                     {"scale": "channel-map", "stem": "small"}])  # fmt: skip
def test_resnet(options):
    torch.manual_seed(2)
    model = shaken(models.build("resnet18", image=32, classes=10, width=16, **options))
    net = deploy.convert(model, (3, 32, 32))
    assert all(op.kind != "torch" for op in net.graph.ops)
    x = torch.randn(3, 3, 32, 32)
    count, read = flips(net, model, x), sum(v.numel() for v in net.bits(x).values())
    assert sum(count.values()) <= 2e-3 * read
    with torch.no_grad():
        y = model(x)
    if sum(count.values()) == 0:
        torch.testing.assert_close(net(x), y, rtol=1e-3, atol=1e-3 * y.abs().max().item())


def test_alexnet_and_the_teacher():
    torch.manual_seed(3)
    for model, shape in (
        (models.build("alexnet", classes=5, image=64), (3, 64, 64)),
        (models.build("s2-teacher"), (3, 32, 32)),
        (models.build("convnet"), (1, 28, 28)),
        (models.build("lenet5-real"), (1, 28, 28)),
    ):
        model = shaken(model)
        net = deploy.convert(model, shape)
        x = torch.randn(2, *shape)
        assert all(op.kind != "torch" for op in net.graph.ops)
        if sum(flips(net, model, x).values()) == 0:
            with torch.no_grad():
                torch.testing.assert_close(net(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "recipe"), [("s4-lenet5", "mnist"), ("s3-mlp", "mnist")])
def test_trained_nets_on_the_test_set(bnn_data, name, recipe):
    """The first layers natively too: flips are counted, predictions agree."""
    path = deploy.FOLDER / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"needs {path}")
    model, about = deploy.load(path), deploy.info(path)
    dataset = data.load(recipe, bnn_data)
    transform = evaluate.input_transform(about["input"], dataset)
    want = evaluate.logits(model, dataset.test, transform)
    net = deploy.convert(model, (1, 28, 28))
    got = evaluate.logits(net, dataset.test, transform)
    assert (got.argmax(1) == want.argmax(1)).float().mean() >= 0.999
    assert evaluate.top1(got, dataset.test.labels) == pytest.approx(evaluate.top1(want, dataset.test.labels), abs=0.05)
    exact = deploy.convert(model, (1, 28, 28), keep=first_layer(model))
    for _, x, _ in data.Batches(dataset.test, 2000, seed=0, transform=transform, shuffle=False).epoch(0):
        assert sum(flips(exact, model, x).values()) == 0


# ---- random nets --------------------------------------------------------------------------------------------


class RandomNet(nn.Module):
    """A stem that gives small integers, so that no sum depends on its order; then random blocks."""

    def __init__(self, draw, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.stem = layers.BinaryConv2d(2, channels, 3, padding=1, scale="none")
        self.blocks = nn.ModuleList()
        for _ in range(draw(st.integers(1, 3))):
            block = RandomBlock(draw, channels)
            channels = block.out
            self.blocks.append(block)
        self.norm = nn.BatchNorm2d(channels) if draw(st.booleans()) else nn.Identity()
        with torch.no_grad():
            features = self.eval().body(torch.zeros(1, 2, *size)).numel()
        self.wide = nn.BatchNorm1d(features) if draw(st.booleans()) else nn.Identity()
        self.head = layers.BinaryLinear(features, 5, scale="none", sign_of_zero=draw(st.sampled_from([1, -1])))

    def body(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x):
        return self.head(self.wide(self.body(x).flatten(1)))


class RandomBlock(nn.Module):
    def __init__(self, draw, channels: int) -> None:
        super().__init__()
        pick = lambda *of: draw(st.sampled_from(of))  # noqa: E731
        size, stride, groups = pick(1, 3, 5, 2), pick(1, 1, 2), pick(1, 1, channels)
        self.shortcut = draw(st.booleans()) and stride == 1 and size % 2 == 1
        self.out = channels if self.shortcut else pick(3, 8, 20, 65) * groups if groups == 1 else channels
        kind = pick("none", "mean", "learned")
        dilation = pick(1, 1, 2) if size == 3 else 1
        padding = dilation * (size // 2)
        self.sign = layers.RSign(channels, signs=draw(st.booleans())) if draw(st.booleans()) else nn.Identity()
        self.conv = layers.BinaryConv2d(
            channels, self.out, size, stride, padding, dilation, groups,
            bias=draw(st.booleans()), scale=kind, padding_value=pick(0, 0, 1, -1), sign_of_zero=pick(1, 1, -1),
        )  # fmt: skip
        stages = {
            "bn": lambda: nn.BatchNorm2d(self.out, eps=pick(1e-5, 1e-4)),
            "relu": nn.ReLU,
            "prelu": lambda: nn.PReLU(self.out),
            "leaky": lambda: nn.LeakyReLU(0.1),
            "tanh": nn.Hardtanh,
            "rprelu": lambda: layers.RPReLU(self.out),
            "pool": lambda: nn.MaxPool2d(pick(2, 3), pick(None, 2, 1), ceil_mode=draw(st.booleans())),
            "padded pool": lambda: nn.MaxPool2d(3, 2, 1),
            "average": lambda: nn.AvgPool2d(2, 1),
            "drop": lambda: nn.Dropout(0.3),
        }
        names = draw(st.lists(st.sampled_from(sorted(stages)), max_size=4))
        if self.shortcut:
            names = [n for n in names if n not in ("pool", "padded pool", "average")]
        self.then = nn.Sequential(*(stages[name]() for name in names))

    def forward(self, x):
        y = self.then(self.conv(self.sign(x)))
        return y + x if self.shortcut else y


@st.composite
def random_nets(draw):
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    size = draw(st.integers(12, 17)), draw(st.integers(12, 17))
    try:
        net = shaken(RandomNet(draw, draw(st.sampled_from([3, 7, 16, 64, 70])), size), seed)
    except RuntimeError:  # the pools have left nothing
        reject()
    negative = draw(st.booleans())
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and draw(st.booleans()):
                module.running_var.mul_(1e-12)
            if isinstance(module, (nn.PReLU, layers.RPReLU)) and negative:
                slope = module.weight if isinstance(module, nn.PReLU) else module.slope
                slope[::2] *= -1
    return net, size, seed


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate], suppress_health_check=list(HealthCheck))
@given(random_nets())
def test_random_nets_are_equal_bit_for_bit(case):
    """Batch norm with negative, zero and tiny gamma and variances near zero, pools before and after, shortcuts, activations that
    fall, strides, odd sizes: every bit is the model's, whatever folds. Values too: stages round as PyTorch's modules."""
    model, (h, w), seed = case
    x = torch.randn(3, 2, h, w, generator=torch.Generator().manual_seed(seed))
    want, y = model_bits(model, x)
    net = deploy.convert(model, (2, h, w))
    got = net.bits(x)
    for name in want:
        assert torch.equal(got[name].reshape(want[name].shape), want[name]), (name, net.report())
    assert torch.equal(net(x), y)


# ---- what is left to PyTorch --------------------------------------------------------------------------------


class Odd(nn.Module):
    """A module that the executor lacks, whose code depends on its input's values."""

    def forward(self, x):
        return x.roll(1, dims=1) if x.sum() > 0 else x.flip(1)


class WithOdd(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.BatchNorm2d(2), layers.BinaryConv2d(2, 8, 3, padding=1, scale="none"), nn.ReLU())
        self.odd = Odd()
        self.two = nn.Sequential(nn.BatchNorm2d(8), layers.BinaryConv2d(8, 12, 3, padding=1, bias=True), nn.BatchNorm2d(12))
        self.scaled = layers.BinaryConv2d(12, 4, 3, input_scale=True)
        self.last = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = self.two(self.odd(self.one(x)))
        x = torch.sigmoid(self.scaled(x)) * 2
        return torch.softmax(self.last(x.flatten(1)), dim=1)


@pytest.mark.parametrize("double", [lambda x: x.repeat(1, 2, 1, 1), lambda x: torch.cat([x, x], 1), lambda x: torch.concat((x,) * 2, dim=-3)])
def test_channels_that_a_shortcut_doubles_are_read_by_the_layer(double):
    class Wider(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.bn = nn.Conv2d(3, 8, 3), layers.BinaryConv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.stem(x)
            return self.bn(self.conv(x)) + double(x)

    torch.manual_seed(0)
    model = shaken(Wider())
    net = deploy.convert(model, (3, 9, 8))
    assert [op.kind for op in net.graph.ops] == ["real_conv", "binary_conv"]
    x = torch.randn(3, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-5)


def test_unknown_modules_stay_in_pytorch():
    torch.manual_seed(0)
    model = shaken(WithOdd())
    net = deploy.convert(model, (2, 6, 6))
    kinds = [op.kind for op in net.graph.ops]
    assert kinds.count("torch") == 2
    assert kinds.count("binary_conv") == 2
    report = net.report()
    assert "kept whole: what it does depends on the values of tensors" in report
    assert "input scale" in report
    for batch in (1, 4):
        x = torch.randn(batch, 2, 6, 6)
        with torch.no_grad():
            torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-6)


def test_keep_leaves_modules_to_pytorch():
    model, shape = build("lenet5")
    net = deploy.convert(model, shape, keep=["conv2"])
    left = {op.attributes["module"] for op in net.graph.ops if op.kind == "torch"}
    assert left == {"conv2"}
    x = torch.randn(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)


# ---- options, errors, report --------------------------------------------------------------------------------


@pytest.mark.parametrize("real", ["bfloat16", "int8"])
def test_smaller_real_valued_weights(real):
    """The same as the model with its real-valued weights rounded; with int8 its activations, too. (Where the CPU multiplies
    bf16, bfloat16 rounds activations to it.)"""
    model, shape = build("lenet5")
    net = deploy.convert(model, shape, real={"conv1": real, "fc2": real})
    rounded = copy.deepcopy(model)

    def eight_bits(_, inputs):
        integers, scale = quantize_activations(inputs[0])
        return (integers * scale,)

    with torch.no_grad():
        for module in (rounded.conv1, rounded.fc2):
            w = module.weight
            if real == "bfloat16":
                w.copy_(w.bfloat16().float())
            else:
                scale = w.flatten(1).abs().amax(1).view(-1, *[1] * (w.dim() - 1)) / 127
                w.copy_((w / scale).round() * scale)
                module.register_forward_pre_hook(eight_bits)
    candidates = [rounded]
    if real == "bfloat16":
        candidates.append(copy.deepcopy(rounded))
        for module in (candidates[1].conv1, candidates[1].fc2):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16().float(),))
    compared = 0
    for batch in (1, 2, 3, 9):
        x = torch.randn(batch, *shape)
        alike = [m for m in candidates if sum(flips(net, m, x).values()) == 0]
        compared += len(alike)
        with torch.no_grad():
            assert not alike or any(torch.allclose(net(x), m(x), rtol=1e-4, atol=1e-4) for m in alike)
    assert compared
    for notes in (net.notes, deploy.convert(model, shape, real=real).notes):
        held = {note["layer"]: note["as"] for note in notes}
        assert (held["conv1"], held["fc2"]) == (real, real)


def test_real_valued_weights_of_one_bit():
    """mean|W| sign(W) in place of W, in the first layer and in the last."""
    model, shape = build("lenet5")
    net = deploy.convert(model, shape, real={"conv1": "1-bit", "fc2": "1-bit"})
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for module in (rounded.conv1, rounded.fc2):
            rows = module.weight.flatten(1)
            signs = torch.where(rows >= 0, 1.0, -1.0)
            module.weight.copy_((rows.abs().mean(1, keepdim=True) * signs).view_as(module.weight))
    x = torch.randn(9, *shape)
    assert sum(flips(net, rounded, x).values()) == 0
    with torch.no_grad():
        torch.testing.assert_close(net(x), rounded(x), rtol=1e-4, atol=1e-4)
    held = {note["layer"]: (note["as"], note["bytes"]) for note in net.notes}
    assert held["conv1"] == ("1 bit", 20 * 4) and held["fc2"] == ("1 bit", 10 * 63)
    assert {n["layer"]: n["as"] for n in deploy.convert(model, shape, real="1-bit").notes}["conv1"] == "float32"


def test_the_model_is_left_as_it_was():
    model, shape = build("lenet5")
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    deploy.convert(model, shape)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (1, 28)}, "does not take images of shape"),
        ({"input_shape": (1, 1, 28, 28)}, "input_shape is"),
        ({"input_shape": 28}, "input_shape is"),
        ({"input_shape": (1, 28, 0)}, "input_shape is"),
        ({"input_shape": (3, 28, 28)}, "does not take images of shape"),
        ({"input_shape": (1, 28, 28), "real": "int4"}, "unknown real 'int4': choose float32, bfloat16, int8, 1-bit"),
        ({"input_shape": (1, 28, 28), "keep": ["conv9"]}, "keep names 'conv9'"),
        ({"input_shape": (1, 28, 28), "keep": "conv2"}, r"keep is 'conv2': give a list of names, such as \['conv2'\]"),
        ({"input_shape": (1, 28, 28), "real": {"conv2": "int8"}}, "real names 'conv2'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(deploy.ConvertError, match=message):
        deploy.convert(models.build("lenet5"), **arguments)


def test_models_that_cannot_be_converted():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    for model, message in ((Two(), "missing .* argument: 'y'"), (Pair(), "does nothing"), (Branch(), "cannot be traced")):
        with pytest.raises(deploy.ConvertError, match=message):
            deploy.convert(model, (1, 4, 4))


def test_report_names_layers_and_bytes():
    model, shape = build("lenet5")
    net = deploy.convert(model, shape)
    report = net.report()
    for text in ("conv2.layer", "1 bit", "fc2", "float32", "threshold", f"{4 * (500 + 25000 + 400000 + 5000)} as float32 weights"):
        assert text in report
    bits = sum(n["bytes"] for n in net.notes if n["as"] == "1 bit")
    assert bits == 50 * 63 + 500 * 100


# ---- thresholds ---------------------------------------------------------------------------------------------


def test_thresholds_of_reals_are_the_expressions():
    """On both sides of every threshold, and far away: the comparison is the expression."""
    torch.manual_seed(0)
    bn = shaken(nn.Sequential(nn.BatchNorm1d(64))).requires_grad_(False)[0]
    alpha, _, _ = layerkinds.affine(bn)
    expression = lambda x: bn(x[None])[0] >= 0  # noqa: E731
    low, high = thresholds.of_reals(expression, (alpha > 0).float() - (alpha < 0).float())
    inf = torch.tensor(float("inf"))
    edges = [t for e in (low, high) for t in (e, torch.nextafter(e, inf), torch.nextafter(e, -inf))]
    for x in [*edges, torch.zeros(64), -torch.zeros(64), *torch.randn(50, 64) * 10, torch.full((64,), float("nan"))]:
        finite = torch.isfinite(x) | torch.isnan(x)
        assert torch.equal(expression(x)[finite], ((x >= low) & (x <= high))[finite])


def test_thresholds_of_reals_that_never_change_the_bit():
    inf, shift = float("inf"), torch.tensor([2.0**120, -(2.0**120), 1.0, -1.0])
    low, high = thresholds.of_reals(lambda x: x * torch.tensor([1.0, 1.0, 0.0, 0.0]) + shift >= 0, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert low.tolist() == [-inf, inf, -inf, inf] and high.tolist() == [inf, -inf, inf, -inf]


def test_complement_is_the_opposite_bit():
    low = torch.tensor([1.0, -torch.inf, -torch.inf, torch.inf, 0.0])
    high = torch.tensor([torch.inf, 2.0, torch.inf, -torch.inf, torch.inf])
    new_low, new_high = thresholds.complement(low, high, torch.tensor([True] * 4 + [False]))
    x = torch.tensor(np.array([-3, 0, 0.99999994, 1, 1.0000001, 2, 2.0000002, 5], np.float32))[:, None]
    before, after = (x >= low) & (x <= high), (x >= new_low) & (x <= new_high)
    assert torch.equal(before[:, :4], ~after[:, :4])
    assert torch.equal(before[:, 4], after[:, 4])


@pytest.mark.parametrize("at_once", [1 << 22, 12], ids=["whole", "in parts"])
def test_thresholds_of_integers_are_the_expressions(monkeypatch, at_once):
    """By hand, for channels that rise, fall and stay: of each integer, and of the larger one of each pair behind a pool."""
    monkeypatch.setattr(thresholds, "_AT_ONCE", at_once)
    first, second = torch.tensor([1.0, -1.0, 0.0, 2.0, -3.0, 0.5]), torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 0.0])
    before, behind = (lambda x: x * first + 0.25), (lambda x: x * second - 1.0)
    as_pixels = lambda f: lambda x: f(x[..., 0, 0])[..., None, None]  # noqa: E731
    threshold, falls, (pool,) = thresholds.of_integers([as_pixels(before), as_pixels(behind)], lambda x: x >= 0, 6, 5)
    dot = torch.arange(-5.0, 6.0)[:, None]
    pooled = before(dot)
    bit = behind(pooled) >= 0
    assert torch.equal((dot >= threshold) ^ falls, bit)
    for one, other in itertools.product(range(11), repeat=2):
        either = torch.where(pool, bit[one] & bit[other], bit[one] | bit[other])
        assert torch.equal(either, behind(torch.maximum(pooled[one], pooled[other])) >= 0)


def test_a_pool_of_what_turns_is_refused_where_the_bit_depends_on_it():
    turns = lambda x: torch.where(x == 2, 0.0, x)  # noqa: E731
    with pytest.raises(thresholds.NotMonotone, match="what is pooled is not monotone"):
        thresholds.of_integers([turns, lambda x: x + 1], lambda x: x >= 0, 2, 4)
    one = lambda x: torch.cat([x[:, :1], turns(x[:, 1:])], 1)  # noqa: E731  # and the channel beside it rises
    with pytest.raises(thresholds.NotMonotone, match="what is pooled is not monotone"):
        thresholds.of_integers([one, lambda x: x + 1], lambda x: x >= 0, 2, 4)
    threshold, falls, _ = thresholds.of_integers([turns, lambda x: x + 9], lambda x: x >= 0, 2, 4)
    assert threshold.tolist() == [-4, -4] and not falls.any()  # always


def test_a_chain_that_turns_is_refused():
    with pytest.raises(thresholds.NotMonotone):
        thresholds.of_integers([lambda x: x], lambda x: x.abs() > 2, 3, 5)
    with pytest.raises(thresholds.NotMonotone, match="channel 2 is not monotone"):
        thresholds.of_integers([lambda x: x], lambda x: torch.cat([x[:, :2], x[:, 2:].abs() - 2], 1) > 0, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threshold, falls, pools = thresholds.of_integers([lambda x: -x, lambda x: x + 0.5], lambda x: x >= 0, 2, 4)
    assert threshold.tolist() == [1, 1]
    assert falls.tolist() == [True, True]
    assert pools[0].tolist() == [False, False]


@pytest.mark.parametrize("built_inside", [True, False])
def test_conversion_within_inference_mode(built_inside):
    """Tensors of inference mode do not count how often they were written."""
    torch.manual_seed(0)
    with torch.inference_mode(built_inside):
        model = models.build("lenet5").eval()
    with torch.inference_mode():
        x = torch.randn(3, 1, 28, 28)
        torch.testing.assert_close(deploy.convert(model, (1, 28, 28))(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(params=["float64", "another device"])
def other_defaults(request):
    if request.param == "float64":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device("meta")
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def test_new_tensors_may_be_of_another_type_or_lie_elsewhere(other_defaults):
    with torch.device("cpu"):
        model = shaken(models.build("lenet5")).float()
    x = torch.randn(3, 1, 28, 28, device="cpu", dtype=torch.float32)
    defaults = torch.get_default_dtype(), torch.get_default_device()
    net = deploy.convert(model, (1, 28, 28))
    assert (torch.get_default_dtype(), torch.get_default_device()) == defaults
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_is_not_traced_or_exported():
    net, x = deploy.convert(nn.Sequential(layers.BinaryConv2d(3, 4, 3)), (3, 6, 6)), torch.randn(2, 3, 6, 6)
    for call in (lambda: torch.export.export(net, (x,)), lambda: torch.jit.trace(net, x)):
        with pytest.raises(RuntimeError, match="cannot be traced or exported: export the model"):
            call()
