"""What follows from the name of a layer in the benchmark records, such as ``128->256 3x3 @16``."""

from __future__ import annotations

import re


def sizes(layer: str) -> tuple[int, int, int, int]:
    """Channels in and out, kernel and side of a layer, from its name in the records.

    >>> sizes("128->256 3x3 @16")
    (128, 256, 3, 16)
    """
    c, o, k, _, side = map(int, re.findall(r"\d+", layer))
    return c, o, k, side


def length(layer: str) -> int:
    """K, the products in one output of a layer.

    >>> length("128->256 3x3 @16")
    1152
    """
    c, _, k, _ = sizes(layer)
    return c * k * k


def _taps(layer: str) -> int:
    """Taps inside the image, over all positions of one image of a layer and one channel in and out."""
    _, _, k, side = sizes(layer)
    pad = k // 2
    return (side * k - pad * (pad + 1)) ** 2


def products(layer: str) -> int:
    """Multiply-adds of one image of a layer that have an operand inside the image: those with the border of zeros are left out.

    >>> products("64->2 3x3 @2"), products("192->160 1x1 @32") == 192 * 160 * 32 * 32
    (2048, True)
    """
    c, o, _, _ = sizes(layer)
    return c * o * _taps(layer)


def words(layer: str) -> int:
    """Words of 64 bits that the plain loop multiplies in one image of a layer. It leaves out the border of zeros.

    >>> words("64->2 3x3 @2"), words("65->1 1x1 @8")
    (32, 128)
    """
    c, o, _, _ = sizes(layer)
    return o * _taps(layer) * -(-c // 64)


def weight_bytes(layer: str, bits: int) -> float:
    """Bytes of the weights of a layer, ``bits`` each.

    >>> weight_bytes("64->64 1x1 @8", 8)
    4096.0
    """
    c, o, k, _ = sizes(layer)
    return c * o * k * k * bits / 8


def intensity(layer: str, batch: int, bits: int) -> float:
    """Products (:func:`products`) a byte that has to be moved: input, weights and output, each once, of ``bits`` a number.

    >>> intensity("64->64 1x1 @8", 1, 8)
    21.333333333333332
    """
    c, o, k, side = sizes(layer)
    moved = batch * side * side * (c + o) + c * o * k * k
    return batch * products(layer) / (moved * bits / 8)


def pointwise(layer: str) -> bool:
    """Whether the kernel of a layer, by its name in the records, is 1x1."""
    return "1x1" in layer
