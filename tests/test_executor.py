"""The native executor: any batch, any kernel variant, threads, strides, bad input, no PyTorch, sanitizers."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_net import images, trained_small
from toolchains import for_arm, need
from torch import nn

from bnnlib import deploy, layers, models
from bnnlib.deploy import interpreter, operations, program, run
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.network import PackedNetwork
from bnnlib.deploy.run import Runner, kernels
from bnnlib.packing import quantize_activations

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = [name for name, _, supported in kernels().variants() if supported]


@pytest.fixture(scope="module")
def small():
    model = trained_small()
    return model, deploy.convert(model, (3, 22, 25))


def signed_values(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What the model takes the signs of."""
    found: list[torch.Tensor] = []
    modules = [*layers.binary_layers(model).values(), *(m.quantizer for m in model.modules() if isinstance(m, layers.RSign))]
    hooks = [m.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].flatten(1))) for m in modules]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def without_ties(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The images of which no value that is binarised lies so near zero that sums in another order may turn its sign: within ten times what
    float32 is off from float64 in this layer."""
    clear = torch.ones(len(x), dtype=torch.bool)
    for value, exact in zip(signed_values(model, x), signed_values(copy.deepcopy(model).double(), x.double()), strict=True):
        near = exact.abs() <= 10 * (value - exact).abs().amax(1, keepdim=True)
        clear &= ~(near & ~((exact == 0) & (value == 0))).any(1)
    assert clear.float().mean() > 0.5
    return x[clear]


def test_small_holds_every_operation_of_convolutional_nets(small):
    """The others, of two tensors, of functions and of shapes, are in tests/test_deploy_supported.py and among the random nets."""
    _, net = small
    done = {op.kind for op in net.graph.ops} | {s["op"] for op in net.graph.ops for s in op.stages}
    wanted = {*operations.OPERATIONS, *operations.STAGES} - {"torch", "step", "map"}
    wanted -= {"move", "join", "reduce", "resample", "divide", *operations.FUNCTIONS, *operations.PAIRS}
    assert wanted <= done


def test_the_result_is_the_models(small):
    model, net = small
    x = without_ties(model, images(64))
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 33, 130, 257])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_batch_on_any_threads_gives_the_same(small, batch, threads):
    """An image's result depends neither on its neighbours nor on how the work is shared."""
    _, net = small
    x = images(batch)
    runner = Runner(net.graph, threads=threads)
    got = runner(x.numpy())
    one = Runner(net.graph)
    some = range(batch) if batch < 8 else (0, 1, batch // 2, batch - 2, batch - 1)
    for i in some:
        alone = one(x[i : i + 1].numpy())[0]
        np.testing.assert_allclose(got[i], alone, rtol=1e-4, atol=1e-4)
    assert np.array_equal(got, runner(x.numpy()))


def test_batch_of_none(small):
    _, net = small
    assert net(images(0)).shape == (0, 7)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["lenet5", "nin"])
def test_variants_agree_bit_for_bit(variant, name):
    """Integers are integers on every instruction set: with the first sums given, all bits are equal."""
    torch.manual_seed(1)
    model = models.build(name).eval()
    shape = (1, 28, 28) if name == "lenet5" else (3, 32, 32)
    net = deploy.convert(model, shape, keep=["conv1"] if name == "lenet5" else ["features.0"])
    other = PackedNetwork(net.graph, net.calls, kernel=variant)
    x = images(3, shape=shape)
    want, got = net.bits(x), other.bits(x)
    assert all(torch.equal(want[k], got[k]) for k in want)
    torch.testing.assert_close(other(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_on_everything(small, variant):
    model, net = small
    x = without_ties(model, images(40))
    got = torch.from_numpy(Runner(net.graph, kernel=variant)(x.numpy()))
    with torch.no_grad():
        torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_weights(variant):
    """One linear layer of odd size at every number of rows that takes another path. Where the CPU multiplies bf16, the
    images are rounded to it as well."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(7 * 9 * 5, 37))
    graph = deploy.convert(model, (7, 9, 5), real={"1": "bfloat16"}).graph
    weight = (graph.tensors[graph.ops[0].constants["weight"]].astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    runner = Runner(graph, kernel=variant)
    for batch in (1, 2, 3, 4, 5, 13, 200):
        x = images(batch, shape=(7, 9, 5))
        wants = [
            np.einsum("nchw,ohwc->no", seen.double().numpy(), weight) + model[1].bias.detach().numpy()
            for seen in (x, x.bfloat16())
        ]
        got = runner(x.numpy())
        assert any(np.allclose(got, want, rtol=1e-4, atol=1e-4) for want in wants), (batch, got, wants)


INT8 = [  # channels, outputs, kernel, stride, padding, dilation, groups, height, width, pool
    (5, 37, (7, 9), 1, 0, 1, 1, 7, 9, 1), (3, 64, 7, 2, 3, 1, 1, 31, 17, 1), (1, 20, 5, 1, 0, 1, 1, 28, 28, 2), (64, 96, 1, 1, 0, 1, 1, 6, 5, 1),
    (64, 40, 1, 2, 0, 1, 1, 7, 5, 1), (12, 70, 3, 1, (2, 1), (2, 1), 2, 9, 8, 2), (8, 8, 3, 1, 1, 1, 8, 5, 6, 1), (500, 130, 1, 1, 0, 1, 1, 1, 1, 1),
    (3, 33, 3, 1, 1, (1, 2), 1, 11, 7, 3), (17, 9, (2, 3), (2, 1), (0, 2), 1, 1, 8, 3, 1), (2, 5, 3, (5, 1), (9, 2), 1, 1, 4, 6, 1),
    (130, 20, 3, 1, 1, 1, 1, 3, 4, 1), (6, 600, 1, 1, 0, 1, 1, 2, 3, 1),
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", INT8, ids=str)
def test_int8_layers_are_exact(variant, case):
    """Sums of integers: the same float32 on every instruction set, for any batch, threads and strides."""
    c, o, kernel, stride, padding, dilation, groups, h, w, pool = case
    torch.manual_seed(4)
    layer = nn.Conv2d(c, o, kernel, stride, padding, dilation, groups, bias=False)
    graph = deploy.convert(nn.Sequential(layer, nn.MaxPool2d(pool)), (c, h, w), real="int8").graph
    stored, scales = (graph.tensors[graph.ops[0].constants[name]] for name in ("weight", "scale"))
    exact = copy.deepcopy(layer).double()
    exact.weight.data = torch.from_numpy(stored).permute(0, 3, 1, 2).double()
    for batch in (1, 2, 3, 4, 17, 130):
        wide = images(batch, shape=(c, h, w + 3)) * torch.logspace(-3, 3, batch)[:, None, None, None]
        wide[batch // 2] = wide[batch // 2].abs()  # zero point 0
        for x in (wide[..., :w].contiguous(), wide[..., 3:], wide[..., :w].contiguous(memory_format=torch.channels_last)):
            integers, scale = quantize_activations(x)
            with torch.no_grad():
                sums = exact(integers.double()).float()
                want = nn.functional.max_pool2d(sums * (scale * torch.from_numpy(scales)[:, None, None]), pool)
            for threads in (1, 2):
                got = torch.from_numpy(Runner(graph, kernel=variant, threads=threads)(x.numpy()))
                assert torch.equal(got.reshape(want.shape), want), (batch, threads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_layers_on_extreme_values(variant):
    """Zeros give zeros; an image that holds what is not finite gives NaN, its neighbours nothing of it; sums that leave
    float32's integers stay as close as float32 is."""
    torch.manual_seed(4)
    graph = deploy.convert(nn.Linear(300, 33, bias=False), (300,), real="int8").graph
    x = torch.randn(6, 300)
    x[1], x[2, 7], x[3, 299], x[4] = 0, torch.inf, -torch.inf, x[0] * 1e-40
    y = Runner(graph, kernel=variant)(x.numpy())
    assert not y[1].any() and not y[4].any() and np.isnan(y[2:4]).all()
    assert np.isfinite(y[[0, 5]]).all() and y[[0, 5]].all()
    wide = nn.Linear(70_000, 3, bias=False)  # more than int32 is sure to hold
    wide.weight.data[0] = 1
    graph = deploy.convert(wide, (70_000,), real="int8").graph
    x = torch.rand(5, 70_000)
    x[4] = 1
    integers, scale = quantize_activations(x)
    stored, scales = (torch.from_numpy(graph.tensors[graph.ops[0].constants[name]]) for name in ("weight", "scale"))
    want = integers.double() @ stored.reshape(3, -1).double().T * scale * scales
    np.testing.assert_allclose(Runner(graph, kernel=variant)(x.numpy()), want.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_int8_layers_with_a_border_larger_than_memory(variant):
    """The image is not copied with it; and a weight that serves such a layer and another has an order for each."""
    torch.manual_seed(4)
    layer = nn.Conv2d(1, 1, 1, bias=False)
    graph = deploy.convert(layer, (1, 4, 4), real="int8").graph
    op, wide = graph.ops[0], 2**31 - 2
    far = Op("real_conv", op.inputs, {**op.attributes, "padding": [wide, wide], "stride": [wide, wide]}, op.constants, [{"op": "store", "slot": "far"}])
    graph.slots["far"] = Slot("float32", (3, 3, 1))
    both = Graph(graph.inputs, [*graph.outputs, "far"], graph.slots, [op, far], graph.tensors)
    near, far = Runner(both, kernel=variant).arrays([np.ones((1, 1, 4, 4), np.float32)])
    want = np.zeros((3, 3))
    want[1, 1] = near.ravel()[0]
    assert near.all() and np.array_equal(far.reshape(3, 3), want)


@pytest.mark.parametrize("real", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_from_any_place(variant, real):
    """A layer whose rows are the images themselves: every other one, and in reverse."""
    torch.manual_seed(0)
    runner = Runner(deploy.convert(nn.Linear(70, 10), (70,), real=real).graph, kernel=variant)
    x = np.random.default_rng(0).standard_normal((8, 70)).astype(np.float32)
    for some in (x[::2], x[::-1], x[:, ::-1], np.broadcast_to(x[:1], x.shape)):
        np.testing.assert_allclose(runner(some), runner(some.copy()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_border_whose_lines_overflow(variant):
    """2^32 lines of 2^32 values are 0 in 64 bits, and were copied; real-valued and binary."""
    far = 2**31 - 1
    geometry = {"kernel": [2, 2], "stride": [far, far], "padding": [far, far], "dilation": [1, 1], "groups": 1}
    real = Op("real_conv", ["x"], {**geometry, "weights": "float32"}, {"weight": "w"}, [{"op": "store", "slot": "y"}])
    sign = Op("map", ["x"], {"repeat": 1}, {}, [{"op": "sign", "low": "low", "high": "high", "slot": "b"}])
    binary = Op("binary_conv", ["b"], geometry, {"weight": "bits"}, [{"op": "store", "slot": "z"}])
    slots = {"x": Slot("float32", (2, 2, 1)), "y": Slot("float32", (3, 3, 1)), "b": Slot("bits", (2, 2, 1)), "z": Slot("float32", (3, 3, 1))}
    constants = {
        "w": np.array([1, 2, 4, 8], np.float32).reshape(1, 2, 2, 1), "bits": np.array([[0b0111]], np.uint8),
        "low": np.zeros(1, np.float32), "high": np.full(1, np.inf, np.float32),
    }  # fmt: skip
    graph = Graph(["x"], ["y", "z"], slots, [real, sign, binary], constants)
    y, z = Runner(graph, kernel=variant).arrays([np.array([[[[1, -2], [-3, 5]]]], np.float32)])
    want, signs = np.zeros((3, 3)), np.zeros((3, 3))
    want[1, 1], signs[1, 1] = 1 - 4 - 12 + 40, 1 - 1 - 1 - 1
    assert np.array_equal(y.reshape(3, 3), want) and np.array_equal(z.reshape(3, 3), signs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_residual_from_outside_of_one_column(variant):
    """What lies between columns means nothing where there is one."""
    slots = {"x": Slot("bits", (5, 1, 64)), "r": Slot("float32", (5, 1, 3)), "y": Slot("float32", (5, 1, 3))}
    geometry = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    stages = [{"op": "residual", "slot": "r"}, {"op": "store", "slot": "y"}]
    rng = np.random.default_rng(0)
    op = Op("binary_conv", ["x"], geometry, {"weight": "w"}, stages)
    runner = Runner(Graph(["x", "r"], ["y"], slots, [op], {"w": rng.integers(0, 256, (3, 8), np.uint8)}), kernel=variant)
    bits, wide_ = rng.integers(-(2**63), 2**63 - 1, (2, 5, 1, 1)), rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    found = runner.arrays([bits, wide_[:, :, 1:2].transpose(0, 3, 1, 2)])[0]
    dense = np.lib.stride_tricks.as_strided(np.ascontiguousarray(wide_[:, :, 1]), (2, 3, 5, 1), (60, 4, 12, 4000))
    assert np.array_equal(found, runner.arrays([bits, dense])[0])


def test_int8_references_agree():
    """Of activations: the interpreter's NumPy and the PyTorch that a device runs."""
    x = images(9, shape=(4, 6, 5))
    x[0], x[1, 2, 3, 4], x[2, 0, 0, 0] = 0, torch.nan, torch.inf
    x[3], x[4] = x[3].abs(), -x[4].abs()
    x[5, 0, 0, 0] = 1e30
    integers, scale = quantize_activations(x)
    ours, by = interpreter.quantized(x.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(ours, integers.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(by.reshape(-1), scale.reshape(-1).numpy())
    known = torch.arange(-128, 128, dtype=torch.float32)[None] / 4  # on the grid: exact
    integers, scale = quantize_activations(known)
    assert torch.equal(integers * scale, known)


def test_any_strides(small):
    _, net = small
    x = images(4)
    want = net(x)
    wide = torch.randn(4, 3, 22, 50)
    wide[..., ::2] = x
    for same in (
        x.contiguous(memory_format=torch.channels_last),
        wide[..., ::2],
        x.flip(0).flip(0),
        torch.stack([x, x], dim=1)[:, 1],
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        torch.testing.assert_close(net(same), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(x[:1].expand(3, -1, -1, -1)), want[:1].expand(3, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 22, 22), r"images \[N, 3, 22, 25\], got \[2, 3, 22, 22\]"),
        (torch.zeros(22, 25), r"got \[22, 25\]"),
        (torch.zeros(2, 3, 22, 25, dtype=torch.uint8), "float32 images, got uint8: scale them"),
        (np.zeros((2, 3, 22, 25), np.int64), "float32 images, got int64: scale them"),
        (torch.full((2, 3, 22, 25), torch.nan), "image 0 holds a NaN"),
        (torch.zeros(2, 3, 22, 25, device="meta"), "on the CPU, got one on meta"),
    ],
)
def test_bad_input_is_named(small, x, message):
    with pytest.raises(ValueError, match=message):
        small[1](x)


def test_one_image_an_array_and_float64_serve_as_well(small):
    x = images(3)
    want = small[1](x)
    for same in (x.numpy(), x.double(), x.double().numpy(), x.numpy().astype(">f4")):
        torch.testing.assert_close(small[1](same), want, rtol=0, atol=0)
    torch.testing.assert_close(small[1](x[1]), want[1], rtol=1e-5, atol=1e-6)


def test_bad_arrays_and_threads_are_named(small):
    runner = Runner(small[1].graph)
    with pytest.raises(ValueError, match="float32 images, got uint8"):
        runner(np.zeros((1, 3, 22, 25), np.uint8))
    with pytest.raises(ValueError, match="takes 1 inputs, got 2"):
        runner.arrays([np.zeros((1, 3, 22, 25), np.float32)] * 2)
    for threads in (0, "2", 1.5, True):
        with pytest.raises(ValueError, match=re.escape(f"threads is {threads!r}: it must be a whole number >= 1")):
            Runner(small[1].graph, threads=threads)
    with pytest.raises(ValueError, match="threads is '2'"):
        run.load("no file", threads="2")  # before anything is read
    with pytest.raises(ValueError, match="kernel is 'sse9', which is unknown or cannot run here: choose one of .*scalar"):
        Runner(small[1].graph, kernel="sse9")
    with pytest.raises(ValueError, match="kernel is 'sse9'"):
        PackedNetwork(small[1].graph, kernel="sse9")
    assert small[1].train() is small[1] and not small[1].training


@pytest.fixture(scope="module")
def changed_tables(small, tmp_path_factory):
    """(the number of tables that were refused, files with those that were accepted): the small net's, with one number of each changed by
    a little or a lot."""
    made, folder = program.assemble(small[1].graph), tmp_path_factory.mktemp("changed")
    generator = np.random.default_rng(0)
    module, x, refused, accepted = kernels(), images(3).numpy(), 0, []
    for number in range(400):
        tables = made.tables(module)
        table = tables[generator.choice(list(tables))]
        at = generator.choice(table.dtype.names), generator.integers(len(table))
        table[at[0]][at[1]] = generator.choice([-1, 0, 1, 2, 7, 63, 2**20, 2**31, 2**40, -(2**40), 2**62])
        try:
            made.executor(module, VARIANTS[-1], tables=tables)
        except (ValueError, MemoryError):
            refused += 1
        else:
            accepted.append(folder / str(number))
            dump(made, [x], accepted[-1], tables)
    return refused, accepted


def test_tables_that_do_not_fit_are_refused(small, changed_tables):
    """The loader trusts no table: what it accepts is run by test_changed_tables_under_sanitizers."""
    made, module, (refused, accepted) = program.assemble(small[1].graph), kernels(), changed_tables
    assert refused > 200 and len(accepted) > 100
    for change in ({"constants": made.constants[:-1]}, {"micro_bytes": 0}, {"outside": ["input"]}):
        broken = program.assemble(small[1].graph)
        for name, value in change.items():
            setattr(broken, name, value)
        with pytest.raises(ValueError):
            broken.executor(module, VARIANTS[-1])


def padded_bits(channels: int) -> Graph:
    """An input's signs, and these in a border."""
    slots = {"x": Slot("float32", (1, 1, channels)), "b": Slot("bits", (1, 1, channels)), "p": Slot("bits", (3, 3, channels))}
    constants = {"low": np.zeros(channels, np.float32), "high": np.full(channels, np.inf, np.float32)}
    sign = Op("map", ["x"], {"repeat": 1}, {}, [{"op": "sign", "low": "low", "high": "high", "slot": "b"}])
    pad = Op("bit_pad", ["b"], {"padding": [1, 1], "value": 1}, {}, [{"op": "bits", "flip": None, "slot": "p"}])
    return Graph(["x"], ["p"], slots, [sign, pad], constants)


def test_only_binary_convolutions_pool_their_bits():
    """A border of 3 x 3 pixels was pooled to a slot of one, by the tables, and written whole."""
    made, module = program.assemble(padded_bits(4096)), kernels()
    tables = made.tables(module)
    tables["ops"]["pool"][1] = 2
    with pytest.raises(ValueError, match="only binary convolutions pool their bits"):
        made.executor(module, VARIANTS[0], tables=tables)
    tables["slots"][["h", "w"]][made.numbers["p"]] = (1, 1)
    with pytest.raises(ValueError, match="only binary convolutions pool their bits"):
        made.executor(module, VARIANTS[0], tables=tables)


@pytest.mark.parametrize(
    ("table", "field", "kind", "message"),
    [
        ("ops", "pool", "real_conv", "only binary convolutions pool their bits"),
        ("ops", "flip", "real_conv", "a constant is missing"),
        ("ops", "phase", "bit_pool", "an operation of the second phase uses a slot of the first area|the phases are out of order"),
        *(("stages", field, kind, "no parameters that differ from pixel to pixel")
          for field in ("spatial_first", "spatial_second") for kind in ("clamp", "store", "residual", "relu")),
    ],
)  # fmt: skip
def test_what_no_kind_of_operation_or_stage_has_is_refused(small, table, field, kind, message):
    """Fields that were checked for one kind, and used, or left unchecked, for others."""
    made, module = program.assemble(small[1].graph), kernels()
    tables = made.tables(module)
    kinds = module.Operation if table == "ops" else module.StageKind
    (found, *_) = np.flatnonzero(tables[table]["kind"] == int(kinds.__members__[kind]))
    tables[table][field][found] = -2 if field == "flip" else 2 if field == "pool" else 1
    with pytest.raises(ValueError, match=message):
        made.executor(module, VARIANTS[-1], tables=tables)


def test_the_second_phase_has_no_room_in_the_first_area():
    """There a slot has room for few images, and the second phase runs on many at once."""
    torch.manual_seed(0)
    made, module = program.assemble(deploy.convert(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 3)), (2, 9, 9)).graph), kernels()
    tables = made.tables(module)
    tables["ops"]["phase"][1] = 1
    with pytest.raises(ValueError, match="an operation of the second phase uses a slot of the first area"):
        made.executor(module, VARIANTS[0], tables=tables)


def test_weights_to_be_rearranged_have_one_user():
    graph = wide()
    first, second = [op for op in graph.ops if op.kind == "real_conv"][1:3]
    second.constants["weight"] = first.constants["weight"]
    made = program.assemble(graph)
    made._takeable = lambda: {i for i, array in enumerate(made.constants) if array is graph.tensors[first.constants["weight"]]}
    with pytest.raises(ValueError, match="weights that may be rearranged have two users"):
        made.executor(kernels(), VARIANTS[0], take=True)


def test_python_and_the_kernels_meet_by_name(small):
    """Whatever their order: every operation, stage, kind of weights and reduction of the format has its name in both."""
    module, made = kernels(), program.assemble(small[1].graph)
    names = lambda kind: set(kind.__members__)  # noqa: E731
    assert names(module.Operation) == {*operations.OPERATIONS} - {"torch"}
    assert names(module.StageKind) == {*operations.STAGES, "affine_fused"} - {"threshold", "bits"}
    assert names(module.Stored) == {*operations.WEIGHTS} and names(module.Reduction) == {*operations.REDUCTIONS}
    assert names(module.SlotKind) == {*operations.KINDS}
    tables = made.tables(module)
    assert [module.Operation(int(kind)).name for kind in tables["ops"]["kind"]] == [op["kind"] for op in made.ops]
    shuffled = {name: table[list(reversed(table.dtype.names))] for name, table in tables.items()}
    with pytest.raises(ValueError, match="slots has the wrong fields"):
        made.executor(module, VARIANTS[-1], tables=shuffled)
    del made.ops[0]["phase"]
    with pytest.raises(KeyError, match="the kernels' fields and ours differ: .'phase'."):
        made.tables(module)


def test_every_binding_says_what_it_takes():
    module = kernels()
    found = {f"{getattr(owner, '__name__', '')}.{name}": getattr(owner, name).__doc__
             for owner in (module, module.Convolution, module.Executor) for name in vars(owner)
             if inspect.isroutine(getattr(owner, name)) and (name[0] != "_" or name == "__call__")}  # fmt: skip
    assert "Convolution.__call__" in found and "Executor.run" in found
    for name, text in found.items():
        assert text and "arg0" not in text and len(text.split("\n\n")[-1]) > 10, name


def test_several_threads_at_once(small):
    _, net = small
    batches = [images(5, seed=s) for s in range(6)]
    want = [net(x) for x in batches]
    got: dict[int, torch.Tensor] = {}

    def call(i: int) -> None:
        for _ in range(10):
            got[i] = net(batches[i])

    workers = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all(torch.equal(got[i], want[i]) for i in range(6))


def test_memory_is_bounded(small):
    """What a call needs does not grow with the batch beyond one chunk."""
    _, net = small
    held, one = net.memory_bytes(1, 1)
    stored = sum(t.nbytes for t in net.graph.tensors.values())
    assert stored < held < stored + 200_000  # weights as the kernels want them, in rows that are filled up
    assert net.memory_bytes(100_000, 1)[1] == net.memory_bytes(128, 1)[1]
    largest = max(slot.bytes for slot in net.graph.slots.values())
    assert one < 40 * largest


def test_slots_share_memory():
    """A chain of equal maps takes two of them, not all."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(6)]
    graph = deploy.convert(nn.Sequential(*blocks), (8, 16, 16)).graph
    made = program.assemble(graph)
    assert made.micro_bytes == 2 * 8 * 16 * 16 * 4
    assert made.chunk_bytes == 0


def test_without_pytorch_in_the_process(small, tmp_path):
    """NumPy and the compiled kernels are enough."""
    _, net = small
    x = images(3)
    np.savez(tmp_path / "tensors.npz", **{f"t{i}": t for i, t in enumerate(net.graph.tensors.values())})
    np.save(tmp_path / "x.npy", x.numpy())
    import json

    (tmp_path / "graph.json").write_text(json.dumps({"graph": net.graph.to_json(), "names": list(net.graph.tensors)}))
    code = """
import json, sys
import numpy as np
from bnnlib.deploy.graph import Graph
from bnnlib.deploy.run import Runner
about = json.load(open("graph.json"))
held = np.load("tensors.npz")
graph = Graph.from_json(about["graph"], {name: held[f"t{i}"] for i, name in enumerate(about["names"])})
np.save("y.npy", Runner(graph)(np.load("x.npy")))
assert not any(m.split(".")[0] == "torch" for m in sys.modules), "torch was imported"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "y.npy"), net(x).numpy())


def wide(real: str = "float32") -> Graph:
    """Linear layers large enough to be taken over; the second has as many weights as the third, and is another."""
    torch.manual_seed(3)
    body = [nn.Linear(70, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return deploy.convert(nn.Sequential(nn.Flatten(), *body), (70, 1, 1), real=real).graph


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("real", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_weights_that_are_taken_over_give_the_same(variant, real, size, tmp_path):
    x = images(9, shape=(70, 1, 1)).numpy()
    graph = wide(real)
    before = {name: t.copy() for name, t in graph.tensors.items()}
    copied = Runner(graph, kernel=variant)
    want = copied(x)
    assert all(np.array_equal(before[name], t) for name, t in graph.tensors.items())
    path = deploy.save(graph, tmp_path / "wide")
    loaded = run.load(path, kernel=variant)
    assert np.array_equal(loaded(x), want)
    assert np.array_equal(loaded(x), want)  # and again, from the same weights
    panels = size * (70 + 256 + 256) * 256
    assert copied.memory_bytes(1)[0] >= panels and loaded.memory_bytes(1)[0] < 1.2 * copied.memory_bytes(1)[0]
    taken = deploy.read_graph(path)[0]
    Runner(taken, kernel=variant, take=True)
    changed = {name for name, t in taken.tensors.items() if not np.array_equal(before[name], t)}
    assert changed - {"1.weight"} == {"3.weight", "5.weight"}
    assert "1.weight" in changed or real == "int8"  # products of bytes may want 70 filled up to a multiple of 4 or 64


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_in_no_whole_panels_are_not_rearranged_where_they_lie(variant, tmp_path):
    torch.manual_seed(3)
    graph = deploy.convert(nn.Sequential(nn.Linear(64, 130), nn.ReLU(), nn.Linear(130, 64)), (64,)).graph
    x = images(5, shape=(64,)).numpy()
    assert np.array_equal(run.load(deploy.save(graph, tmp_path / "net"), kernel=variant)(x), Runner(graph, kernel=variant)(x))


@pytest.mark.parametrize("how", ["twice", "read-only", "odd place"])
def test_weights_that_somebody_else_may_read_are_copied(how):
    x = images(5, shape=(70, 1, 1)).numpy()
    graph = wide()
    large = [op.constants["weight"] for op in graph.ops if op.kind == "real_conv"][1:3]
    if how == "twice":
        for op in graph.ops:
            if op.constants.get("weight") == large[1]:
                op.constants["weight"] = large[0]
        del graph.tensors[large[1]]
    for name in graph.tensors:
        if how == "read-only":
            graph.tensors[name] = graph.tensors[name].copy()
            graph.tensors[name].flags.writeable = False
        elif how == "odd place":
            room = np.empty(graph.tensors[name].nbytes + 68, np.uint8)
            start = -room.ctypes.data % 64 + 4
            there = room[start : start + graph.tensors[name].nbytes].view(graph.tensors[name].dtype)
            graph.tensors[name] = there.reshape(graph.tensors[name].shape)
            there[:] = wide().tensors[name].ravel()
    want = Runner(graph)(x)
    before = {name: t.copy() for name, t in graph.tensors.items()}
    assert np.array_equal(Runner(graph, take=True)(x), want)
    shared = large[:1] if how == "twice" else list(graph.tensors)
    assert all(np.array_equal(before[name], graph.tensors[name]) for name in shared)


def test_a_hand_made_graph():
    """Four numbers by hand: sign, a binary linear layer, its threshold."""
    graph = Graph(
        ["x"],
        ["y"],
        {"x": Slot("float32", (1, 1, 3)), "b": Slot("bits", (1, 1, 3)), "y": Slot("float32", (1, 1, 2))},
        [
            Op("map", ["x"], {"repeat": 1}, stages=[{"op": "sign", "low": "zero", "high": "inf", "slot": "b"}]),
            Op(
                "binary_conv",
                ["b"],
                {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1},
                {"weight": "w"},
                [{"op": "scale", "by": "half"}, {"op": "store", "slot": "y"}],
            ),
        ],
        {
            "zero": np.zeros(3, np.float32),
            "inf": np.full(3, np.inf, np.float32),
            "w": np.array([[0b111], [0b001]], np.uint8),
            "half": np.array([0.5, 2], np.float32),
        },
    )
    x = np.array([[1, -2, 0.0], [-1, -1, -0.5]], np.float32)
    assert Runner(graph)(x).tolist() == [[0.5, 2 * 1], [-1.5, 2 * 1]]


def dump(made: program.Program, xs: list[np.ndarray], path: Path, tables: dict[str, np.ndarray] | None = None) -> None:
    """The network, by these tables or its own, and its inputs ``[N, C, H, W]`` in the form that tests/kernels/run_net.cpp reads."""
    counts = [len(made.slots), len(made.ops), len(made.stages), len(made.constants), made.micro_bytes, made.chunk_bytes]
    with path.open("wb") as file:
        file.write(struct.pack("<8q", *counts, len(made.outside), len(xs[0])))
        for table in (tables or made.tables(kernels())).values():
            file.write(table.tobytes())
        for constant in made.constants:
            file.write(struct.pack("<q", constant.nbytes) + constant.tobytes())
        for i, name in enumerate(made.outside):
            content = xs[i].tobytes() if i < len(xs) else b""
            file.write(struct.pack("<3q", made.numbers[name], i < len(xs), len(content)) + content)


@pytest.fixture(scope="module")
def cases(small, tmp_path_factory):
    """(file, variants' results) of a few networks."""
    folder = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    nin = deploy.convert(models.build("nin").eval(), (3, 32, 32)).graph
    int8 = deploy.convert(models.build("lenet5").eval(), (1, 28, 28), real="int8").graph
    made = []
    for name, graph, x in (
        ("small", small[1].graph, images(3)),
        ("nin", nin, images(1, shape=(3, 32, 32))),
        ("int8", int8, images(5, shape=(1, 28, 28))),
        *((f"wide {real}", wide(real), images(5, shape=(70, 1, 1))) for real in ("float32", "bfloat16", "int8")),
    ):
        dump(program.assemble(graph), [x.numpy()], folder / name)
        made.append((folder / name, graph, x.numpy()))
    return made


def check(command: list[str], cases, variants: list[str], folder: Path) -> int:
    run = 0
    for path, graph, x in cases:
        for variant in variants:
            out = folder / "out"
            done = subprocess.run([*command, variant, str(out), str(path)], capture_output=True, text=True)
            if "not on this CPU" in done.stdout:
                continue
            assert done.returncode == 0 and not done.stdout + done.stderr, (done.stdout + done.stderr)[-3000:]
            got = np.fromfile(out, np.float32).reshape(len(x), -1)
            np.testing.assert_allclose(got, Runner(graph, kernel="reference")(x), rtol=1e-3, atol=1e-3)
            run += 1
    return run


def compiled(folder: Path, command: list[str]) -> Path:
    program_ = folder / "run_net"
    source = ROOT / "tests" / "kernels" / "run_net.cpp"
    done = subprocess.run([*command, "-std=c++17", f"-I{ROOT / 'kernels'}", str(source), "-o", str(program_)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return program_


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """run_net with the address and undefined-behaviour sanitizers."""
    need(shutil.which("g++") is not None, "g++")
    folder = tmp_path_factory.mktemp("sanitized")
    flags = ["-O1", "-g", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    probe = folder / "probe.cpp"
    probe.write_text("int main() {}")
    linked = subprocess.run(["g++", *flags, str(probe), "-o", str(folder / "probe")], capture_output=True)
    need(linked.returncode == 0, "libasan and libubsan")
    return str(compiled(folder, ["g++", *flags]))


def test_under_sanitizers(cases, sanitized, tmp_path):
    assert check([sanitized], cases, VARIANTS, tmp_path) == len(cases) * len(VARIANTS)


def test_changed_tables_under_sanitizers(changed_tables, sanitized, tmp_path):
    """What the loader accepts touches no memory that is not its own."""
    limits = {"ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=512:detect_leaks=0"}
    names = list(map(str, changed_tables[1]))
    for variant in (VARIANTS[0], VARIANTS[-1]):
        command = [sanitized, variant, str(tmp_path / "out"), *names]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **limits})
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert done.stdout.count("refused") < len(names) / 5, done.stdout


def test_avx512_by_emulation(cases, tmp_path):
    need(shutil.which("g++") is not None, "g++")
    need(Path("/usr/include/simde/x86/avx512.h").exists(), "SIMDe (Debian: libsimde-dev)")
    flags = ["-O1", "-DBNN_EMULATE", "-Wno-psabi", "-ffp-contract=off"]
    variants = ["amx", "avx512vpopcnt", "avx512bw", "avx2"]
    assert check([str(compiled(tmp_path, ["g++", *flags]))], cases, variants, tmp_path) == len(cases) * len(variants)


def test_on_another_cpu(cases, tmp_path):
    """The same source for 64-bit ARM, in an emulator."""
    qemu, compiler = for_arm()
    made = compiled(tmp_path, [*compiler, "-O2", "-static", "-ffp-contract=off"])
    assert check([qemu, str(made)], cases, ["neon"], tmp_path) == len(cases)


def test_an_empty_batch_gives_an_empty_result(small):
    assert Runner(small[1].graph)(np.zeros((0, 3, 22, 25), np.float32)).shape == (0, 7)
    shape = small[1].graph.slots[small[1].graph.outputs[0]].shape
    assert Runner(small[1].graph).arrays([np.zeros((0, 3, 22, 25), np.float32)])[0].shape == (0, *shape)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "deepcopy", "pickle"])
def test_networks_can_be_copied_and_pickled(small, copied, tmp_path):
    x = images(2)
    assert torch.equal(copied(small[1])(x), small[1](x))
    runner = Runner(small[1].graph, threads=2)
    assert np.array_equal(copied(runner)(x.numpy()), runner(x.numpy()))
    loaded = run.load(deploy.save(small[1].graph, tmp_path / "net"))
    assert np.array_equal(copied(loaded)(x.numpy()), loaded(x.numpy()))


def test_a_network_with_parts_in_pytorch_can_be_pickled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), layers.BinaryConv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    net, x = deploy.convert(model, (3, 10, 10), keep=["1"]), images(2, shape=(3, 10, 10))
    assert net.calls
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


def test_a_pickled_runner_wants_its_file_as_it_was(small, tmp_path):
    path = deploy.save(small[1].graph, tmp_path / "net")
    pickled = pickle.dumps(run.load(path))
    deploy.save(small[1].graph, path, about={"recipe": "another"})
    with pytest.raises(deploy.DeployError, match="net has changed since"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(deploy.DeployError, match="no packed model .*net"):
        pickle.loads(pickled)
    path = deploy.save(small[1].graph, path)
    with pytest.raises(TypeError, match="without take"):
        pickle.dumps(Runner(deploy.read_graph(path)[0], take=True))


def test_areas_that_overflow_are_refused(small):
    for name in ("micro_bytes", "chunk_bytes"):
        for size in (2**41, 2**61, 2**62, 2**63 - 1):
            broken = program.assemble(small[1].graph)
            setattr(broken, name, size)
            with pytest.raises(ValueError, match="an area has an impossible size"):
                broken.executor(kernels(), VARIANTS[-1])


# ---- the convolution that reads the images ---------------------------------------------------------------------

FIRST = [  # channels, outputs, kernel, stride, padding, dilation, height, width, pool
    (1, 20, 5, 1, 0, 1, 28, 28, 2), (3, 33, 3, 1, 1, 1, 9, 7, 1), (3, 64, 7, 2, 3, 1, 31, 17, 1), (3, 16, (3, 5), (2, 1), (0, 3), (1, 2), 13, 11, 1),
    (2, 5, (1, 4), 3, (0, 2), 2, 8, 21, 1), (17, 40, 3, 1, 2, 2, 6, 5, 2), (4, 96, (2, 1), 1, (1, 0), (3, 1), 7, 3, 3), (300, 9, 3, 1, 1, 1, 40, 40, 1),
    (3, 200, 5, 1, 4, 1, 3, 2, 1),
]  # fmt: skip


@pytest.mark.parametrize("real", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", FIRST, ids=str)
def test_the_first_convolution(case, real):
    """Any geometry, images as planes, as pixels or as a part of a larger tensor, any batch, against float64."""
    c, o, kernel, stride, padding, dilation, h, w, pool = case
    torch.manual_seed(3)
    layer = nn.Conv2d(c, o, kernel, stride, padding, dilation)
    rest = nn.Sequential(nn.MaxPool2d(pool), nn.BatchNorm2d(o), nn.PReLU(o, 0.3), nn.Hardtanh(-2, 1.5), nn.ReLU6())
    model = nn.Sequential(layer, rest).eval()
    with torch.no_grad():
        rest[1].running_mean.normal_(), rest[1].running_var.uniform_(0.5, 2)
    net = deploy.convert(model, (c, h, w), real={"0": real})
    exact = copy.deepcopy(model).double()
    if real != "float32":
        exact[0].weight.data = layer.weight.detach().bfloat16().double()
    for batch in (1, 2, 5):
        whole = torch.randn(batch, c, h + 2, w + 3)
        for x in (whole[:, :, :h, :w].contiguous(), whole[:, :, 1 : h + 1, 2 : w + 2], whole[:, :, :h, :w].contiguous(memory_format=torch.channels_last)):
            with torch.no_grad():  # where the CPU multiplies bf16, activations are rounded to it
                wanted = [exact(x.double()), *([exact(x.bfloat16().double())] if real != "float32" else [])]
            assert any(torch.allclose(net(x).double(), y, rtol=1e-4, atol=2e-4) for y in wanted)
