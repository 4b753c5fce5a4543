"""Graphs in packed files: those that cannot be, and those that would take much, are refused in one line; strange ones run."""

import copy
import json
import random

import numpy as np
import packed_files
import pytest
import torch
from packed_files import changed, conv, refuses, sealed, taken_apart, tiny_graph, with_graph

from bnnlib import deploy
from bnnlib.deploy import DeployError
from bnnlib.deploy.graph import Graph, Op, Slot

good = packed_files.good


def test_parts_in_pytorch_are_not_saved(tmp_path):
    graph = tiny_graph()
    graph.ops[2] = Op("torch", ["two"], {"module": "my.layer"}, {}, [{"op": "store", "slot": "three"}])
    with pytest.raises(DeployError, match="run in PyTorch and cannot be in a file: my.layer"):
        deploy.save(graph, tmp_path / "x")


def test_a_graph_with_parts_in_pytorch_needs_these_to_run():
    from bnnlib.deploy import run

    graph = tiny_graph()
    graph.ops[4] = Op("torch", ["four"], {"module": "my.layer"}, {}, [{"op": "store", "slot": "logits"}])
    with pytest.raises(ValueError, match="leaves my.layer to PyTorch, and no such modules were given"):
        deploy.PackedNetwork(graph)
    with pytest.raises(ValueError, match="my.layer run in PyTorch: use bnnlib.deploy.PackedNetwork"):
        run.Runner(graph)
    with pytest.raises(ValueError, match="no slot 'nowhere': there are images, one"):
        deploy.PackedNetwork(tiny_graph()).values(torch.zeros(1, 2, 6, 6), ["nowhere"])


def operation(position, **fields):
    return lambda header, document: document["graph"]["ops"][position].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_graph(lambda g: g.update(version=3)), "version 3"),
        (with_graph(lambda g: g.update(code="import os")), "has fields"),
        (with_graph(lambda g: g.pop("slots")), "has fields"),
        (with_graph(lambda g: g.update(slots=[])), "not a graph"),
        (with_graph(lambda g: g.update(ops=7)), "not a graph"),
        (with_graph(lambda g: g.update(inputs=[])), "not written before"),
        (with_graph(lambda g: g.update(outputs=["nowhere"])), "never written"),
        (with_graph(lambda g: g.update(outputs=2 * g["outputs"])), "is named twice"),
        (with_graph(lambda g: g.update(inputs=2 * g["inputs"])), "is named twice"),
        (with_graph(lambda g: g["ops"].reverse()), "not written before"),
        (with_graph(lambda g: g["ops"].append(g["ops"][1])), "written already"),
        (with_graph(lambda g: g["ops"][0].update(inputs=["logits"])), "not written before"),  # a cycle
        (with_graph(lambda g: g["slots"].update(images=["float32", 2**20, 2**20, 2])), "too large"),
        (with_graph(lambda g: g["slots"].update(images=["float32", 6, 6, 3])), None),
        (with_graph(lambda g: g["slots"].update(two=["bits", 3, 3, 2**20])), "writes slot two"),
        (with_graph(lambda g: g["slots"].update(huge=["float32", 2**14, 2**14, 7])), "activations take"),
        (with_graph(lambda g: g["slots"].update(images=["bfloat16", 6, 6, 2])), "unknown kind"),
        (with_graph(lambda g: g["slots"].update(images=["float32", True, 6, 2])), "three sizes"),
        (operation(0, kind="eval"), "unknown operation"),
        (operation(0, kind=["real_conv"]), "operation 0"),
        (operation(0, extra=1), "has fields"),
        (operation(0, inputs=[["images"]]), "not written before"),
        (operation(0, constants={"weight": "b.weight"}), None),
        (operation(0, constants={"weight": {}}), "operation 0"),
        (operation(0, attributes=conv(3, 1, weights="int4")), "weights is 'int4'"),
        (operation(0, attributes=conv(2**30, 2**30, weights="float32")), "operation 0"),
        (operation(0, attributes=conv(3, -1, weights="float32")), "padding is"),
        (operation(1, attributes={**conv(3, 1), "groups": 0}), "groups"),
        (operation(1, attributes={**conv(3, 1), "stride": [0, 1]}), "stride is"),
        (operation(1, stages=[]), "has no stages"),
        (operation(1, stages=[{"op": "store", "slot": "two"}]), "slot two"),
        (operation(2, kind="torch", attributes={"module": "os.system"}, constants={}), None),
        (
            operation(
                4,
                kind="torch",
                attributes={"module": "x"},
                constants={},
                stages=[{"op": "relu"}, {"op": "store", "slot": "logits"}],
            ),
            "stages other than store",
        ),
        (operation(4, stages=[{"op": "residual", "slot": "logits"}, {"op": "store", "slot": "logits"}]), "adds slot 'logits', which is not written before"),
        (operation(4, stages=[{"op": "times", "slot": "logits"}, {"op": "store", "slot": "logits"}]), "reads slot 'logits', which is not written before"),
        (operation(4, stages=[{"op": "residual", "slot": "one"}, {"op": "store", "slot": "logits"}]), "adds slot one of kind bits"),
        (operation(4, stages=[{"op": "times", "slot": "images"}, {"op": "store", "slot": "logits"}]), r"takes slot images of kind float32 and shape \(6, 6"),
        (operation(4, stages=[{"op": "times", "slot": "one"}, {"op": "store", "slot": "logits"}]), "takes slot one of kind bits"),
        (operation(4, kind="join", attributes={"axis": 3}, constants={}), "axis is 3, not 0, 1 or 2"),
        (operation(4, kind="join", attributes={"axis": True}, constants={}), "axis is True"),
        (operation(4, kind="reduce", attributes={"function": "sum", "axes": [0, 3]}, constants={}), r"axes is \[0, 3\]"),
        (operation(4, kind="reduce", attributes={"function": "sum", "axes": [1, 1]}, constants={}), r"axes is \[1, 1\]"),
        (operation(4, kind="reduce", attributes={"function": "sum", "axes": 1}, constants={}), "axes is 1"),
        (operation(4, kind="reduce", attributes={"function": "eval", "axes": [1]}, constants={}), "function is 'eval'"),
        (operation(2, stages=[{"op": "sale", "by": "c.by"}]), "unknown stage 'sale'"),
        (lambda header, document: document.update(graph=None), "not a graph"),
        (lambda header, document: document.update(model={"name": "mlp", "options": {}}), "both a trained model"),
        (lambda header, document: document.pop("graph"), "not a packed network"),
    ],
)
def test_a_graph_that_cannot_be(good, change, message):
    refuses(changed(good, change), message)


