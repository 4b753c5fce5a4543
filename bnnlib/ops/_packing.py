"""Signs as bits, and back: what a file holds, what a kernel reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bnnlib.ops import _backend
from bnnlib.ops._backend import unpack_words
from bnnlib.ops._common import OPS, describe, direct, float32, register, shape_of_weight, tensors, words


def pack_weight(weight: Tensor) -> Tensor:
    """The signs of a float weight ``[O, ...]`` as stored bits, uint8 ``[O, ceil(K / 8)]``, K the size of
    one row.

    >>> pack_weight(torch.tensor([[1.0, -1.0, 0.0, -2.0, 3.0]]))
    tensor([[21]], dtype=torch.uint8)
    """
    tensors("pack_weight", weight=weight)
    return OPS.pack_weight(weight)


def unpack_weight(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Stored bits back to -1/+1, float32 of ``shape`` ``(O, ...)``. Raises ``ValueError`` if they do not
    fit each other.
    """
    tensors("unpack_weight", bits=bits)
    shape = shape_of_weight(shape)
    o, k = shape[0], math.prod(shape[1:])
    _check_stored(bits, o, k)
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).contiguous().view(torch.int64)
    return (unpack_words(padded, k).float() * 2 - 1).reshape(tuple(shape))


def pack_activation(x: Tensor) -> Tensor:
    """The signs of ``x`` as words: ``[N, C, H, W]`` (any strides) to int64 ``[N, H, W, ceil(C / 64)]``,
    ``[M, K]`` to ``[M, ceil(K / 64)]``.
    """
    if direct(x):
        return _pack_activation(x)
    tensors("pack_activation", x=x)
    return OPS.pack_activation(x)


def unpack_activation(bits: Tensor, channels: int) -> Tensor:
    """Words back to -1/+1, float32: ``[N, H, W, words]`` to ``[N, C, H, W]`` (channels_last), ``[M,
    words]`` to ``[M, K]``.
    """
    tensors("unpack_activation", bits=bits)
    if bits.dtype != torch.int64 or bits.dim() not in (2, 4) or bits.shape[-1] != words(channels):
        raise ValueError(
            f"packed activations of {channels} channels are int64 [..., {words(channels)}], "
            f"got {describe(bits)}"
        )
    x = unpack_words(bits, channels).float() * 2 - 1
    return x.permute(0, 3, 1, 2) if bits.dim() == 4 else x


def prepack(bits: Tensor, shape: Sequence[int], groups: int = 1) -> Tensor:
    """Stored weight bits to the layout of the kernel variant in use. ``shape`` is the float weight's, ``(O,
    C/groups, kh, kw)`` or ``(O, K)``.

    Cheap beside one call on a real image, and worth doing once for each layer; the result is not portable
    between variants.
    """
    tensors("prepack", bits=bits)
    return OPS.prepack(bits, _four(shape), groups)


def _four(shape: Sequence[int]) -> list[int]:
    shape = list(shape_of_weight(shape))
    if len(shape) == 2:
        return [*shape, 1, 1]
    if len(shape) != 4:
        raise ValueError(f"a weight has shape (O, K) or (O, C/groups, kh, kw), got {tuple(shape)}")
    return shape


def _check_stored(bits: Tensor, o: int, k: int) -> None:
    if bits.dtype != torch.uint8 or list(bits.shape) != [o, -(-k // 8)]:
        raise ValueError(
            f"stored bits of {o} rows of {k} weights are uint8 [{o}, {-(-k // 8)}], got {describe(bits)}"
        )


def pack_rows(x: Tensor) -> Tensor:
    """The signs of ``x`` ``[M, K]``, any strides, as words int64 ``[M, ceil(K / 64)]``."""
    m, k = x.shape
    x = float32(x.detach().resolve_neg())
    out = torch.empty(m, words(k), dtype=torch.int64, device=x.device)
    _backend.of(x).pack(
        x.as_strided((1, k, 1, m), (0, x.stride(1), 0, x.stride(0)), x.storage_offset()), out[None, None]
    )
    return out


def pack_images(x: Tensor) -> Tensor:
    """The signs of ``x`` ``[N, C, H, W]``, any strides, as words int64 ``[N, H, W, ceil(C / 64)]``."""
    n, c, h, w = x.shape
    x, backend = x.detach().resolve_neg(), _backend.of(x)
    out = torch.empty(n, h, w, words(c), dtype=torch.int64, device=x.device)
    if x.dtype == torch.float32 or backend.halves and x.dtype in (torch.bfloat16, torch.float16):
        backend.pack(x, out)
    elif x.dtype == torch.bfloat16 and backend.compiled and (pixels := x.permute(0, 2, 3, 1)).is_contiguous():
        backend.pack(pixels, out)
    else:
        backend.pack(float32(x), out)
    return out


def _pack_activation(x: Tensor) -> Tensor:
    if x.dim() not in (2, 4) or 0 in x.shape[1:]:
        raise ValueError(
            "pack_activation takes [N, C, H, W] or [M, K] with no empty side but the first, "
            f"got {list(x.shape)}"
        )
    return pack_images(x) if x.dim() == 4 else pack_rows(x)


def _pack_activation_fake(x: Tensor) -> Tensor:
    if x.dim() == 4:
        n, c, h, w = x.shape
        return x.new_empty((n, h, w, words(c)), dtype=torch.int64)
    return x.new_empty((x.shape[0], words(x.shape[1])), dtype=torch.int64)


def pack_weight_now(weight: Tensor) -> Tensor:
    """:func:`pack_weight`, computed where ``weight`` lies."""
    if weight.dim() < 2 or 0 in weight.shape:
        raise ValueError(
            "pack_weight takes a weight [O, ...] of at least two dimensions, none empty, "
            f"got {list(weight.shape)}"
        )
    rows = weight.detach().reshape(weight.shape[0], -1)
    return (
        pack_rows(rows)
        .view(torch.uint8)[:, : (rows.shape[1] + 7) // 8]
        .clone(memory_format=torch.contiguous_format)
    )


def _pack_weight_fake(weight: Tensor) -> Tensor:
    return weight.new_empty((weight.shape[0], (math.prod(weight.shape[1:]) + 7) // 8), dtype=torch.uint8)


def _weight_geometry(shape: Sequence[int], groups: int) -> list[int]:
    o, cg, kh, kw = shape
    return [1, kh, kw, cg * groups, o, kh, kw, 1, 1, 0, 0, 1, 1, groups]


def prepack_now(bits: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    """:func:`prepack`, computed where ``bits`` lie. Raises ``ValueError`` where they do not fit ``shape``."""
    geometry = _weight_geometry(shape_of_weight(shape), groups)
    _check_stored(bits, shape[0], math.prod(shape[1:]))
    out = torch.empty(_backend.of(bits).blob_bytes(geometry), dtype=torch.uint8, device=bits.device)
    _backend.of(bits).prepack(geometry, bits.contiguous(), out)
    return out


def _prepack_fake(bits: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    return bits.new_empty((_backend.of(bits).blob_bytes(_weight_geometry([int(s) for s in shape], int(groups))),))


register("pack_activation(Tensor x) -> Tensor", _pack_activation, _pack_activation_fake)
register("pack_weight(Tensor weight) -> Tensor", pack_weight_now, _pack_weight_fake)
register("prepack(Tensor bits, SymInt[] shape, SymInt groups) -> Tensor", prepack_now, _prepack_fake)
