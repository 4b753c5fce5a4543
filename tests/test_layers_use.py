"""Binary layers in PyTorch's hands: copies, files and names; torch.compile, autocast and memory formats."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch._inductor.config
from layers_reference import pm

from bnnlib import layers
from bnnlib.layers import BinaryConv2d, BinaryLinear, RPReLU, RSign
from bnnlib.quantizers import sign

MADE = {
    "conv": lambda: BinaryConv2d(3, 4, 3, padding=1, bias=True),
    "conv none": lambda: BinaryConv2d(3, 4, 3, padding=1, scale="none"),
    "conv learned": lambda: BinaryConv2d(
        3, 4, 3, padding=1, scale="learned", bias=True, transform="standardize"
    ),
    "conv xnorpp": lambda: BinaryConv2d(
        3, 4, 3, padding=1, scale="xnorpp", output_size=(6, 5), input_scale=True
    ),
    "conv dense": lambda: BinaryConv2d(3, 4, 3, padding=1, scale="dense", output_size=(6, 5)),
    "conv channel-map": lambda: BinaryConv2d(3, 4, 3, padding=1, scale="channel-map", output_size=(6, 5)),
    "conv of a real-valued input": lambda: BinaryConv2d(3, 4, 3, padding=1, binary_input=False),
    "linear": lambda: BinaryLinear(30, 4),
    "linear learned": lambda: BinaryLinear(30, 4, scale="learned", bias=False),
    "conv annealed": lambda: BinaryConv2d(3, 4, 3, ste="ede", weight_ste="ede", scale="learned"),
    "rsign": lambda: RSign(3),
    "rprelu": lambda: RPReLU(3),
}
KEYS = {
    "conv": ["weight", "bias"],
    "conv none": ["weight"],
    "conv learned": ["weight", "bias", "scale"],
    "conv xnorpp": ["weight", "scale_channel", "scale_height", "scale_width"],
    "conv dense": ["weight", "scale_dense"],
    "conv channel-map": ["weight", "scale_channel", "scale_map"],
    "conv of a real-valued input": ["weight"],
    "linear": ["weight", "bias"],
    "linear learned": ["weight", "scale"],
    "conv annealed": ["weight", "scale"],
    "rsign": ["shift"],
    "rprelu": ["before", "slope", "after"],
}


def input_of(layer):
    return pm(2, 30) if isinstance(layer, BinaryLinear) else pm(2, 3, 6, 5)


@pytest.mark.parametrize("name", MADE)
def test_state_dict_keys_stay_as_files_have_them(name):
    assert list(MADE[name]().state_dict()) == KEYS[name]


@pytest.mark.parametrize("name", MADE)
def test_deepcopy_pickle_and_state_dict_keep_the_function(name):
    layer = MADE[name]()
    x = input_of(layer)
    layers.set_temperature_(layer, 3.0)
    loaded = MADE[name]()
    loaded.load_state_dict(layer.state_dict())
    layers.set_temperature_(loaded, 3.0)  # a function of the epoch, in no file
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded]
    for mode in (True, False):
        y = layer.train(mode)(x)
        for other in copies:
            assert torch.equal(other.train(mode)(x), y)
    with torch.no_grad():
        next(iter(copies[0].parameters())).add_(1)
    assert not torch.equal(
        next(iter(copies[0].parameters())), next(iter(layer.parameters()))
    )  # a copy, not a view


@pytest.mark.parametrize(
    ("layer", "line", "parts"),
    [
        (
            BinaryConv2d(3, 4, 5),
            "3, 4, kernel_size=(5, 5), stride=(1, 1), bias=False",
            "(input_quantizer): ClippedSTE(), (weight_quantizer): ScaledSign(corrected)",
        ),
        (
            BinaryConv2d(4, 4, 3, 2, 1, groups=2, bias=True, scale="learned", ste="polynomial", latent="clip",
                         padding_value=-1, dropout=0.5, weight_ste="identity"),
            "4, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=2, padding_value=-1, bias=True, dropout=0.5",
            "(input_quantizer): ApproxSign(), (weight_quantizer): IdentitySTE(), (constraint): Clip(), "
            "(output_scale): LearnedScale(scale (4, 1, 1))",
        ),
        (
            BinaryConv2d(3, 4, 3, dilation=2, scale="dense", output_size=7, input_scale=True, transform="center", sign_of_zero=-1),
            "3, 4, kernel_size=(3, 3), stride=(1, 1), dilation=(2, 2), bias=False, input_scale=True",
            "(input_quantizer): ClippedSTE(zero=-1), (weight_quantizer): ClippedSTE(), (transform): Center(), "
            "(output_scale): DenseScale(scale_dense (4, 7, 7))",
        ),
        (
            BinaryLinear(3, 4, gradient="s4", gain=1e9, latent="center-clip"),
            "3, 4, bias=True",
            "(input_quantizer): ClippedSTE(), (weight_quantizer): ScaledSign(s4, gain=1000000000.0), (constraint): CenterClip()",
        ),
        (RSign(6, ste="tanh"), "6", "(quantizer): EDE()"),
        (RSign(6, signs=False), "6, signs=False", "(quantizer): ClippedSTE()"),
        (RPReLU(6), "6", ""),
    ],
)  # fmt: skip
def test_a_layer_prints_its_parts(layer, line, parts):
    found = [part.strip() for part in repr(layer).removeprefix(type(layer).__name__ + "(").removesuffix(")").splitlines()]
    found = [part for part in found if part]
    assert found[0] == line and ", ".join(found[1:]) == parts


# ---- torch.compile, autocast, memory formats ---------------------------------------------------------------


def gradients(layer, run, x):
    layer.zero_grad()
    v = x.clone().requires_grad_()
    y = run(v)
    y.float().square().mean().backward()
    return [y.detach(), v.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MADE)
def test_compiled_without_a_graph_break(name):
    torch.manual_seed(0)
    layer = MADE[name]()
    x = input_of(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for mode in (True, False):
        layer.train(mode)
        for a, b in zip(gradients(layer, layer, x), gradients(layer, compiled, x), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


def test_compiled_by_inductor():
    """Down to compiled C++, forward and backward; the quicker tests above take the layers one by one."""
    torch.manual_seed(0)
    layer = BinaryLinear(30, 4, gradient="s4", transform="standardize")
    x = pm(2, 30)
    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1):
        results = gradients(layer, torch.compile(layer, fullgraph=True), x)
    for a, b in zip(gradients(layer, layer, x), results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_changing_the_temperature_does_not_recompile():
    layer = BinaryLinear(8, 4, ste="tanh")
    torch._dynamo.reset()
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph

    compiled = torch.compile(layer, backend=backend)
    for t in (1.0, 2.0, 3.0):
        layers.set_temperature_(layer, t)
        compiled(torch.randn(3, 8))
    assert len(compilations) == 1


@pytest.mark.parametrize("name", MADE)
def test_under_bf16_autocast(name):
    torch.manual_seed(0)
    layer = MADE[name]()
    x = input_of(layer)

    def run(v):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(v)

    for low, full in zip(gradients(layer, run, x), gradients(layer, layer, x), strict=True):
        assert low.isfinite().all()
        assert (low.float() - full).abs().max() <= 0.05 * full.abs().max()


@pytest.mark.parametrize("name", [name for name in MADE if "linear" not in name])
def test_channels_last(name):
    torch.manual_seed(0)
    layer = MADE[name]()
    x = input_of(layer)
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    y = layer(x)
    z = last(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(z, y, rtol=1e-5, atol=1e-5)
    assert z.is_contiguous(memory_format=torch.channels_last)
    y.square().mean().backward()
    z.square().mean().backward()
    for p, q in zip(layer.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5)


# ---- in the place of PyTorch's own ---------------------------------------------------------------------------


@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
@pytest.mark.parametrize("kernel", [1, 3, (5, 3)])
def test_same_and_valid_are_numbers(kernel, dilation):
    real = torch.nn.Conv2d(3, 4, kernel, padding="same", dilation=dilation, bias=False)
    layer = BinaryConv2d(3, 4, kernel, padding="same", dilation=dilation, scale="none")
    real.weight.data = sign(layer.weight.detach())
    x = torch.randn(2, 3, 9, 8)
    assert torch.equal(layer(x), real(sign(x))) and layer(x).shape[2:] == x.shape[2:]
    assert all(type(size) is int for size in layer.padding)
    assert BinaryConv2d(3, 4, kernel, padding="valid").padding == (0, 0)


def test_a_row_may_be_padded_as_its_output():
    assert layers.BinaryConv1d(3, 4, 5, padding="same")(torch.randn(2, 3, 9)).shape == (2, 4, 9)
    assert layers.BinaryConv1d(3, 4, (5,), padding=(2,)).padding == (0, 2)
    row, x = layers.BinaryConv1d(3, 4, 3, padding=2, padding_value=-1, scale="none"), torch.randn(2, 3, 9)
    wanted = torch.nn.functional.conv1d(torch.nn.functional.pad(sign(x), (2, 2), value=-1), sign(row.weight[:, :, 0]))
    assert torch.equal(row(x), wanted) and torch.equal(row.eval()(x), wanted)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BinaryConv2d(3, 4, 3, padding=1, scale="xnorpp", output_size=(6, 5), input_scale=True), (3, 6, 5)),
        (layers.BinaryConv1d(3, 4, 3), (3, 7)),
        (BinaryLinear(3, 4), (3,)),
    ],
    ids=["conv", "row", "linear"],
)
@pytest.mark.parametrize("training", [True, False])
def test_one_image_may_come_without_a_batch(layer, shape, training):
    x = torch.randn(3, *shape)  # as many images as channels
    assert torch.equal(layer.train(training)(x[0]), layer(x[:1])[0])
    torch.testing.assert_close(layer(x), torch.stack([layer(one) for one in x]))


def test_device_and_type_are_those_asked_for():
    for make in (
        lambda **how: BinaryConv2d(3, 4, 3, scale="dense", output_size=4, ste="ede", bias=True, **how),
        lambda **how: layers.BinaryConv1d(3, 4, 3, scale="learned", **how),
        lambda **how: BinaryLinear(3, 4, scale="learned", ste="ede", **how),
    ):
        held = make(device="meta", dtype=torch.float64).state_dict(keep_vars=True).values()
        assert {(t.device.type, t.dtype) for t in held} == {("meta", torch.float64)}
        # the temperature alone has its value everywhere
        assert all(t.device.type == "cpu" for t in make(device="meta").buffers()) and make(device="meta").weight.is_meta
    assert BinaryLinear(3, 4, False, "cpu", torch.float16).weight.dtype == torch.float16


def _small():
    return torch.nn.Sequential(BinaryConv2d(2, 4, 3, ste="ede", scale="learned"), torch.nn.Flatten(), BinaryLinear(16, 3, ste="ede"))


def test_traced_as_the_module_says():
    class Leaves(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, layers.BinaryLayer) or super().is_leaf_module(module, name)

    net, x = _small().eval(), torch.randn(2, 2, 4, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that tracing is deprecated
        assert torch.equal(torch.jit.trace(net, x)(x[:1]), net(x[:1]))
    graph = Leaves().trace(net)
    assert torch.equal(torch.fx.GraphModule(net, graph)(x), net(x))
    with pytest.raises(NotImplementedError, match="forward mode AD"):
        torch.func.jvp(net, (x,), (x,))


@pytest.mark.parametrize("how", ["to_empty", "assign"])
def test_a_net_that_was_built_without_memory_learns_as_any_other(how):
    torch.manual_seed(0)
    plain, x = _small(), torch.randn(2, 2, 4, 4)
    with torch.device("meta"):
        bare = _small()
        assert bare(x.to("meta")).shape == (2, 3)
    if how == "to_empty":
        bare.to_empty(device="cpu")
        assert bare.load_state_dict(plain.state_dict()).missing_keys == []
    else:
        bare.load_state_dict(plain.state_dict(), assign=True)
    for net in (bare, plain):
        net.zero_grad()
        net(x).square().sum().backward()
    for a, b in zip(bare.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    layers.set_temperature_(plain, 3.0)
    held = copy.deepcopy(plain).double().to_empty(device="cpu")
    assert [(b.item(), b.dtype) for b in held.buffers()] == [(3.0, torch.float64)] * 2
    assert [b.item() for b in plain.to("meta").to_empty(device="cpu").buffers()] == [3.0, 3.0]


def test_sizes_may_be_of_any_type_of_whole_numbers():
    three = np.int64(3)
    layer = BinaryConv2d(three, np.int32(4), three, np.int8(1), (three, 1), groups=np.int64(1), bias=np.bool_(False), gain=np.float32(2))
    assert layer.kernel_size == (3, 3) and layer.padding == (3, 1) and layer.bias is None
    assert {type(n) for n in (*layer.kernel_size, *layer.padding, layer.groups, layer.in_channels)} == {int}


def test_a_layer_in_the_place_of_pytorchs_is_packed():
    from bnnlib import deploy

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), BinaryConv2d(8, 16, 3, padding="same", dilation=2, padding_mode="zeros"),
        torch.nn.BatchNorm2d(16), BinaryConv2d(16, 8, (1, 3), padding="same", dtype=torch.float32, device="cpu"), torch.nn.Flatten(),
    ).eval()  # fmt: skip
    packed, x = deploy.convert(net, (1, 9, 9)), torch.randn(3, 1, 9, 9)
    assert [op.kind for op in packed.graph.ops].count("binary_conv") == 2
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(packed(x[0]), packed(x[:1])[0])
