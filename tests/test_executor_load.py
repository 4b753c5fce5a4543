"""What kernels/executor/load.h refuses: each number of a network's records that contradicts another, by name."""

from __future__ import annotations

import numpy as np
import pytest

from bnnlib.deploy import program
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.run import Runner, kernels

VARIANTS = [name for name, _, supported in kernels().variants() if supported]


def every_kind() -> Graph:
    """Each operation once, on small maps of odd sizes: the graph that the changes below break."""
    rng = np.random.default_rng(0)
    conv = lambda k, p, **more: {"kernel": [k, k], "stride": [1, 1], "padding": [p, p], "dilation": [1, 1], "groups": 1, **more}  # noqa: E731
    window = {"kernel": [2, 2], "stride": [1, 1], "padding": [0, 0], "ceil": False}
    store = lambda slot: {"op": "store", "slot": slot}  # noqa: E731
    bits = lambda o, k: rng.integers(0, 256, (o, k), np.uint8)  # noqa: E731
    constants = {
        "real": rng.standard_normal((8, 3, 3, 5), np.float32), "low": np.zeros(8, np.float32), "high": np.full(8, 9, np.float32),
        "one": bits(8, 9), "two": bits(8, 9), "limits": np.zeros(8, np.int32), "flip": np.full(1, 0b101, np.uint8),
        "by": rng.standard_normal(8).astype(np.float32), "tables": np.arange(8, dtype=np.int32), "start": np.array([0, 1], np.int32),
        "taps": np.full((2, 2), 0.5, np.float32), "int8": rng.integers(-9, 9, (4, 2, 1, 16), np.int8), "scales": np.ones(4, np.float32),
    }  # fmt: skip
    slots = {
        "x": Slot("float32", (7, 6, 5)), "a": Slot("float32", (7, 6, 8)), "b": Slot("bits", (7, 6, 8)), "c": Slot("bits", (3, 3, 8)),
        "d": Slot("bits", (5, 5, 8)), "e": Slot("bits", (4, 4, 8)), "f": Slot("float32", (3, 3, 8)), "g": Slot("float32", (2, 2, 8)),
        "h": Slot("float32", (2, 2, 8)), "i": Slot("float32", (2, 2, 16)), "j": Slot("float32", (1, 1, 8)), "k": Slot("float32", (2, 3, 8)),
        "l": Slot("float32", (2, 1, 16)), "m": Slot("float32", (1, 1, 4)), "n": Slot("float32", (7, 6, 8)),
        "o": Slot("float32", (1, 1, 8)), "p": Slot("float32", (1, 1, 8)),
    }  # fmt: skip
    affine = {"op": "affine", "scale": "by", "bias": "by", "fused": False}
    ops = [
        Op("real_conv", ["x"], conv(3, 1, weights="float32"), {"weight": "real"}, [affine, {"op": "clamp", "low": -1, "high": 1}, store("a")]),
        Op("map", ["a"], {"repeat": 1}, {}, [{"op": "sign", "low": "low", "high": "high", "slot": "b"}]),
        Op("binary_conv", ["b"], conv(3, 1), {"weight": "one"}, [{"op": "threshold", "threshold": "limits", "flip": "flip", "pool": 2, "slot": "c"}]),
        Op("bit_pad", ["c"], {"padding": [1, 1], "value": 1}, {}, [{"op": "bits", "flip": None, "slot": "d"}]),
        Op("bit_pool", ["d"], window, {}, [{"op": "bits", "flip": "flip", "slot": "e"}]),
        Op("binary_conv", ["b"], conv(3, 1), {"weight": "two"}, [{"op": "scale", "by": "by"}, {"op": "max_pool", "size": 2}, store("f")]),
        Op("max_pool", ["f"], window, {}, [store("g")]),
        Op("move", ["g"], {"shape": [2, 2, 8], "sizes": [2, 2, 8], "value": 0.0}, {"tables": "places"}, [{"op": "plus", "slot": "g"}, store("h")]),
        Op("join", ["g", "h"], {"axis": 2}, {}, [store("i")]),
        Op("reduce", ["h"], {"function": "mean", "axes": [0, 1]}, {}, [store("j")]),
        Op("resample", ["f"], {"axis": 0}, {"start": "start", "weight": "taps"}, [store("k")]),
        Op("avg_pool", ["i"], {**window, "kernel": [1, 2], "count_padding": False}, {}, [store("l")]),
        Op("real_conv", ["l"], {**conv(1, 0, weights="int8"), "kernel": [2, 1]}, {"weight": "int8", "scale": "scales"}, [store("m")]),
        Op("binary_conv", ["b"], conv(3, 1), {"weight": "one"}, [{"op": "residual", "slot": "a"}, store("n")]),
        Op("map", ["j"], {"repeat": 1}, {}, [{"op": "relu"}, store("o")]),
        Op("map", ["j"], {"repeat": 1}, {}, [store("p")]),
    ]  # fmt: skip
    constants["places"] = np.concatenate([[16, 0], [8, 0], np.arange(8)]).astype(np.int32)
    return Graph(["x"], ["k", "m", "n", "o", "p"], slots, ops, constants)


