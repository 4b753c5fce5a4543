"""Binary layers against brute-force loops, explicit broadcasting and float64 autograd."""

import itertools
import math
import re

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from layers_reference import conv_loops, pm, scrambled
from torch import nn
from torch.nn.utils import prune

from bnnlib import layers, ops
from bnnlib.layers import BinaryConv2d, BinaryLinear, RPReLU, RSign
from bnnlib.quantizers import sign

SCALES = ["none", "mean", "learned", "xnorpp", "dense", "channel-map"]


def of_size(scale, size):
    """The option output_size where the scale takes one."""
    return {"output_size": size} if scale in layers.SPATIAL else {}


# ---- what a layer computes ---------------------------------------------------------------------------------

GEOMETRIES = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1)},
    {"kernel_size": 3, "dilation": 2, "padding": 2},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": 2, "padding": (1, 2), "dilation": (1, 2), "groups": 3},
    {"kernel_size": (7, 5), "groups": 6},  # depthwise, the window as large as the image
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("padding_value", [0, 1, -1])
def test_conv_against_loops(geometry, padding_value):
    layer = BinaryConv2d(6, 6, scale="none", padding_value=padding_value, **geometry).eval()
    scrambled(layer)
    x = pm(2, 6, 7, 5)
    signs = [[v >= 0 for v in t.flatten().tolist()] for t in (x, layer.weight)]
    b, w = (
        torch.tensor(s, dtype=torch.float64).mul(2).sub(1).view(t.shape)
        for s, t in zip(signs, (x, layer.weight), strict=True)
    )
    expected = conv_loops(
        b, w, layer.stride, layer.padding, layer.dilation, layer.groups, float(padding_value)
    )
    assert torch.equal(layer(x).double(), expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transform", ["none", "center", "standardize"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_conv_in_evaluation_is_scale_times_exact_sum_plus_bias(scale, bias, transform, memory_format):
    layer = BinaryConv2d(
        9, 5, 3, stride=2, padding=1, bias=bias, scale=scale, transform=transform, **of_size(scale, (4, 3))
    )
    scrambled(layer).eval().to(memory_format=memory_format)
    x = pm(3, 9, 7, 6).contiguous(memory_format=memory_format)
    latent = layer.weight.detach()
    if transform == "center":
        latent = latent - latent.mean(1, keepdim=True)
    elif transform == "standardize":
        flat = latent.flatten(1)
        latent = (latent - flat.mean(1).view(-1, 1, 1, 1)) / (flat.var(1, correction=0) + 1e-5).sqrt().view(
            -1, 1, 1, 1
        )
    expected = F.conv2d(sign(x).double(), sign(latent).double(), None, 2, 1).float()  # integers: exact
    if scale == "mean":
        expected = expected * layer.channel_scale().view(1, 5, 1, 1)
        torch.testing.assert_close(layer.channel_scale(), latent.abs().mean((1, 2, 3)), rtol=1e-5, atol=0)
    elif scale == "learned":
        expected = expected * layer.scale.detach().view(1, 5, 1, 1)
    elif scale == "xnorpp":
        outer = torch.empty(5, 4, 3)
        for c, h, w in itertools.product(range(5), range(4), range(3)):
            outer[c, h, w] = (
                layer.scale_channel[c, 0, 0] * layer.scale_height[0, h, 0] * layer.scale_width[0, 0, w]
            )
        expected = expected * outer
    elif scale == "dense":
        expected = expected * layer.scale_dense.detach().view(1, 5, 4, 3)
    elif scale == "channel-map":
        expected = expected * torch.einsum(
            "c,hw->chw", layer.scale_channel.detach().flatten(), layer.scale_map.detach()[0]
        )
    if bias:
        expected = expected + layer.bias.detach().view(1, 5, 1, 1)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("scale", SCALES[:3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 129), (64, 129), (2, 3, 129), (129,), (0, 129), (100, 768)])