def test_constants_that_do_not_fit(good):
    def drop(header, document):  # of the last tensor, so that there are no holes
        document["graph"]["ops"][2]["stages"][0]["by"] = "a.bias"

    refuses(changed(good, drop), r"the constant a.bias is float32 \[5\]")
    graph = tiny_graph()
    graph.tensors["extra"] = np.zeros(3, np.float32)
    path = deploy.save(graph, good.with_name("extra.safetensors"))
    refuses(path, "does not use: extra")
    graph = tiny_graph()
    graph.tensors["b.weight"][3, -1] |= 0x80
    refuses(deploy.save(graph, good.with_name("beyond.safetensors")), "weights of b have bits beyond")


def test_random_changes_of_the_json_load_or_are_named(good):
    """Values swapped, deleted, blown up, at random places of header and document: a graph that validates, or a line."""
    rng, strange = random.Random(0), [None, -1, 0, 2**31, 2**64, 1.5, "", "x", [], {}, True, [[]], {"op": 1}]

    def places(node, trail=()):
        if isinstance(node, dict | list):
            for key in node if isinstance(node, dict) else range(len(node)):
                yield (*trail, key)
                yield from places(node[key], (*trail, key))

    header, document, data = taken_apart(good)
    refused = 0
    for _ in range(400):
        whole = copy.deepcopy({"header": header, "document": document})
        for _ in range(rng.choice((1, 1, 2))):
            *way, key = rng.choice([p for p in places(whole) if len(p) > 1 and p[:2] != ("header", "__metadata__")])
            node = whole
            for step in way:
                node = node[step]
            if isinstance(node, dict) and rng.random() < 0.2:
                del node[key]
            else:
                node[key] = copy.deepcopy(rng.choice(strange))
        whole["header"]["__metadata__"] = {"bnnlib": json.dumps(whole["document"]), "sha256": "0" * 64}
        bad = good.with_name("bad.safetensors")
        bad.write_bytes(sealed(whole["header"], data))
        try:
            graph, _ = deploy.read_graph(bad)
            graph.validate()
        except DeployError as error:
            assert str(bad) in str(error)
            refused += 1
    assert refused > 300