def op(position, message, **fields):
    return pytest.param("ops", position, fields, message, id=f"op {position}, {fields}")


def stage(position, number, message, **fields):
    return pytest.param("stages", (position, number), fields, message, id=f"stage {number} of op {position}, {fields}")


def slot(name, message, **fields):
    return pytest.param("slots", name, fields, message, id=f"slot {name}, {fields}")


def table(position, message, place, value):
    return pytest.param("table", position, {place: value}, message, id=f"table of op {position}, {place}: {value}")


REFUSED = [
    slot("a", "a slot is of no known kind", kind=2), slot("a", "a slot is of no known kind", area=3),
    slot("a", "impossible shape", w=0), slot("a", "impossible shape", c=2**31),
    slot("x", "a slot is too large", h=2**20, w=2**11), slot("a", "before its area", offset=-64),
    slot("a", "does not lie in its area", offset=32), slot("a", "does not lie in its area", offset=2**40),
    slot("e", "does not lie in its area", h=2**20),
    op(0, "an operation is unknown", kind=99), op(0, "a size is below 1", stride_w=0),
    op(0, "a size is below 1 or too large", kernel_h=2**31), op(6, "a padding is negative", padding_h=-1),
    op(6, "an operation gives too much", h=2**20, w=2**20), op(6, "reads or writes no slot", input=17),
    op(6, "reads or writes no slot", output=-2), op(15, "has no such stages", stages=2),
    op(14, "has no such stages", first_stage=-1), op(2, "pooling window is below 1 or above 8", pool=9),
    op(6, "there are two phases", phase=2), op(6, "only bit operations emit bits", output=3),
    op(2, "bits that an operation emits do not fit", pool=3), op(3, "bits that an operation emits do not fit", output=2),
    op(2, "emits bits and has stages", stages=1, first_stage=0), op(2, "the thresholds are missing", threshold=-1),
    op(2, "a weight is missing", weight=-1), op(2, "missing or has the wrong length", threshold=0),
    op(0, "a weight is missing", weight=-1), op(0, "groups are below 1", groups=0),
    op(0, "does not give the shape that is told", w=5), op(0, "does not give the shape that is told", h=8),
    op(5, "does not give the shape", w=7), op(6, "impossible padding", c=7), op(6, "impossible padding", padding_h=2),
    op(6, "impossible padding", padding_w=2), op(6, "a pooling window lies outside", h=4, stages=0),
    op(6, "a pooling window lies outside", w=4, stages=0), op(4, "a pooling of bits has no output", output=-1, flip=-1),
    op(3, "a border does not give", output=-1), op(3, "a border does not give", padding_h=0),
    op(3, "a border does not give", padding_w=2), op(6, "reads a slot of the other kind", input=2),
    op(2, "reads a slot of the other kind", input=1), op(1, "a map changes the shape", repeat=2),
    op(1, "a map changes the shape", w=5), op(1, "a map changes the shape", c=12),
    op(0, "weights are of no known kind", stored=4), op(12, "scale of int8 weights is missing", scale=-1),
    op(7, "a table is missing", table=-1), op(7, "a value is moved from outside", input=13),
    op(8, "an axis or a table is missing", axis=3), op(8, "a join does not give the shape", c=17),
    op(8, "a joined slot has another shape", axis=0), op(9, "a sum is of no known kind", reduction=4),
    op(9, "a sum does not give the shape", w=3), op(10, "a resampling does not give the shape", axis=2),
    op(10, "a resampling does not give the shape", w=4), op(10, "a resampling does not give the shape", taps=4),
    op(10, "a table is missing", values=-1), op(10, "wrong length", taps=1),
    table(7, "a value is moved from outside", 3, 32), table(7, "a value is moved from outside", -1, -2),
    table(8, "a join names no slot", 0, 17), table(8, "a join names no slot", 1, -1),
    table(8, "a joined slot has another shape", 0, 2), table(8, "a joined slot has another shape", 0, 6),
    table(10, "a tap lies outside", 1, 2), table(10, "a tap lies outside", 0, -1),
    stage(14, 0, "a stage is unknown", kind=99), stage(5, 1, "pooling window is below 1 or above 8", size=9),
    stage(5, 1, "below 1 or above 8", size=0), stage(5, 1, "window is larger than its map", size=7),
    stage(14, 0, "one to each", kind="max_pool", size=1), stage(5, 0, "one to each", kind="max_pool", size=1),
    stage(14, 1, "a stage names no slot", slot=17), stage(14, 1, "a stage names no slot", slot=-1),
    stage(7, 0, "another shape", slot="k"), stage(7, 0, "another shape", slot="c"), stage(7, 0, "another shape", slot="i"),
    stage(13, 0, "another shape", slot="k"), stage(13, 0, "another shape", slot="b"),
    stage(14, 1, "another shape", slot="e"), stage(14, 1, "another shape", slot="m"), stage(1, 0, "another shape", slot="a"),
    stage(5, 0, "stands before a pooling", kind="store", slot="n"), stage(5, 0, "lacks its parameters", first=-1),
    stage(0, 0, "lacks its parameters", second=-1), stage(0, 0, "lacks its parameters", first=-1),
    stage(0, 1, "lacks its parameters", second=-1), stage(1, 0, "lacks its parameters", first=-1),
    stage(0, 0, "wrong length", spatial_first=1), stage(0, 1, "differ from pixel to pixel", spatial_second=1),
    stage(13, 0, "another shape", kind="plus", slot="b"), stage(13, 1, "another shape", slot="b"),
    stage(13, 0, "another shape", slot="x"), stage(14, 0, "differ from pixel to pixel", spatial_first=1),
    op(13, "second phase uses a slot of the first area", phase=1), op(15, "the phases are out of order", phase=0),
]  # fmt: skip


