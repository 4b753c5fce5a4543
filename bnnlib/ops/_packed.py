"""Convolutions and linear layers of packed weights, with what follows them: scale, bias, residual, threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from bnnlib.ops import _backend
from bnnlib.ops._common import (
    DTYPES,
    GEOMETRY,
    OPS,
    channels_last,
    describe,
    direct,
    output_size,
    pair,
    register,
    same_device,
    shape_of_weight,
    tensors,
    vector,
    whole,
    words,
)
from bnnlib.ops._packing import pack_images, pack_rows, prepack_now

Out = Literal["float32", "bfloat16", "int16", "bits"]


def conv2d_packed(
    x: Tensor,
    weight: Tensor,
    shape: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
    pool: int = 1,
    out: Out = "float32",
) -> Tensor:
    """Binary convolution with a packed weight of float shape ``shape`` = (O, C/groups, kh, kw), its
    epilogue fused.

    ``x``: float ``[N, C, H, W]`` with any strides, packed here, or packed int64 ``[N, H, W, ceil(C / 64)]``.
    ``weight``: prepacked, or stored bits, prepacked here on every call. With dot the integer result:

    * ``out="float32"``: ``dot * scale + bias + residual``, each optional, each rounded on its own as
      PyTorch does; ``[N, O, H', W']`` in the memory format of a float ``x``, channels_last for a packed one.
      ``residual`` has the shape of the result, ``scale`` and ``bias`` are ``[O]``.
    * ``out="bfloat16"``: ``dot * scale + bias`` of ``float32``, rounded once more; channels_last.
    * ``out="int16"``: dot, channels_last; needs K <= 32767.
    * ``out="bits"``: ``(maxpool(dot) >= threshold) ^ flip`` as words ``[N, H'/pool, W'/pool, ceil(O / 64)]``;
      the max-pool has windows of ``pool`` x ``pool`` side by side. Without a threshold this is ``sign(dot)``.
      See :func:`bnnlib.ops.fold_threshold`.

    Raises ``ValueError`` for shapes, dtypes or sizes that do not fit, naming them.
    """
    if type(shape) is not tuple and type(shape) is not torch.Size:
        shape = shape_of_weight(shape)
    if direct(x):
        return conv2d_now(x, weight, shape, stride, padding, dilation, groups, scale, bias, residual, threshold, flip, pool, out)
    tensors("conv2d_packed", x=x, weight=weight)
    sides = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    return OPS.conv2d_packed(x, weight, list(shape), *sides, groups, scale, bias, residual, threshold, flip, pool, out)


def linear_packed(
    x: Tensor,
    weight: Tensor,
    shape: Sequence[int],
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
    out: Out = "float32",
) -> Tensor:
    """Binary linear layer with a packed weight of float shape ``shape`` = (O, K); epilogues as in
    :func:`conv2d_packed`.

    ``x``: float ``[..., K]`` or packed int64 ``[..., ceil(K / 64)]``; the result is ``[..., O]``,
    or ``[..., ceil(O / 64)]`` as bits.
    """
    if type(shape) is not tuple and type(shape) is not torch.Size:
        shape = shape_of_weight(shape)
    if direct(x):
        return linear_now(x, weight, shape, scale, bias, residual, threshold, flip, out)
    tensors("linear_packed", x=x, weight=weight)
    return OPS.linear_packed(x, weight, list(shape), scale, bias, residual, threshold, flip, out)


def _epilogue(o: int, scale, bias, residual, threshold, flip, pool: int, out: str):
    if out not in DTYPES:
        raise ValueError(f'out must be one of {", ".join(DTYPES)}, got "{out}"')
    if out != "bits" and (threshold is not None or flip is not None or pool != 1):
        raise ValueError(f'threshold, flip and pool need out="bits", got "{out}"')
    if out != "float32" and residual is not None:
        raise ValueError(f'a residual needs out="float32", got "{out}"')
    if out not in ("float32", "bfloat16") and (scale is not None or bias is not None):
        raise ValueError(f'scale and bias need out="float32" or "bfloat16", got "{out}"')
    scale, bias = vector(scale, "scale", torch.float32, o), vector(bias, "bias", torch.float32, o)
    return (
        scale,
        bias,
        vector(threshold, "threshold", torch.int32, o),
        vector(flip, "flip", torch.int64, words(o)),
    )


def _blob(weight: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    if getattr(weight, "dtype", None) != torch.uint8 or weight.dim() not in (1, 2):
        raise ValueError(
            "weight must be prepacked (uint8 [bytes]) or stored bits (uint8 [O, ceil(K / 8)]), "
            f"got {describe(weight) if isinstance(weight, Tensor) else type(weight).__name__}"
        )
    return weight.contiguous() if weight.dim() == 1 else prepack_now(weight, shape, groups)


def conv2d_now(
    x, weight, shape, stride=1, padding=0, dilation=1, groups=1,
    scale=None, bias=None, residual=None, threshold=None, flip=None, pool=1, out="float32",
) -> Tensor:  # fmt: skip
    """:func:`conv2d_packed`, computed where ``x`` lies. Raises ``ValueError`` for shapes that do not fit."""
    if len(shape) != 4 or x.dim() != 4:
        raise ValueError(
            "a convolution needs 4-dimensional x and weight, "
            f"got x {list(x.shape)} and weight shape {list(shape)}"
        )
    c = shape[1] * groups
    packed = x.dtype is torch.int64
    if x.shape[3 if packed else 1] != (words(c) if packed else c):
        expected = f"[N, H, W, {words(c)}] packed" if packed else f"[N, {c}, H, W]"
        raise ValueError(
            f"a weight of shape {list(shape)} in {groups} group(s) needs x {expected}, got {describe(x)}"
        )
    channels_first = not packed and out == "float32" and not channels_last(x)
    if packed:
        x = x.contiguous()
    elif not _packs_itself(x):
        x = pack_images(x)
    return convolved(
        x, weight, shape, stride, padding, dilation, groups, channels_first, scale, bias, residual, threshold, flip, pool, out
    )


def _packs_itself(x: Tensor) -> bool:
    """Whether the kernels read the floats ``x`` as they are."""
    return x.dtype is torch.float32 and _backend.of(x).floats and not x.is_neg()


def convolved(
    x, weight, shape, stride, padding, dilation, groups, channels_first,
    scale=None, bias=None, residual=None, threshold=None, flip=None, pool=1, out="float32",
) -> Tensor:  # fmt: skip
    """:func:`conv2d_now` behind its checks: of bits int64 ``[N, H, W, words]``, or of floats that the kernels read as they are;
    ``channels_first``: the result's memory."""
    _same_device(x, weight, scale, bias, residual, threshold, flip)
    scale, bias, threshold, flip = _epilogue(shape[0], scale, bias, residual, threshold, flip, pool, out)
    blob = _blob(weight, shape, groups)
    run, size, strides = _planned(
        _backend.of(x), x.shape, () if x.dtype is torch.int64 else x.stride(), shape if isinstance(shape, tuple) else tuple(shape),
        _sides(stride, "stride"), _sides(padding, "padding"), _sides(dilation, "dilation"), groups, channels_first, pool, out,
    )  # fmt: skip
    y = torch.empty_strided(size, strides, dtype=DTYPES[out], device=x.device)  # 0.6 us less than torch.empty
    if residual is not None:
        if residual.dtype is not torch.float32 or residual.shape != size:
            raise ValueError(f"residual must be float32 {list(size)}, got {describe(residual)}")
        residual = residual.resolve_neg()
        residual = residual.contiguous() if channels_first else residual.permute(0, 2, 3, 1).contiguous()
    run(x, blob, y, scale, bias, residual, threshold, flip)
    return y


