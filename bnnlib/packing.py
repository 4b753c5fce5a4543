"""Weights in fewer bits. +-1 as bits: bit 1 stands for +1, bit 0 for -1, the first element in the lowest bit of the
first byte. Real values as int8, and activations as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

_SHIFTS = (0, 1, 2, 3, 4, 5, 6, 7)


def pack_bits(x: Tensor) -> Tensor:
    """Pack the signs of ``x`` along its last dimension: ``(..., K) -> (..., ceil(K / 8))`` uint8; the bits
    past K are 0."""
    bits = x >= 0
    missing = -bits.shape[-1] % 8
    if missing:
        bits = torch.cat([bits, bits.new_zeros((*bits.shape[:-1], missing))], dim=-1)
    bytes_ = bits.view(*bits.shape[:-1], bits.shape[-1] // 8, 8).to(torch.int32)  # (..., K/8, 8)
    return (bytes_ << torch.tensor(_SHIFTS, dtype=torch.int32, device=x.device)).sum(dim=-1).to(torch.uint8)


def unpack_bits(bits: Tensor, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The inverse of :func:`pack_bits`: ``(..., ceil(k / 8))`` uint8 -> ``(..., k)`` of +-1. Raises
    ``ValueError`` where the sizes do not fit."""
    if bits.dtype != torch.uint8 or bits.shape[-1] != (k + 7) // 8:
        raise ValueError(
            f"{k} values take {(k + 7) // 8} uint8 bytes a row, got {bits.shape[-1]} of {bits.dtype}"
        )
    ones = (
        bits[..., None].to(torch.int32) >> torch.tensor(_SHIFTS, dtype=torch.int32, device=bits.device)
    ) & 1
    return (ones.flatten(-2)[..., :k] * 2 - 1).to(dtype)


def round_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``(values int8, scale)`` of a weight ``(C_out, ...)``: symmetric, a scale to an output channel, float32 ``(C_out,)``, so
    that its largest weight becomes 127 or -127."""
    scale = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
    return (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8), scale.float()


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(integers, scale)`` of activations ``(N, ...)``, float32, so that x is about ``integers * scale``: 8 bits, with a scale
    and a zero point to an image, ``scale`` of shape ``(N, 1, ...)``.

    The 256 steps reach from the image's least value to its largest, 0 among them; ``integers`` are the bytes less the
    byte that stands for 0. An image with a value that is not finite, or whose range is not, has the scale NaN, one whose range
    is below 3e-36 the scale 0. A packed network does the same before a layer with int8 weights.
    """
    axes = tuple(range(1, x.dim()))
    low, high = x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)
    scale = (high - low) / torch.full_like(high, 255)  # a GPU multiplies by 1 / 255 where it divides by a number
    some = scale.isfinite() & (scale >= torch.finfo(torch.float32).tiny)
    inverse = torch.where(some, 1 / torch.where(some, scale, 1), 0)
    zero_point = (-torch.where(some, low, 0) * inverse).round()
    integers = ((torch.where(some, x, 0) * inverse).round() + zero_point).clamp(max=255) - zero_point
    return integers, torch.where(some, scale, torch.where(scale.isfinite(), 0, torch.nan))