def test_linear_in_evaluation_is_scale_times_exact_sum_plus_bias(scale, bias, shape):
    layer = scrambled(BinaryLinear(shape[-1], 512 if shape[-1] == 768 else 33, bias=bias, scale=scale)).eval()
    x = pm(*shape)
    expected = (sign(x).double() @ sign(layer.weight.detach()).double().T).float()
    if scale != "none":
        expected = expected * (
            layer.scale.detach() if scale == "learned" else layer.weight.detach().abs().mean(1)
        )
    if bias:
        expected = expected + layer.bias.detach()
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("input_scale", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_and_evaluation_agree(scale, input_scale, dtype):
    conv = BinaryConv2d(
        9, 5, 3, padding=1, bias=True, scale=scale, input_scale=input_scale, **of_size(scale, (7, 6))
    )
    made = [(conv, pm(3, 9, 7, 6))]
    if scale in SCALES[:3]:
        made.append((BinaryLinear(70, 30, scale=scale, input_scale=input_scale), pm(8, 70)))
    for layer, x in made:
        scrambled(layer).to(dtype)
        x = x.to(dtype)
        training = layer.train()(x)
        evaluation = layer.eval()(x)
        assert training.dtype == evaluation.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(evaluation, training, rtol=tolerance, atol=10 * tolerance)


def test_input_scale_against_loops():
    """The XNOR-Net paper's K, window by window; padding counts as zero in K, whatever the signs get."""
    for padding_value in (0, 1, -1):
        layer = BinaryConv2d(
            3,
            4,
            (2, 3),
            stride=(1, 2),
            padding=(1, 2),
            bias=True,
            scale="none",
            padding_value=padding_value,
            input_scale=True,
        )
        scrambled(layer).double().eval()
        x = pm(2, 3, 4, 5).double()
        dot = conv_loops(
            sign(x), sign(layer.weight.detach()), (1, 2), (1, 2), padding_value=float(padding_value)
        )
        size = conv_loops(
            x.abs().mean(1, keepdim=True),
            torch.full((1, 1, 2, 3), 1 / 6, dtype=torch.float64),
            (1, 2),
            (1, 2),
        )
        torch.testing.assert_close(
            layer(x), dot * size + layer.bias.detach().view(1, 4, 1, 1), rtol=1e-12, atol=1e-12
        )
    linear = scrambled(BinaryLinear(5, 2, scale="none", input_scale=True)).eval()
    x = torch.tensor([[1.0, -2.0, 0.0, 3.0, -4.0]])  # mean|x| = 2
    expected = 2.0 * (sign(x) @ sign(linear.weight.detach()).T) + linear.bias.detach()
    torch.testing.assert_close(linear(x), expected)


def test_sign_of_zero():
    x = torch.tensor([[0.0, -0.0, 0.5, -0.5]])
    for value in (1, -1):
        layer = BinaryLinear(4, 1, bias=False, scale="none", sign_of_zero=value).eval()
        nn.init.ones_(layer.weight)
        assert layer.binarize_input(x).tolist() == [[value, value, 1, -1]]
        assert layer(x).item() == 2 * value


@pytest.mark.parametrize("ste", ["identity", "clipped", "polynomial", "tanh"])
def test_sign_of_zero_does_not_change_the_gradient(ste):
    grads = []
    for value in (1, -1):
        layer = BinaryLinear(64, 3, scale="none", ste=ste, sign_of_zero=value)
        with torch.no_grad():
            layer.weight.copy_(pm(3, 64, seed=4))
        x = pm(5, 64, seed=5).requires_grad_()
        (layer(x) * pm(5, 3, seed=6)).sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("share", [0.5, 0.2, 1e-4, 1 - 1e-6])
@pytest.mark.parametrize("form", ["contiguous", "channels-last", "part", "one"])
def test_dropout_keeps_its_share_and_the_mean(share, form):
    x = torch.randn(40, 50, 12, 13).exp().bfloat16()
    if form == "channels-last":
        x = x.to(memory_format=torch.channels_last)
    if form == "part":
        x = x[:, ::2, :, 1:]
    if form == "one":
        x = x[0, 0, 0, 0]
    x.requires_grad_()
    torch.manual_seed(0)
    y = layers.dropout(x, share)
    assert (y.dtype, y.shape, y.stride()) == (x.dtype, x.shape, torch.empty_like(x).stride())
    kept = y != 0
    assert torch.equal(y[kept], (x * torch.tensor(1 / (1 - share)).bfloat16())[kept])
    if form != "one":  # within five standard deviations, and one value of those before it has no say in it
        deviation = math.sqrt(share * (1 - share) / x.numel())
        assert abs(kept.double().mean() - (1 - share)) < 5 * deviation + 2**-17
        pairs = (kept.flatten()[1:] & kept.flatten()[:-1]).double().mean()
        assert abs(pairs - (1 - share) ** 2) < 10 * deviation + 2**-16
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, kept)
    assert torch.equal(layers.Dropout(share).eval()(x), x)


