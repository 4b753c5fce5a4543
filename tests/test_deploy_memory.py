"""Where the executor holds the slots of a packed network: none writes on another that is still to be read, and a chain takes two."""

import itertools

import numpy as np
import pytest
from packed_files import conv, tiny_graph

from bnnlib import deploy
from bnnlib.deploy.graph import Graph, Op, Slot
from bnnlib.deploy.memory import allocate, phases_of, prepared

SHIPPED = {"s4-lenet5": (1, 28, 28), "s3-mlp": (1, 28, 28), "s2-student": (3, 32, 32), "ours-vgg-20ep": (3, 32, 32)}


def step(source: str, target: str, *more: dict) -> Op:
    """An operation that reads one slot and writes another."""
    return Op("map", [source], {"repeat": 1}, {}, [*more, {"op": "store", "slot": target}])


def graph_of(ops: list[Op], slots: dict[str, tuple[int, int, int]], outputs: list[str]) -> Graph:
    return Graph(["x"], outputs, {name: Slot("float32", shape) for name, shape in slots.items()}, ops, {})


def overlaps(graph: Graph) -> list[tuple[str, str]]:
    """Pairs of slots of one area that share bytes although both hold something that is still to be read. By steps: a slot lives from the
    operation that writes it to the last that reads it; what the first phase hands to the second lives through all of the first, as
    another image of the batch may be at any of its operations."""
    phases = phases_of(graph)
    outside = [*graph.inputs, *(name for name in graph.outputs if name not in graph.inputs)]
    places, *sizes = allocate(graph, phases, outside)
    boundary = phases.index(1) if 1 in phases else len(phases)
    alive: dict[str, set[int]] = {}
    for i, op in enumerate(graph.ops):
        for name in op.writes():
            readers = [j for j, other in enumerate(graph.ops) if name in other.reads()]
            alive[name] = set(range(i, max(readers, default=i) + 1))
            if i < boundary <= max(readers, default=i):
                alive[name] |= set(range(boundary))
    held = {}
    for name, steps in alive.items():
        area, offset = places[name]
        if area != "outside":
            assert offset % 64 == 0
            assert offset + graph.slots[name].bytes <= sizes[("micro", "chunk").index(area)]
            held[name] = (area, offset, offset + graph.slots[name].bytes, steps)
    return [
        (a, b)
        for (a, (area, low, high, steps)), (b, (other, bottom, top, others)) in itertools.combinations(held.items(), 2)
        if area == other and low < top and bottom < high and steps & others
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_no_slot_of_a_shipped_net_lies_on_one_that_is_still_read(name):
    graph = deploy.convert(deploy.load(deploy.path_of(name)), SHIPPED[name]).graph
    assert not overlaps(graph)


def test_no_slot_of_a_small_net_lies_on_one_that_is_still_read():
    assert not overlaps(tiny_graph())
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(2, 12))
        names = ["x", *(f"s{i}" for i in range(count))]
        edge = int(rng.integers(0, count + 1))  # from here on vectors
        slots = {"x": (3, 3, 5)} | {f"s{i}": (1, 1, 5) if i >= edge else (3, 3, int(rng.integers(1, 9))) for i in range(count)}
        ops = []
        for i in range(count):
            source, other = rng.choice(i + 1, 2)
            ops.append(step(names[source], f"s{i}", {"op": "residual", "slot": names[other]}))
        outputs = sorted({names[-1], names[int(rng.integers(1, count + 1))]})
        assert not overlaps(graph_of(ops, slots, outputs)), (edge, [op.reads() for op in ops])


def test_a_chain_takes_two_slots_and_a_shortcut_a_third():
    slots = {"x": (4, 4, 16)} | {f"s{i}": (4, 4, 16) for i in range(6)} | {"y": (4, 4, 16)}
    one = 4 * 4 * 16 * 4
    chain = [step("x", "s0"), *(step(f"s{i}", f"s{i + 1}") for i in range(5)), step("s5", "y")]
    graph = graph_of(chain, slots, ["y"])
    assert allocate(graph, phases_of(graph), ["x", "y"])[1:] == (2 * one, 0)
    chain[4] = step("s3", "s4", {"op": "residual", "slot": "s1"})
    graph = graph_of(chain, slots, ["y"])
    assert allocate(graph, phases_of(graph), ["x", "y"])[1:] == (3 * one, 0)


def test_vectors_behind_the_last_map_are_a_phase_of_their_own():
    slots = {"x": (4, 4, 16), "map": (4, 4, 16), "row": (1, 1, 16), "next": (1, 1, 16), "y": (1, 1, 16)}
    ops = [step("x", "map"), step("map", "row"), step("row", "next"), step("next", "y")]
    graph = graph_of(ops, slots, ["y"])
    assert phases_of(graph) == [0, 1, 1, 1]
    places, micro, chunk = allocate(graph, phases_of(graph), ["x", "y"])
    assert places["map"][0] == places["row"][0] == places["next"][0] == "chunk" and micro == 0
    slots["next"] = (2, 1, 8)
    assert phases_of(graph_of(ops, slots, ["y"])) == [0, 0, 0, 1]


def test_bytes_of_constants_made_ready():
    """By hand: 70 outputs are two panels of 64, one-bit weights of a real-valued layer become floats, and a constant counts once."""
    tensors = {"w": np.zeros((70, 3), np.uint8), "b": np.zeros(70, np.float32)}
    slots = {"x": Slot("float32", (5, 5, 2)), "a": Slot("float32", (3, 3, 70)), "y": Slot("float32", (3, 3, 70))}
    bias = {"op": "bias", "by": "b"}
    ops = [Op("real_conv", ["x"], conv(3, weights="bits"), {"weight": "w"}, [bias, {"op": "store", "slot": name}]) for name in "ay"]
    graph = Graph(["x"], ["a", "y"], slots, ops, tensors)
    real = 128 * 3 * 3 * 2 * 4
    assert prepared(graph) == (real + 70 * 4 + 512, 0)
    slots["x"] = Slot("bits", (5, 5, 2))
    for op in ops:
        op.kind = "binary_conv"
        del op.attributes["weights"]
    weight, places = 2 * 128 * 3 * 3 * 8, 3 * 3 * 128  # a word for each tap; twice, as it is prepared beside it
    assert prepared(graph) == (weight + 2 * 6 * places + 70 * 4 + 512, 2 * places * 9)
