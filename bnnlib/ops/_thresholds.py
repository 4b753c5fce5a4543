"""Thresholds of integers in place of what follows a binary layer, up to the next sign."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnnlib.ops._backend import pack_words
from bnnlib.ops._common import describe, whole


def fold_threshold(expression: Callable[[Tensor], Tensor], channels: int, k: int) -> tuple[Tensor, Tensor]:
    """Whatever follows a binary layer, up to the next sign, as integers: (threshold int32 ``[O]``, flip
    int64 ``[ceil(O / 64)]``).

    ``expression`` maps float32 ``[V, O]`` to ``[V, O]`` (bias, scale, batch norm, PReLU, ... in evaluation
    mode, column o with the parameters of channel o). It is evaluated on every value -k..k that the layer can
    give, so the result is exact whatever its rounding: ``sign(expression(dot)) == ((dot >= threshold) ^ flip)``.
    Raises ``ValueError`` if a channel is not monotone, for a module in training mode, which would take the values -k..k for a batch, and for a
    ``k`` beyond what float32 counts exactly.
    """
    if whole("k", k, 1) >= 2**24:
        raise ValueError(f"k is {k}: from 2**24 on float32 does not hold every whole number, and no layer's results are exact")
    if isinstance(expression, nn.Module) and expression.training:
        raise ValueError(f"the expression is a {type(expression).__name__} in training mode: call its eval() first")
    dots = torch.arange(-k, k + 1, dtype=torch.float32)
    with torch.no_grad():
        bits = expression(dots[:, None].expand(-1, channels).contiguous()) >= 0
    if tuple(bits.shape) != (len(dots), channels):
        raise ValueError(f"the expression gave {list(bits.shape)} for [{len(dots)}, {channels}]")
    threshold, falls = threshold_of(bits, k)
    return threshold, pack_words(falls)


def threshold_of(bits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``(threshold int32 [C], falls bool [C])`` of bits ``[2k + 1, C]``, one for each dot -k..k: ``bit == (dot >= threshold) ^
    falls``. Raises ``ValueError`` if a channel is not monotone, and for bits of another type or number."""
    if bits.dtype != torch.bool or bits.dim() != 2 or len(bits) != 2 * k + 1:
        raise ValueError(f"bits are {describe(bits)}, expected bool [2k + 1, C], a row for each of -k..k; k is {k}")
    falls = bits[0] & ~bits[-1]
    rising = bits ^ falls
    back = (rising[1:] < rising[:-1]).any(0)
    if back.any():
        channel = int(back.nonzero()[0])
        raise ValueError(f"channel {channel} is not monotone in the layer's result, so no threshold describes it")
    return ((~rising).sum(0) - k).to(torch.int32), falls  # the first dot with a rising bit; k + 1 where there is none
