"""How large a network in a file may be, so that the file of a stranger takes no more memory and time than a real network. Without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bnnlib.deploy import memory
from bnnlib.deploy.container import DeployError
from bnnlib.deploy.graph import Graph, GraphError

LARGEST_ACTIVATIONS = 1 << 30
"""Bytes that all the activations of one image may take; the book's largest network takes a fiftieth."""
LARGEST_PREPARED = 256 << 20
PREPARED_TO_STORED = 64
"""What the executor makes of a file's constants may take so many bytes, and so many times what they take in the file: a
bit becomes a float where its layer is real-valued, and a whole row of them in a small group of channels."""
IMAGES_AT_ONCE = 128
"""That the executor takes through layers of one pixel (``CHUNK`` in ``kernels/executor/net.h``)."""
LONGEST_SUM = 1 << 20
"""Products to a value; the book's longest has 9216."""
MOST_OPERATIONS = 4096
MOST_STAGES = 16384
MOST_STEPS = 1 << 30


def check_parts(document: Any) -> None:
    """Raises :class:`GraphError` for a graph, as JSON, of more parts than any network has."""
    if isinstance(document, dict) and isinstance(document.get("ops"), list) and isinstance(document.get("slots"), dict):
        stages = sum(len(op["stages"]) for op in document["ops"] if isinstance(op, dict) and isinstance(op.get("stages"), list))
        for what, count, most in (
            ("operations", len(document["ops"]), MOST_OPERATIONS),
            ("slots", len(document["slots"]), 2 * MOST_OPERATIONS),
            ("stages", stages, MOST_STAGES),
        ):
            if count > most:
                raise GraphError(f"the graph has {count} {what}, more than {most}")


def check(path: Path, graph: Graph) -> None:
    """Raises :class:`DeployError` for a graph of ``path``, valid as such, that takes more than any network does."""
    slots = graph.slots.values()
    total = sum(slot.bytes for slot in slots)
    if total > LARGEST_ACTIVATIONS:
        raise DeployError(
            f"{path} holds a network whose activations take {total} bytes an image, more than {LARGEST_ACTIVATIONS}"
        )
    pixels = sum(slot.bytes for slot in slots if slot.shape[:2] == (1, 1))
    if pixels * IMAGES_AT_ONCE > LARGEST_ACTIVATIONS:
        raise DeployError(
            f"{path} holds a network whose vectors take {pixels} bytes an image, {IMAGES_AT_ONCE} images at once: more than "
            f"{LARGEST_ACTIVATIONS}"
        )
    (prepared, steps), stored = memory.prepared(graph), sum(tensor.nbytes for tensor in graph.tensors.values())
    if steps > MOST_STEPS:
        raise DeployError(f"{path} holds a network that takes {steps} steps to be made ready, more than {MOST_STEPS}")
    if prepared > (limit := LARGEST_PREPARED + PREPARED_TO_STORED * stored):
        raise DeployError(
            f"{path} holds a network whose weights take {stored} bytes, and {prepared} when they are made ready to run: "
            f"more than {limit}"
        )
    for op in graph.ops:
        if "conv" in op.kind and (length := graph.products(op)) > LONGEST_SUM:
            raise DeployError(f"{path} holds a network with sums of {length} products, more than {LONGEST_SUM}")