def vectors(operations, tensors, width=64):
    """A graph of ``operations(k, source, target)`` one after another on vectors of one width."""
    ops, slots = [], {"s0": Slot("float32", (1, 1, width))}
    for k, operation in enumerate(operations):
        slots[f"s{k + 1}"] = Slot("float32", (1, 1, width))
        ops.append(operation(f"s{k}", {"op": "store", "slot": f"s{k + 1}"}))
    return Graph(["s0"], [f"s{len(ops)}"], slots, ops, tensors)


def named_often(count=400, width=512):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((width, 1, 1, width), np.float32) / width, "b": np.ones(width, np.float32)}
    stages = [{"op": "bias", "by": "b"}] * 3
    return vectors(
        [lambda s, store: Op("real_conv", [s], conv(weights="float32"), {"weight": "w"}, [*stages, store], "")] * count, tensors, width
    )


def test_a_constant_that_many_name_is_held_once(tmp_path):
    """400 layers of one weight: 420 MB, were each to hold its own."""
    from bnnlib.deploy import run

    path = deploy.save(named_often(), tmp_path / "often")
    runner = run.load(path)
    assert runner.memory_bytes(1)[0] < 10e6
    few = named_often(3)
    x = np.random.default_rng(1).standard_normal((2, 512, 1, 1), np.float32)
    y = x[:, :, 0, 0].astype(np.float64)
    for _ in range(3):
        y = y @ few.tensors["w"][:, 0, 0].T.astype(np.float64) + 3
    assert np.allclose(run.Runner(few)(x), y, atol=1e-4)
    assert np.array_equal(run.Runner(few, take=True)(x), run.Runner(named_often(3))(x))


def test_one_weight_in_two_geometries(tmp_path):
    """Shared where it is used alike, prepared again where it is not."""
    from bnnlib.deploy import run

    rng = np.random.default_rng(0)
    tensors = {"w": np.packbits(rng.random((64, 64)) < 0.5, axis=1, bitorder="little")}
    slots = {"x": Slot("float32", (8, 8, 1)), "a": Slot("float32", (1, 1, 64)), "y": Slot("float32", (1, 1, 64)), "z": Slot("float32", (1, 1, 64))}
    whole = {**conv(weights="bits"), "kernel": [8, 8]}
    ops = [
        Op("real_conv", ["x"], whole, {"weight": "w"}, [{"op": "store", "slot": "a"}]),
        Op("real_conv", ["a"], conv(weights="bits"), {"weight": "w"}, [{"op": "store", "slot": "y"}]),
        Op("real_conv", ["x"], whole, {"weight": "w"}, [{"op": "store", "slot": "z"}]),
    ]
    graph = Graph(["x"], ["a", "y", "z"], slots, ops, tensors)
    w = np.unpackbits(tensors["w"], axis=1, bitorder="little") * 2.0 - 1
    x = rng.standard_normal((1, 1, 8, 8), np.float32)
    a, y, z = (v.ravel() for v in run.Runner(graph).arrays([x]))
    assert np.allclose(a, w @ x.ravel(), atol=1e-3) and np.array_equal(a, z) and np.allclose(y, w @ a, atol=1e-2)