def test_dropout_compiles_without_a_break():
    x = torch.randn(2, 8, 6, 7)
    y = torch.compile(layers.Dropout(0.5), fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(y[y != 0], 2 * x[y != 0]) and 0 < (y == 0).sum() < x.numel()


def test_dropout_feeds_minus_two_zero_and_two():
    layer = BinaryConv2d(8, 1, 1, scale="none", dropout=0.5)
    x = torch.randn(4, 8, 16, 16)
    torch.manual_seed(0)
    fed = layer.binarize_input(x)
    assert fed.unique().tolist() == [-2, 0, 2]
    assert torch.equal(fed[fed != 0], 2 * sign(x)[fed != 0])
    assert 0.4 < (fed == 0).float().mean() < 0.6
    assert torch.equal(layer.eval().binarize_input(x), sign(x))


@pytest.mark.parametrize(
    "options", [{"scale": "learned"}, {"dropout": 0.5}, {"padding_value": -1}, {"input_scale": True}]
)
def test_counting_changes_no_bit_of_an_evaluation(options, monkeypatch):
    counted = []
    count = ops.conv2d_of_signs
    monkeypatch.setattr(ops, "conv2d_of_signs", lambda *args: counted.append(args) or count(*args))
    model = nn.Sequential(
        BinaryConv2d(20, 9, 3, padding=1, bias=True, **options), BinaryConv2d(9, 5, 1)
    ).eval()
    x = torch.randn(2, 20, 6, 5)
    alone = model(x)
    assert not counted
    with layers.popcount_forward(model):
        assert torch.equal(model(x), alone) and len(counted) == 2
    assert torch.equal(model(x), alone) and len(counted) == 2


@pytest.mark.parametrize(
    "options",
    [{}, {"sign_of_zero": -1}, {"padding_value": 1}, {"ste": "polynomial"}, {"bias": True}],
)
@pytest.mark.parametrize("precision", ["float32", "autocast", "autocast of bfloat16"])
def test_training_multiplies_the_signs_of_its_input(options, precision):
    """Zeros of both signs, and a number that bfloat16 would make a zero, among the inputs; float64 by hand."""
    layer = BinaryConv2d(20, 9, 3, padding=1, **options)
    half = precision == "autocast of bfloat16"
    x = torch.randn(2, 20, 6, 5).to(torch.bfloat16 if half else torch.float32)
    x[0, 0, :2], x[0, 1, :2], x[0, 2, 0] = 0.0, -0.0, -1e-40
    a = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "float32"):
        y = layer(a)
    assert y.dtype == (torch.float32 if precision == "float32" else torch.bfloat16)
    given = torch.randn_like(y)
    y.backward(given)

    positive = x > 0 if options.get("sign_of_zero") == -1 else x >= 0
    b = (2.0 * positive - 1).double().requires_grad_()
    w = layer.weight.detach().double()
    w = torch.where(w >= 0, 1.0, -1.0) * w.abs().mean((1, 2, 3), keepdim=True)
    bias = layer.bias.detach().double().requires_grad_() if options.get("bias") else None
    want = F.conv2d(F.pad(b, (1, 1, 1, 1), value=options.get("padding_value", 0)), w, bias)
    want.backward(given.double())
    if bias is not None:
        assert layer.bias.grad.dtype == torch.float32
        assert torch.allclose(layer.bias.grad.double(), bias.grad, rtol=1e-5, atol=1e-4)
    inside = x.double().abs() <= 1
    slope = inside * (2 - 2 * x.double().abs()) if options.get("ste") == "polynomial" else inside
    near = 1e-5 if precision == "float32" else 0.02
    assert torch.allclose(y.double(), want, rtol=near, atol=near)
    assert a.grad.dtype == x.dtype and torch.allclose(a.grad.double(), b.grad * slope, rtol=near, atol=near)


