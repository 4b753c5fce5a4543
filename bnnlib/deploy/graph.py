"""A packed network as data: a flat list of operations on named slots. JSON for the structure, NumPy arrays for the
constants; neither PyTorch nor code in it.

A *slot* holds one activation: its shape for one image is ``(height, width, channels)``, channels side by side in
memory; a vector has height and width 1. Its kind is ``float32``, or ``bits``: a bit to a value, 1 for +1 and 0 for
-1, the channels of a pixel in ``ceil(channels / 64)`` words of 64 bits, unused bits 0.

An *operation* reads its input slots, and produces float values pixel by pixel (or bits, see the table). Its *stages*
follow one after another on those values while they are in the cache; the stages that name a slot write it. A slot is
written once, before it is read: so the list has no cycles, and its order is an order of execution.

=============== ========= ============================================ ==========================================
operation       input     attributes                                   constants
=============== ========= ============================================ ==========================================
``map``         either    ``repeat``: how often the channels           none
                          follow one another
``real_conv``   float32   geometry; ``weights``: ``float32``,          ``weight`` ``[O, kh, kw, C/groups]``
                          ``bfloat16`` (as uint16), ``int8``,          (``bits``: as binary_conv's); ``scale``
                          ``bits`` (+-1)                               ``[O]`` for ``int8``
``binary_conv`` bits      geometry                                     ``weight`` uint8 ``[O, ceil(K / 8)]``, the
                                                                       signs of ``(O, C/groups, kh, kw)`` in this
                                                                       order, first in the lowest bit
``max_pool``    float32   window                                       none
``avg_pool``    float32   window, ``count_padding``                    none
``bit_pool``    bits      window: OR, the maximum of +-1               none
``bit_pad``     bits      ``padding`` [rows, columns], ``value``       none
                          1 or -1: a border
``move``        float32   ``shape`` [h, w, c] of the result;           ``tables`` int32 [sum of the sizes]
                          ``sizes``, whose product is its values;
                          ``value``
``join``        float32,  ``axis``: 0 rows, 1 columns, 2 channels      none
                one or
                more
``reduce``      float32   ``function``: ``sum``, ``mean``, ``max``,    none
                          ``min``; ``axes``, of 0, 1, 2
``resample``    float32   ``axis``: 0 rows, 1 columns                  ``start`` int32 ``[n]``, ``weight`` float32
                                                                       ``[n, taps]``
``torch``       float32   ``module``: runs in PyTorch, outside of      none
                          this graph; for people
=============== ========= ============================================ ==========================================

geometry: ``kernel``, ``stride``, ``padding``, ``dilation`` (pairs), ``groups``. Padding adds zeros, which contribute
nothing. A linear layer is a convolution whose kernel covers the whole input. window: ``kernel``, ``stride``,
``padding`` (pairs), ``ceil`` (whether a window may hang over the end); padding never wins, and counts as zeros in an
average only with ``count_padding``.

``move`` moves values: reshaping, transposing, slicing, flipping, repeating, padding, zeros between. The place of a value of
the result, in the order of memory (h, w, c), is written in digits, the last of ``sizes`` running fastest; each digit has a
table of as many numbers, and their sum is the place of the value in the input. Where one of them is negative stands
``value``. ``join`` puts slots side by side. ``reduce`` leaves one place of each of its axes. ``resample``: place i of the
result is the sum over t of ``weight[i, t]`` times place ``start[i] + t`` of the input: bilinear resizing, adaptive averages.

=================== ============================ ================================================================
stage               fields                       what it does to a value x of channel c
=================== ============================ ================================================================
``scale``           ``by``                       x * by
``bias``            ``by``                       x + by
``affine``          ``scale``, ``bias``, fused   x * scale + bias, rounded once (``fused`` true) or twice
``relu``                                         max(x, 0)
``clamp``           ``low``, ``high`` (numbers)  min(max(x, low), high)
``prelu``           ``slope``                    x if x > 0 else x * slope
``step``            ``low``, ``high``            +1 if low <= x <= high else -1
``residual``        ``slot``                     x + slot; a slot of fewer channels follows itself along them
``divide``          ``by``                       x / by
``abs``, ``exp``,                                functions of x: ``FUNCTIONS`` in :mod:`bnnlib.deploy.operations`
... ``silu``
``elu``             ``alpha`` (number)           x if x > 0 else alpha (exp(x) - 1)
``plus``, ``times`` ``slot``                     x with the slot's value: ``PAIRS`` there; a size of 1 of the slot serves
... ``smaller``                                  all places of that axis
``max_pool``        ``size``                     windows size x size side by side; of a convolution, once
``avg_pool``        ``size``                     the same, the mean: their sum in row-major order / size^2
``store``           ``slot`` float32             writes x
``sign``            ``low``, ``high``, ``slot``  writes the bit low <= x <= high
``threshold``       ``threshold``, ``flip``,     binary_conv's only stage, on the integer x, max-pooled over
                    ``pool``, ``slot``           windows first: writes the bit (x >= threshold) xor flip
``bits``            ``flip``, ``slot``           the bit operations' only stage: writes the bits, xor flip
=================== ============================ ================================================================

``by``, ``scale``, ``bias``, ``slope``, ``low``, ``high`` name constants, float32 ``[C]`` or, where they differ from pixel to
pixel, ``[H, W, C]``; ``threshold`` int32 ``[C]``; ``flip`` uint8 ``[ceil(C / 8)]`` (or null), a bit to a channel. A NaN fails both
comparisons of ``sign``: its bit is 0.

``takes`` says what the inputs are, ``gives`` what the result is: a tensor ``{"tensor": number of the output, "shape": [...]}``, or
``{"tuple": [...]}``, ``{"list": [...]}``, ``{"dict": [[name, ...], ...]}`` of such. An input or output as PyTorch has it is its slot in the order (channels,
height, width), reshaped to that shape, which leaves out the batch. Graphs of version 1 have neither: a slot of one pixel is a vector,
any other (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnnlib.deploy import graphchecks
from bnnlib.deploy.operations import VERSION, GraphError, Op, Slot, need

__all__ = ["Graph", "GraphError", "Op", "Slot"]


@dataclass
class Graph:
    """A network: ``slots`` by name, ``ops`` in order, constants by name in ``tensors``; ``inputs`` and ``outputs``
    name slots."""

    inputs: list[str]
    outputs: list[str]
    slots: dict[str, Slot]
    ops: list[Op]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    takes: list[dict[str, Any]] | None = None
    gives: dict[str, Any] | None = None

    def validate(self) -> None:
        """Raises :class:`GraphError` unless every operation can run."""
        graphchecks.validate(self)

    def named(self) -> set[str]:
        """The constants that operations and stages name."""
        return {name for op in self.ops for name in op.names()}

    def products(self, op: Op) -> int:
        """The products in one value of a convolution."""
        a = op.attributes
        return self.slots[op.inputs[0]].shape[2] // a["groups"] * math.prod(a["kernel"])

    def input_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each input without the batch, as the caller gives it."""
        if self.takes is not None:
            return [tuple(one["shape"]) for one in self.takes]
        return [_plain(self.slots[name].shape) for name in self.inputs]

    def result(self) -> dict[str, Any]:
        """``gives``, or what a graph of version 1 means: its first output."""
        if self.gives is not None:
            return self.gives
        return {"tensor": 0, "shape": list(_plain(self.slots[self.outputs[0]].shape))}

    def to_json(self) -> dict[str, Any]:
        """All but the tensors, as JSON holds it. :meth:`from_json` reads it."""
        return {
            "version": VERSION,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "slots": {name: [slot.kind, *slot.shape] for name, slot in self.slots.items()},
            "ops": [dict(vars(op)) for op in self.ops],
            "takes": self.takes,
            "gives": self.gives,
        }

    @classmethod
    def from_json(cls, document: Any, tensors: Mapping[str, np.ndarray]) -> Graph:
        """The graph in ``document`` with these tensors, validated. Raises :class:`GraphError`."""
        try:
            version = document["version"]
            if type(version) is not int or not 1 <= version <= VERSION:
                raise GraphError(f"the graph is of version {version!r:.40}, this library reads 1 to {VERSION}")
            fields = {"version", "inputs", "outputs", "slots", "ops"} | ({"takes", "gives"} if version > 1 else set())
            need(set(document) == fields, f"has fields {sorted(document)}")
            for op in document["ops"]:
                fields = {"kind", "inputs", "attributes", "constants", "stages", "name"}
                need(set(op) == fields, f"an operation has fields {sorted(op)}")
            slots = {name: Slot(kind, tuple(shape)) for name, (kind, *shape) in document["slots"].items()}
            ops = [
                Op(
                    op["kind"],
                    list(op["inputs"]),
                    dict(op["attributes"]),
                    dict(op["constants"]),
                    [dict(stage) for stage in op["stages"]],
                    op["name"],
                )
                for op in document["ops"]
            ]
            graph = cls(
                list(document["inputs"]), list(document["outputs"]), slots, ops, dict(tensors), document.get("takes"), document.get("gives")
            )
        except GraphError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"not a graph: {type(error).__name__}: {error}") from None
        graph.validate()
        return graph


def _plain(shape: tuple[int, int, int]) -> tuple[int, ...]:
    h, w, c = shape
    return (c,) if (h, w) == (1, 1) else (c, h, w)