def broken(where: str, row, fields: dict) -> tuple[program.Program, dict[str, np.ndarray]]:
    """The program of :func:`every_kind` with these numbers in one row of its tables, or of the constant that an operation calls its table."""
    made, module = program.assemble(every_kind()), kernels()
    tables = made.tables(module)
    if where == "table":
        index = int(tables["ops"]["table"][row])
        made.constants[index] = made.constants[index].copy()
        for place, value in fields.items():
            made.constants[index][place] = value
        return made, tables
    if where == "slots":
        row = made.numbers[row]
    elif where == "stages":
        row = int(tables["ops"]["first_stage"][row[0]]) + row[1]
    for name, value in fields.items():
        if isinstance(value, str):
            value = made.numbers[value] if name == "slot" else int(module.StageKind.__members__[value])
        tables[where][name][row] = value
    return made, tables


@pytest.mark.parametrize(("where", "row", "fields", "message"), REFUSED)
def test_numbers_that_contradict_others_are_refused_by_name(where, row, fields, message):
    made, tables = broken(where, row, fields)
    with pytest.raises(ValueError, match=message):
        made.executor(kernels(), VARIANTS[-1], tables=tables)


def test_what_is_not_broken_runs():
    """Each refusal above is of the one number that was changed."""
    graph = every_kind()
    graph.validate()
    assert {one.kind for one in graph.ops} == set(kernels().Operation.__members__)
    x = np.random.default_rng(1).standard_normal((3, 5, 7, 6), np.float32)
    assert all(np.isfinite(y).all() for y in Runner(graph).arrays([x]))
    assert broken("ops", 0, {})[0].executor(kernels(), VARIANTS[-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_bits_of_a_flip_beyond_the_last_channel_flip_nothing(variant):
    rng = np.random.default_rng(0)
    geometry = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    slots = {"x": Slot("bits", (1, 3, 70)), "b": Slot("bits", (1, 3, 5)), "y": Slot("float32", (1, 3, 4))}
    ops = [
        Op("binary_conv", ["x"], geometry, {"weight": "w"}, [{"op": "threshold", "threshold": "t", "flip": "f", "pool": 1, "slot": "b"}]),
        Op("binary_conv", ["b"], geometry, {"weight": "v"}, [{"op": "store", "slot": "y"}]),
    ]
    x, found = rng.integers(-(2**63), 2**63 - 1, (2, 1, 3, 2)) & np.array([-1, 63]), []
    weights = {"w": rng.integers(0, 256, (5, 9), np.uint8) & np.array([255] * 8 + [63], np.uint8), "v": np.array([[31], [0], [5], [17]], np.uint8)}
    for flip in (0b01001, 0b11101001):  # the second passes no check of a graph
        graph = Graph(["x"], ["b", "y"], slots, ops, {**weights, "t": np.zeros(5, np.int32), "f": np.array([flip], np.uint8)})
        b, y = np.empty((2, 1, 3, 1), np.int64), np.empty((2, 1, 3, 4), np.float32)
        program.assemble(graph).executor(kernels(), variant).run([x, b, y.transpose(0, 3, 1, 2)], 1)
        found.append((b, y))
    assert all(np.array_equal(*both) for both in zip(*found, strict=True))
    assert len(np.unique(b)) > 1 and (b.view(np.uint64) < 32).all()