@pytest.mark.parametrize("padding_value", [0, -1])
def test_training_with_dropout_is_a_convolution_of_what_is_left(padding_value, monkeypatch):
    layer = BinaryConv2d(20, 9, 3, padding=1, bias=True, padding_value=padding_value, dropout=0.5)
    x = torch.randn(2, 20, 6, 5)
    torch.manual_seed(0)
    y = layer(x)
    y.square().sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    monkeypatch.setattr(ops, "conv2d_of_signs", lambda x, w, *rest: F.conv2d(x, w, *rest[:-1]))
    torch.manual_seed(0)
    again = layer(x)
    again.square().sum().backward()
    assert torch.allclose(y, again, atol=1e-5)
    assert torch.allclose(gradient, layer.weight.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [
        BinaryConv2d(8, 6, 3, bias=True, scale="learned", input_scale=True),
        BinaryConv2d(8, 6, 3, scale="xnorpp", output_size=(3, 3)),
        nn.Sequential(nn.Flatten(), BinaryLinear(200, 6, scale="learned")),
        RSign(8),
        RPReLU(8),
    ],
)
def test_under_autocast_a_layer_gives_the_type_asked_for(layer):
    """Its own parameters are float32, and must not make all that follows float32."""
    x = torch.randn(2, 8, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


# ---- latent weights, initialisation, temperature -----------------------------------------------------------


@pytest.mark.parametrize("latent", ["free", "clip", "center-clip"])
def test_project(latent):
    for layer in (BinaryConv2d(4, 3, 3, latent=latent), BinaryLinear(7, 3, latent=latent)):
        with torch.no_grad():
            layer.weight.mul_(0).add_(torch.randn(layer.weight.shape) * 2 + 0.5)
        before = layer.weight.detach().clone()
        expected = before.clone()
        if latent == "center-clip":
            for o, *rest in itertools.product(*map(range, before[:, 0].shape)):
                column = (slice(None), *rest)
                expected[o][column] -= sum(before[o][column].tolist()) / before.shape[1]
        if latent != "free":
            expected = expected.clamp(-1, 1)
        layers.project_(nn.Sequential(nn.Identity(), nn.Sequential(layer)))  # found however deep
        torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-6, atol=1e-6)
        assert layer.weight.requires_grad
        if latent == "free":
            assert torch.equal(layer.weight, before)
        else:
            assert layer.weight.abs().max() == 1


def test_initialisation_is_pytorchs():
    for binary, real in (
        (lambda: BinaryConv2d(6, 5, 3, bias=True), lambda: nn.Conv2d(6, 5, 3)),
        (lambda: BinaryLinear(20, 5), lambda: nn.Linear(20, 5)),
    ):
        torch.manual_seed(3)
        a = binary()
        torch.manual_seed(3)
        b = real()
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.bias, b.bias)


def test_start_of_learned_scales():
    conv = BinaryConv2d(6, 5, 3, scale="learned")
    for o in range(5):
        assert conv.scale[o, 0, 0].item() == pytest.approx(
            sum(abs(v) for v in conv.weight[o].flatten().tolist()) / 54, rel=1e-6
        )
    assert BinaryConv2d(6, 5, 3, scale="learned", scale_init=1).scale.unique().tolist() == [1]
    assert BinaryLinear(6, 5, scale="learned", scale_init=0.25).scale.tolist() == [0.25] * 5
    plus = BinaryConv2d(6, 5, 3, scale="xnorpp", output_size=(2, 7))
    assert [tuple(p.shape) for p in (plus.scale_channel, plus.scale_height, plus.scale_width)] == [
        (5, 1, 1),
        (1, 2, 1),
        (1, 1, 7),
    ]
    assert all(p.unique().tolist() == [1] for p in (plus.scale_channel, plus.scale_height, plus.scale_width))