def _same_device(x: Tensor, weight, scale, bias, residual, threshold, flip) -> None:
    device = x.device
    for t in (weight, scale, bias, residual, threshold, flip):
        if t is not None and getattr(t, "device", None) != device:
            same_device(x, weight=weight, scale=scale, bias=bias, residual=residual, threshold=threshold, flip=flip)


def _sides(value, name: str) -> int | tuple[int, ...]:
    """``value`` as a key of a cache: a number, or one for rows and one for columns."""
    return value if type(value) is int else tuple(pair(value, name))


@lru_cache(4096)
def _planned(
    backend, x_size, x_strides, shape, stride, padding, dilation, groups, channels_first, pool, out
) -> tuple[Callable[..., None], tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """(what computes it, size of the result, its strides). Kept, as it takes as long as a small layer. ``x_strides``: none of bits,
    whose size is ``[N, H, W, words]``. Raises ``ValueError``."""
    n, h, w = (x_size[0], *x_size[2:]) if x_strides else x_size[:3]
    o, cg, kh, kw = shape_of_weight(shape)
    groups, pool = whole("groups", groups, 1), whole("pool", pool, 1)
    (sh, sw), (ph, pw), (dh, dw) = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    if min(sh, sw) < 1:
        raise ValueError(f"stride must be 1 or more, got {[sh, sw]}")
    if min(dh, dw) >= 1 and min(ph, pw) >= 0 and (dh * (kh - 1) + 1 > h + 2 * ph or dw * (kw - 1) + 1 > w + 2 * pw):
        raise ValueError(
            f"the kernel is larger than the padded input: kernel {kh} x {kw}, dilation {[dh, dw]}, input {h} x {w} with padding {[ph, pw]}"
        )
    geometry = (n, h, w, cg * groups, o, kh, kw, sh, sw, ph, pw, dh, dw, groups)
    strides = {"strides": x_strides} if x_strides else {}
    run = backend.convolution(geometry, DTYPES[out], channels_first, pool, **strides)
    oh, ow = output_size(h, kh, sh, ph, dh) // pool, output_size(w, kw, sw, pw, dw) // pool
    if out == "bits":
        return run, (n, oh, ow, words(o)), (oh * ow * words(o), ow * words(o), words(o), 1)
    return run, (n, o, oh, ow), (o * oh * ow, oh * ow, ow, 1) if channels_first else (oh * ow * o, 1, ow * o, o)


def _conv2d_packed_fake(
    x, weight, shape, stride, padding, dilation, groups, scale, bias, residual, threshold, flip, pool, out
) -> Tensor:  # fmt: skip
    o, _, kh, kw = shape
    packed = x.dtype == torch.int64
    n = x.shape[0]
    h, w = (x.shape[1], x.shape[2]) if packed else (x.shape[2], x.shape[3])
    oh = output_size(h, kh, stride[0], padding[0], dilation[0]) // pool
    ow = output_size(w, kw, stride[1], padding[1], dilation[1]) // pool
    if out == "bits":
        return x.new_empty((n, oh, ow, words(o)), dtype=torch.int64)
    if not packed and out == "float32" and not channels_last(x):
        return x.new_empty((n, o, oh, ow), dtype=torch.float32)
    return x.new_empty((n, oh, ow, o), dtype=DTYPES[out]).permute(0, 3, 1, 2)


def linear_now(
    x, weight, shape, scale=None, bias=None, residual=None, threshold=None, flip=None, out="float32"
) -> Tensor:  # fmt: skip
    """:func:`linear_packed`, computed where ``x`` lies. Raises ``ValueError`` for shapes that do not fit."""
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"a linear layer needs a weight of shape (O, K), got {list(shape)}")
    o, k = shape
    packed = x.dtype == torch.int64
    if x.dim() < 1 or x.shape[-1] != (words(k) if packed else k):
        raise ValueError(
            f"a weight of shape {list(shape)} needs x [..., {words(k) if packed else k}], got {describe(x)}"
        )
    rows = x.reshape(-1, x.shape[-1])
    _same_device(x, weight, scale, bias, residual, threshold, flip)
    scale, bias, threshold, flip = _epilogue(o, scale, bias, residual, threshold, flip, 1, out)
    blob = _blob(weight, (o, k, 1, 1), 1)
    size = (*x.shape[:-1], words(o) if out == "bits" else o)
    y = torch.empty(size, dtype=DTYPES[out], device=x.device)
    if residual is not None:
        if residual.dtype is not torch.float32 or residual.shape != size:
            raise ValueError(f"residual must be float32 {list(size)}, got {describe(residual)}")
        residual = residual.resolve_neg().contiguous()
    m = rows.shape[0]
    if not m:
        return y
    # The rows of a linear layer are the pixels of one line of a 1 x 1 convolution.
    if packed:
        rows, size, strides = rows.contiguous(), (1, 1, m, words(k)), ()
    elif _packs_itself(rows):
        size, strides = (1, k, 1, m), (0, rows.stride(1), 0, rows.stride(0))
    else:
        rows, size, strides = pack_rows(rows), (1, 1, m, words(k)), ()
    run, *_ = _planned(_backend.of(x), size, strides, (o, k, 1, 1), 1, 0, 1, 1, False, 1, out)
    run(rows, blob, y, scale, bias, residual, threshold, flip)
    return y


def _linear_packed_fake(x, weight, shape, scale, bias, residual, threshold, flip, out) -> Tensor:
    o = shape[0]
    return x.new_empty((*x.shape[:-1], words(o) if out == "bits" else o), dtype=DTYPES[out])


_EPILOGUE = "Tensor? scale, Tensor? bias, Tensor? residual, Tensor? threshold, Tensor? flip"
register(
    f"conv2d_packed(Tensor x, Tensor weight, SymInt[] shape, {GEOMETRY}, {_EPILOGUE}, SymInt pool, str out) -> Tensor",
    conv2d_now,
    _conv2d_packed_fake,
)
register(
    f"linear_packed(Tensor x, Tensor weight, SymInt[] shape, {_EPILOGUE}, str out) -> Tensor",
    linear_now,
    _linear_packed_fake,
)
