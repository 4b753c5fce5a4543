"""Max-pooling of packed activations."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnlib.ops import _backend
from bnnlib.ops._common import (
    OPS,
    describe,
    direct,
    output_size,
    register,
    same_device,
    tensors,
    vector,
    whole,
    words,
)


def or_pool(
    bits: Tensor,
    channels: int,
    window: int,
    stride: int | None = None,
    padding: int = 0,
    flip: Tensor | None = None,
) -> Tensor:
    """Max-pooling of packed activations ``[N, H, W, ceil(C / 64)]``: OR over each window, then xor
    ``flip``. Padding is -1, like -infinity.
    """
    tensors("or_pool", bits=bits)
    call = _or_pool if direct(bits) else OPS.or_pool
    return call(bits, channels, window, window if stride is None else stride, padding, flip)


def _or_pool(
    bits: Tensor, channels: int, window: int, stride: int, padding: int, flip: Tensor | None
) -> Tensor:
    if bits.dtype != torch.int64 or bits.dim() != 4 or bits.shape[-1] != words(channels):
        raise ValueError(
            f"packed activations of {channels} channels are int64 [N, H, W, {words(channels)}], "
            f"got {describe(bits)}"
        )
    window, stride, padding = whole("window", window, 1), whole("stride", stride, 1), whole("padding", padding, 0)
    if 2 * padding > window:
        raise ValueError(f"cannot pool with window {window}, stride {stride}, padding {padding}")
    n, h, w, last = bits.shape
    oh, ow = output_size(h, window, stride, padding, 1), output_size(w, window, stride, padding, 1)
    if oh < 1 or ow < 1:
        raise ValueError(
            f"the window {window} is larger than the padded input, {h} x {w} with padding {padding}"
        )
    same_device(bits, flip=flip)
    y = torch.empty((n, oh, ow, last), dtype=torch.int64, device=bits.device)
    _backend.of(bits).or_pool(
        [n, h, w, channels, window, stride, padding],
        bits.contiguous(),
        vector(flip, "flip", torch.int64, last),
        y,
    )
    return y


def _or_pool_fake(bits, channels, window, stride, padding, flip) -> Tensor:
    n, h, w, last = bits.shape
    return bits.new_empty(
        (n, output_size(h, window, stride, padding, 1), output_size(w, window, stride, padding, 1), last)
    )


register(
    "or_pool(Tensor bits, SymInt channels, SymInt window, SymInt stride, SymInt padding, Tensor? flip) -> Tensor",
    _or_pool,
    _or_pool_fake,
)