def test_learned_scale_starts_as_the_mean_scale():
    """So that the two kinds start from the same function."""
    x = pm(2, 6, 5, 5)
    a = BinaryConv2d(6, 5, 3, scale="learned").eval()
    b = BinaryConv2d(6, 5, 3, scale="mean").eval()
    b.load_state_dict({"weight": a.weight})
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "old weight_norm", "pruned"])
def test_a_constraint_on_a_weight_that_is_computed_is_refused(how):
    layer, free = (BinaryConv2d(4, 4, 3, latent=latent) for latent in ("clip", "free"))
    for one in (layer, free):
        if how == "pruned":
            prune.l1_unstructured(one, "weight", 0.5)
        else:
            home = nn.utils if how.startswith("old") else nn.utils.parametrizations
            getattr(home, how.removeprefix("old "))(one)
    with pytest.raises(
        ValueError,
        match=r"latent=Clip holds the weight of \w*BinaryConv2d, which is computed .* leave latent='free'",
    ):
        layers.project_(nn.Sequential(layer))
    layers.project_(nn.Sequential(free))


def test_temperature_reaches_every_estimator():
    net = nn.Sequential(
        BinaryConv2d(2, 2, 1, ste="tanh", weight_ste="tanh", scale="none"), RSign(2, ste="tanh")
    )
    x = torch.full((1, 2, 1, 1), 0.3, dtype=torch.float64)
    net.double()
    slopes = []
    for t in (1.0, 3.0):
        layers.set_temperature_(net, t)
        v = x.clone().requires_grad_()
        net[1](v).sum().backward()
        slopes.append(v.grad[0, 0].item())
        w = net[0].weight.detach().double()
        net[0].weight.grad = None
        net[0](x).sum().backward()
        torch.testing.assert_close(net[0].weight.grad, t * (1 - torch.tanh(t * w) ** 2), rtol=1e-12, atol=0)
    assert slopes == pytest.approx(
        [1 - torch.tanh(x).square().max().item(), 3 * (1 - torch.tanh(3 * x).square().max().item())],
        rel=1e-12,
    )
    assert "temperature" not in "".join(net.state_dict())


def test_binary_layers_are_found_by_name():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Sequential(BinaryConv2d(2, 2, 3), nn.ReLU()), BinaryLinear(4, 2)
    )
    assert list(layers.binary_layers(net)) == ["1.0", "2"]


