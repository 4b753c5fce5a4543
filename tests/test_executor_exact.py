"""Networks that random graphs (bnnlib/deploy/randomgraphs.py) do not draw, on every kernel variant, against the interpreter in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bnnlib.deploy import convert
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.interpreter import interpret
from bnnlib.deploy.operations import output_shape
from bnnlib.deploy.run import Runner, kernels

VARIANTS = [name for name, _, supported in kernels().variants() if supported]
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def whole_numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def places_of_images(n: int, h: int, w: int, c: int) -> dict[str, np.ndarray]:
    """Images ``[N, C, H, W]`` that lie in memory in different ways."""
    pixels = whole_numbers(2 * n, h, 2 * w, c)
    return {
        "planes": np.ascontiguousarray(pixels[:n, :, :w].transpose(0, 3, 1, 2)),
        "pixels": np.ascontiguousarray(pixels[:n, :, :w]).transpose(0, 3, 1, 2),
        "pixels, every other image": np.ascontiguousarray(pixels[:, :, :w])[::2].transpose(0, 3, 1, 2),
        "pixels, every other column": pixels[:n, :, ::2].transpose(0, 3, 1, 2),
        "columns of pixels": np.ascontiguousarray(pixels[:n, :, :w].transpose(0, 2, 1, 3)).transpose(0, 3, 2, 1),
    }


def conv(kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    return {"kernel": [*kernel], "stride": [*stride], "padding": [*padding], "dilation": [*dilation], "groups": 1, "weights": "float32"}


STORE = [{"op": "store", "slot": "y"}]
GEOMETRIES = [  # of images of 4 x 3
    conv((4, 3)), conv((4, 3), padding=(1, 0)), conv((4, 3), padding=(0, 1)), conv((1, 1)), conv((1, 1), padding=(1, 0)),
    conv((1, 1), padding=(0, 1)), conv((1, 1), (2, 1)), conv((1, 1), (1, 2)), conv((2, 2), padding=(1, 1), dilation=(1, 2)), conv((1, 1), dilation=(3, 2)),
]  # fmt: skip


@every_variant
@pytest.mark.parametrize("inside", [False, True], ids=["from outside", "from a slot"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions_whose_rows_may_be_the_input_itself(variant, inside, geometry):
    slots = {"x": Slot("float32", (4, 3, 5)), "a": Slot("float32", (4, 3, 5))}
    op = Op("real_conv", ["a" if inside else "x"], geometry, {"weight": "w"}, STORE)
    tensors = {"w": whole_numbers(33, *geometry["kernel"], 5, seed=1)}
    slots["y"] = Slot("float32", output_shape(op, [(4, 3, 5)], tensors))
    graph = Graph(["x"], ["y"], slots, [Op("map", ["x"], {"repeat": 1}, {}, [{"op": "store", "slot": "a"}]), op], tensors)
    for n in (1, 3):
        for how, x in places_of_images(n, 4, 3, 5).items():
            assert np.array_equal(Runner(graph, kernel=variant).arrays([x])[0], interpret(graph, x)["y"]), (n, how)


@every_variant
@pytest.mark.parametrize("h", [1, 4])
def test_what_is_read_from_outside_may_lie_in_any_way(variant, h):
    """A convolution of one tap, a move, and a residual of what stands elsewhere in memory than its own values."""
    shape = (h, 6, 5)
    slots = {"x": Slot("float32", shape), "y": Slot("float32", shape), "z": Slot("float32", shape)}
    tensors = {"w": whole_numbers(5, 1, 1, 5, seed=1), "t": np.arange(h * 30, dtype=np.int32)[::-1].copy()}
    ops = [
        Op("real_conv", ["x"], conv((1, 1)), {"weight": "w"}, [{"op": "residual", "slot": "x"}, *STORE]),
        Op("move", ["x"], {"shape": [*shape], "sizes": [h * 30], "value": 0.0}, {"tables": "t"}, [{"op": "store", "slot": "z"}]),
    ]
    graph = Graph(["x"], ["y", "z"], slots, ops, tensors)
    for n in (1, 3):
        for how, x in places_of_images(n, h, 6, 5).items():
            wanted = interpret(graph, x)
            for name, found in zip(graph.outputs, Runner(graph, kernel=variant).arrays([x]), strict=True):
                assert np.array_equal(found, wanted[name]), (n, how, name)


@every_variant
@pytest.mark.parametrize("channels", [5, 64])
def test_stages_in_an_order_that_the_converter_does_not_write(variant, channels):
    """A scale that differs from pixel to pixel before a pooling; values that are stored and changed afterwards; more than eight steps."""
    slots = {"x": Slot("float32", (5, 4, 3)), "y": Slot("float32", (2, 2, channels)),
             "b": Slot("bits", (2, 2, channels)), "z": Slot("float32", (5, 4, channels)), "c": Slot("bits", (5, 4, channels))}  # fmt: skip
    tensors = {"w": whole_numbers(channels, 1, 1, 3, seed=1), "map": whole_numbers(5, 4, channels, seed=2), "by": whole_numbers(channels, seed=3),
               "low": np.zeros(channels, np.float32), "high": np.full(channels, np.inf, np.float32)}  # fmt: skip
    sign = lambda slot: {"op": "sign", "low": "low", "high": "high", "slot": slot}  # noqa: E731
    bias = {"op": "bias", "by": "by"}
    ops = [
        Op("real_conv", ["x"], conv((1, 1)), {"weight": "w"},
           [{"op": "scale", "by": "map"}, {"op": "max_pool", "size": 2}, {"op": "store", "slot": "y"}, bias, sign("b")]),
        Op("real_conv", ["x"], conv((1, 1)), {"weight": "w"}, [*[bias] * 9, {"op": "store", "slot": "z"}, {"op": "relu"}, bias, sign("c")]),
    ]  # fmt: skip
    graph = Graph(["x"], ["y", "b", "z", "c"], slots, ops, tensors)
    x = whole_numbers(3, 3, 5, 4)
    wanted = interpret(graph, x)
    for name, found in zip(graph.outputs, Runner(graph, kernel=variant).arrays([x]), strict=True):
        if slots[name].kind == "bits":
            found = 2.0 * np.unpackbits(found.view(np.uint8), axis=-1, count=channels, bitorder="little") - 1
        assert np.array_equal(found, wanted[name]), name


@every_variant
def test_one_parameter_serves_channels_of_every_piece_of_work(variant):
    """An ELU behind more channels than one piece has."""
    tensors = {"w": whole_numbers(700, 1, 1, 3, seed=1)}
    op = Op("real_conv", ["x"], conv((1, 1)), {"weight": "w"}, [{"op": "elu", "alpha": 0.7}, *STORE])
    graph = Graph(["x"], ["y"], {"x": Slot("float32", (1, 1, 3)), "y": Slot("float32", (1, 1, 700))}, [op], tensors)
    x = whole_numbers(2, 3, 1, 1)
    wanted = torch.nn.functional.elu(torch.from_numpy(x[:, :, 0, 0] @ tensors["w"][:, 0, 0].T).double(), 0.7).numpy()
    for threads in (1, 2):
        np.testing.assert_allclose(Runner(graph, threads, variant).arrays([x])[0][:, 0, 0], wanted, rtol=1e-5, atol=1e-6)


EXTREMES = [0.0, -0.0, 1e-40, 1.5, -1.5, 19.0, 21.0, 100.0, -100.0, np.inf, -np.inf, np.nan]
FUNCTIONS = {
    "abs": torch.abs, "exp": torch.exp, "log": torch.log, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": torch.nn.functional.softplus,
    "reciprocal": torch.reciprocal, "hard_sigmoid": torch.nn.functional.hardsigmoid,
}  # fmt: skip


@every_variant
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_extreme_values_are_pytorchs(variant, name):
    n = len(EXTREMES)
    slots = {"x": Slot("float32", (1, 1, n)), "y": Slot("float32", (1, 1, n))}
    graph = Graph(["x"], ["y"], slots, [Op("map", ["x"], {"repeat": 1}, {}, [{"op": name}, *STORE])], {})
    x = np.array(EXTREMES, np.float32)
    found = Runner(graph, kernel=variant).arrays([x.reshape(1, n, 1, 1)])[0].ravel()
    wanted = FUNCTIONS[name](torch.from_numpy(x).double()).float().numpy()
    small = np.abs(wanted) < np.finfo(np.float32).tiny  # may be 0
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found[~small], wanted[~small], rtol=1e-6)
    assert (np.abs(found[small]) <= np.finfo(np.float32).tiny).all()
    if name == "abs":
        assert not np.signbit(found[:2]).any()


@every_variant
@pytest.mark.parametrize("axes", [[2], [0, 1], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("function", ["max", "min"])
def test_the_largest_and_the_smallest_of_a_nan_are_nan(variant, function, axes):
    x = whole_numbers(3, 17, 2, 3)
    x[0, 0, 1, 2], x[1, 16, 0, 0] = np.nan, np.nan
    op = Op("reduce", ["x"], {"function": function, "axes": axes}, {}, STORE)
    slots = {"x": Slot("float32", (2, 3, 17)), "y": Slot("float32", output_shape(op, [(2, 3, 17)], {}))}
    graph = Graph(["x"], ["y"], slots, [op], {})
    np.testing.assert_array_equal(Runner(graph, kernel=variant).arrays([x])[0], interpret(graph, x)["y"])


@every_variant
@pytest.mark.parametrize("stride", [1, 2], ids=["pooling alone", "pooling behind a convolution"])
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_a_nan_anywhere_in_a_window_is_its_largest_value(variant, stride, place):
    """Values that overflow inside a network make one; PyTorch is the reference."""
    nn = torch.nn
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 19, 1, bias=False), nn.MaxPool2d(2, stride))
    with torch.no_grad():
        network[0].weight.fill_(3.0)
        network[2].weight[::2] = 0.0
        x = torch.ones(2, 1, 4, 4)
        x[1, 0, place[0], place[1]] = 3e38  # infinity behind the first layer, of which 0 makes a NaN
        wanted = network(x).permute(0, 2, 3, 1).numpy()
    graph = convert(network.eval(), (1, 4, 4)).graph
    assert ("max_pool" in [op.kind for op in graph.ops]) == (stride == 1)
    found = Runner(graph, kernel=variant).arrays([x.numpy()])[0]
    assert np.isnan(wanted).any() and np.array_equal(np.isnan(found), np.isnan(wanted))