@pytest.mark.parametrize("kind", ["real_conv", "binary_conv"])
def test_one_weight_in_geometries_that_differ_in_one_number(kind):
    """Stored, it has as many bytes in each: a row's four or eight bits."""
    from bnnlib.deploy import interpreter, run

    rng, real = np.random.default_rng(0), kind == "real_conv"
    slots, ops = {"x": Slot("float32", (3, 4, 2)), "b": Slot("bits", (3, 4, 2))}, []
    for name, (kh, kw), groups in (("y", (2, 2), 1), ("lower", (1, 2), 1), ("narrower", (2, 1), 1), ("grouped", (2, 2), 2), ("again", (2, 2), 1)):
        slots[name] = Slot("float32", (4 - kh, 5 - kw, 4))
        attributes = {**conv(weights="bits"), "kernel": [kh, kw], "groups": groups}
        if not real:
            del attributes["weights"]
        ops.append(Op(kind, ["x" if real else "b"], attributes, {"weight": "w"}, [{"op": "store", "slot": name}]))
    sign = {"op": "sign", "low": "low", "high": "high", "slot": "b"}
    tensors = {"w": rng.integers(0, 16, (4, 1), np.uint8), "low": np.zeros(2, np.float32), "high": np.full(2, np.inf, np.float32)}
    graph = Graph(["x"], [op.stages[0]["slot"] for op in ops], slots, [Op("map", ["x"], {"repeat": 1}, {}, [sign]), *ops], tensors)
    x = rng.standard_normal((2, 2, 3, 4), np.float32)
    wanted = interpreter.interpret(graph, x)
    for name, found in zip(graph.outputs, run.Runner(graph).arrays([x]), strict=True):
        np.testing.assert_allclose(found, wanted[name], atol=1e-5, err_msg=name)


def expanding() -> Graph:
    """One-bit weights in groups of one channel, which take as many floats a bit as stand side by side."""
    width, tensors = 1 << 16, {}
    operations = []
    for k in range(30):
        tensors[f"w{k}"] = np.ones((width, 1), np.uint8)
        a = {**conv(weights="bits"), "groups": width}
        operations.append(lambda s, store, k=k, a=a: Op("real_conv", [s], a, {"weight": f"w{k}"}, [store], ""))
    return vectors(operations, tensors, width)


def long_sum() -> Graph:
    """A window almost all of which is padding."""
    tensors = {"w": np.zeros((1, 1100, 1000, 1), np.float32)}
    slots = {"x": Slot("float32", (1, 1, 1)), "y": Slot("float32", (1, 1, 1))}
    a = {**conv(weights="float32"), "kernel": [1100, 1000], "padding": [550, 500], "stride": [3, 3]}
    return Graph(["x"], ["y"], slots, [Op("real_conv", ["x"], a, {"weight": "w"}, [{"op": "store", "slot": "y"}])], tensors)


def many_classes() -> Graph:
    """A kernel so large that each of many places sees another part of it."""
    slots = {"x": Slot("bits", (99, 99, 1)), "y": Slot("float32", (99, 99, 64))}
    ops = [Op("binary_conv", ["x"], conv(99, 49), {"weight": "w"}, [{"op": "store", "slot": "y"}])]
    return Graph(["x"], ["y"], slots, ops, {"w": np.zeros((64, 1226), np.uint8)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (expanding, "when they are made ready to run"),
        (long_sum, "sums of 1100000 products"),
        (many_classes, "steps to be made ready"),
        (lambda: vectors([lambda s, store: Op("map", [s], {"repeat": 1}, {}, [store])] * 5000, {}), "5000 operations, more than"),
        (lambda: vectors([lambda s, store: Op("map", [s], {"repeat": 1}, {}, [{"op": "relu"}] * 20000 + [store])], {}), "20001 stages"),
        (lambda: vectors([lambda s, store: Op("map", [s], {"repeat": 1}, {}, [store])], {}, 1 << 23), "vectors take"),
    ],
)  # fmt: skip
def test_small_files_that_take_much_are_refused(tmp_path, make, message):
    refuses(deploy.save(make(), tmp_path / "x"), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["ops"][3]["stages"][0].update(high=10**400), "not a number of float32"),
        (lambda g: g["ops"][3]["stages"][0].update(high=10**39), "not a number of float32"),
        (lambda g: g["ops"][3]["stages"][0].update(low=True), "not a number of float32"),
        (lambda g: g["ops"][2].update(name=7), "its name is 7, not text"),
        (lambda g: g["ops"].append({**g["ops"][4], "kind": "map", "attributes": {"repeat": 1}, "constants": {"x": []}}), "has constants"),
    ],
)
def test_values_that_are_none(good, change, message):
    refuses(changed(good, with_graph(change)), message)


def test_a_clamp_of_any_whole_number_runs(good):
    from bnnlib.deploy import run

    path = changed(good, with_graph(lambda g: g["ops"][3]["stages"][0].update(low=-(10**20), high=10**20)))
    x = np.ones((1, 2, 6, 6), np.float32)
    assert np.array_equal(run.load(path)(x), run.load(good)(x))