def test_layers_of_one_channel():
    x, row = torch.randn(2, 1, 4, 5), torch.randn(3, 1)
    conv, linear = BinaryConv2d(1, 1, 3, padding=1, bias=True), BinaryLinear(1, 1, bias=True)
    weight = torch.where(conv.weight >= 0, 1.0, -1.0) * conv.weight.abs().mean()
    for mode in (True, False):
        wanted = F.conv2d(torch.where(x >= 0, 1.0, -1.0), weight, conv.bias, padding=1)
        torch.testing.assert_close(conv.train(mode)(x), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            linear.train(mode)(row), torch.where(row >= 0, 1.0, -1.0) * linear.weight + linear.bias
        )


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: BinaryConv2d(3, 4, 3, scale="channel"),
            "unknown scale 'channel': choose one of none, mean, learned, xnorpp",
        ),
        (
            lambda: BinaryConv2d(3, 4, 3, gradient="s3"),
            "unknown gradient 's3': choose one of identity, detached, paper, corrected, s4",
        ),
        (
            lambda: BinaryLinear(3, 4, ste="hard"),
            "unknown ste 'hard': choose one of identity, clipped, polynomial, tanh",
        ),
        (lambda: BinaryLinear(3, 4, weight_ste=None), "unknown weight_ste None: choose one of"),
        (
            lambda: BinaryLinear(3, 4, latent="center"),
            "unknown latent 'center': choose one of free, clip, center-clip",
        ),
        (lambda: BinaryLinear(3, 4, latent=["clip"]), "unknown latent ['clip']: choose one of free"),
        (
            lambda: BinaryLinear(3, 4, transform="standardise"),
            "unknown transform 'standardise': choose one of none, center, standardize",
        ),
        (
            lambda: BinaryLinear(3, 4, scale="dense"),
            "scale='dense' is for convolutions: a linear layer takes none, mean or learned",
        ),
        (
            lambda: BinaryConv2d(3, 4, 3, scale="channel-map"),
            "scale='channel-map' needs output_size=(H_out, W_out)",
        ),
        (
            lambda: BinaryLinear(3, 4, scale="xnorpp"),
            "scale='xnorpp' is for convolutions: a linear layer takes none, mean or learned",
        ),
        (lambda: BinaryLinear(3, 4, sign_of_zero=0), "sign_of_zero is 0: it must be +1 or -1"),
        (lambda: BinaryLinear(3, 4, dropout=1.0), "dropout is 1.0: it must lie in [0, 1)"),
        (lambda: BinaryLinear(3, 4, dropout=-0.1), "dropout is -0.1"),
        (lambda: BinaryLinear(0, 4), "in_features is 0: it must be a whole number >= 1"),
        (lambda: BinaryConv2d(3, 0, 3), "out_channels is 0: it must be a whole number >= 1"),
        (lambda: BinaryConv2d(3, 4, 3, scale="xnorpp"), "scale='xnorpp' needs output_size=(H_out, W_out)"),
        (
            lambda: BinaryConv2d(3, 4, 3, scale="xnorpp", output_size=(0, 4)),
            "output_size is (0, 4): it must be a whole number >= 1",
        ),
        (
            lambda: BinaryConv2d(3, 4, 3, padding="full"),
            "padding is 'full': it must be a whole number >= 0, a pair of them, same or valid",
        ),
        (lambda: BinaryConv2d(3, 4, 3, 2, "same"), "padding='same' goes with stride 1, and stride is (2, 2)"),
        (
            lambda: BinaryConv2d(3, 4, (3, 4), padding="same"),
            "kernel_size (3, 4) would pad one side more than the other",
        ),
        (
            lambda: BinaryConv2d(3, 4, 3, padding_mode="reflect"),
            "padding_mode is 'reflect': a binary convolution pads with one value",
        ),
        (
            lambda: BinaryConv2d(3, 4, 3, dtype=torch.int8),
            "dtype is torch.int8: it must be a floating-point type",
        ),
        (lambda: BinaryConv2d(3, 4, 3, bias="no"), "bias is 'no': it must be True or False"),
        (lambda: BinaryLinear(3, 4, binary_input="no"), "binary_input is 'no': it must be True or False"),
        (lambda: BinaryLinear(3, 4, input_scale=2), "input_scale is 2: it must be True or False"),
        (lambda: BinaryLinear(3, 4, gain=float("nan")), "gain is nan: it must be a finite number"),
        (lambda: BinaryLinear(3, 4, dropout="0.1"), "dropout is '0.1': it must be a finite number"),
        (
            lambda: BinaryLinear(3, 4, scale="learned", scale_init="a"),
            "scale_init is 'a': it must be a finite number",
        ),
        (
            lambda: BinaryConv2d(4, 4, 3, scale_init=3.0),
            "scale_init=3.0 would change nothing: it needs scale='learned', and scale is 'mean'",
        ),
        (
            lambda: BinaryConv2d(4, 4, 3, output_size=8),
            "output_size=8 would change nothing: it needs a scale of xnorpp, dense, channel-map, and scale is 'mean'",
        ),
        (
            lambda: BinaryConv2d(4, 4, 3, weight_ste="identity"),
            "weight_ste='identity' would change nothing: it needs another scale than 'mean'",
        ),
        (
            lambda: BinaryLinear(4, 4, scale="none", gain=2.0),
            "gain=2.0 would change nothing: it needs scale='mean'",
        ),
        (lambda: BinaryConv2d(3, 4, 3, padding=(1, -1)), "padding is (1, -1)"),
        (
            lambda: BinaryConv2d(3, 4, 3, stride=0),
            "stride is 0: it must be a whole number >= 1, or a pair of them",
        ),
        (lambda: BinaryConv2d(3, 4, (3, 3, 3)), "kernel_size is (3, 3, 3)"),
        (lambda: BinaryConv2d(3, 4, 3, dilation=1.5), "dilation is 1.5"),
        (
            lambda: BinaryConv2d(3, 4, 3, groups=2),
            "groups is 2: it must divide in_channels 3 and out_channels 4",
        ),
        (lambda: BinaryConv2d(3, 4, 3, groups=0), "groups is 0"),
        (lambda: BinaryConv2d(3, 4, 3, padding_value=2), "padding_value is 2: it must be 0, +1 or -1"),
        (
            lambda: BinaryConv2d(3, 4, 3)(torch.zeros(2, 4, 5, 5)),
            "BinaryConv2d expects (N, 3, H, W) or (3, H, W), got (2, 4, 5, 5)",
        ),
        (
            lambda: BinaryConv2d(3, 4, 3)(torch.zeros(4, 5, 5)),
            "BinaryConv2d expects (N, 3, H, W) or (3, H, W), got (4, 5, 5)",
        ),
        (
            lambda: layers.BinaryConv1d(3, 4, 3)(torch.zeros(2, 4, 7)),
            "BinaryConv1d expects (N, 3, L) or (3, L), got (2, 4, 7)",
        ),
        (
            lambda: layers.BinaryConv1d(3, 4, 3)(torch.zeros(2, 3, 5, 5)),
            "BinaryConv1d expects (N, 3, L) or (3, L), got (2, 3, 5, 5)",
        ),
        (lambda: layers.BinaryConv1d(3, 4, (3, 3)), "kernel_size is (3, 3)"),
        (lambda: BinaryLinear(3, 4)(torch.zeros(2, 4)), "BinaryLinear expects (..., 3), got (2, 4)"),
        (
            lambda: BinaryConv2d(3, 4, 1, scale="xnorpp", output_size=(1, 5))(torch.zeros(1, 3, 6, 5)),
            "factors for outputs of (1, 5), an input of (1, 3, 6, 5) gives (6, 5)",
        ),
        (lambda: RSign(3, ste="hard"), "unknown ste 'hard'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.int8, torch.bool])
@pytest.mark.parametrize("training", [True, False])
def test_whole_numbers_are_refused_in_training_as_in_evaluation(kind, training):
    """Their gradient would be lost, and their sums were zeros."""
    image, row = torch.ones(1, 3, 5, 5).to(kind), torch.ones(2, 3).to(kind)
    for layer, x in ((BinaryConv2d(3, 4, 3), image), (BinaryConv2d(3, 4, 3, padding=1, padding_value=1), image),
                     (BinaryConv2d(3, 4, 3, binary_input=False), image), (BinaryLinear(3, 4), row)):  # fmt: skip
        with pytest.raises(ValueError, match=r"floating-point values, got \w+: give x.float\(\)"):
            layer.train(training)(x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer, shape", [(BinaryConv2d(3, 4, 3, padding=1), (2, 3, 5, 5)), (BinaryLinear(3, 4), (2, 3))], ids=["conv", "linear"])  # fmt: skip
def test_values_of_another_type_are_refused_unless_autocast_converts_them(layer, shape, training):
    """A convolution took them in training, and evaluation failed in PyTorch's own words."""
    layer.float().train(training)
    x = torch.randn(shape)
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        name = str(kind).removeprefix("torch.")
        with pytest.raises(
            ValueError, match=rf"float32 weights and got {name} values: give x.to\(torch.float32\)"
        ):
            layer(x.to(kind))
        with pytest.raises(ValueError, match=rf"{name} weights and got float32 values"):
            layer.to(kind)(x)
        layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
        assert torch.equal(layer(x.bfloat16()), expected)
        with pytest.raises(ValueError, match="got float64 values"):
            layer(x.double())
