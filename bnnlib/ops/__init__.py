"""Binary (1-bit weights, 1-bit activations) linear layers and convolutions on the CPU, as PyTorch operators.

    y = ops.binary_conv2d(x, w, padding=1)        # every element equals F.conv2d(sign(x), sign(w), padding=1)

Use these two, :func:`binary_linear` and :func:`binary_conv2d`, where the operands are float tensors; they
carry the gradient of the clipped straight-through estimator, so a network trains through them.
:func:`conv2d_of_signs` is the step inside a layer that has its own estimators, and what
:class:`bnnlib.layers.BinaryConv2d` trains with on a CPU. To run a trained layer, pack its weight once:

    bits = ops.pack_weight(w)                     # uint8 [O, ceil(K / 8)]: what a file holds
    ready = ops.prepack(bits, w.shape)            # for this CPU's kernel; not for files
    y = ops.conv2d_packed(x, ready, w.shape, padding=(1, 1), scale=alpha, bias=beta)
    b = ops.conv2d_packed(x, ready, w.shape, padding=(1, 1), threshold=t, flip=f, out="bits")

Formats (little-endian bit order; a set bit is +1, padding bits are 0; C++ side: ``kernels/layout.h``)

================= ====================================== =================================================
weight, stored    uint8 ``[O, ceil(K / 8)]``             rows of K = C/groups * kh * kw bits, in the order of
                                                         the float tensor
weight, prepacked uint8 ``[bytes]``                      opaque, for one kernel variant, refused by any other
activations       int64 ``[N, H, W, ceil(C / 64)]``      the channels of a pixel; rows of a linear layer are
                                                         ``[..., ceil(K / 64)]``
threshold, flip   int32 ``[O]``, int64 ``[ceil(O/64)]``  bit = (dot >= threshold) xor flip
================= ====================================== =================================================

Signs: sign(0) = sign(-0.0) = +1; a NaN counts as -1, as in :func:`bnnlib.quantizers.sign`. Zero padding
contributes exactly nothing. Results are exact integers for K < 2^24 (float32 holds no larger ones), int16
results are refused where they could overflow.

The kernel variant is the best that CPU and operating system support; ``BNN_KERNEL=scalar`` forces another,
``python -m bnnlib.ops`` lists them. Threads follow ``torch.set_num_threads``; calls release the GIL; in a
forked child they run on one thread. Method: Rastegari et al. 2016 (arXiv 1603.05279), dot = K - 2
popcount(a xor b).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnlib.ops._backend import backend, pack_words, unpack_words, variants
from bnnlib.quantizers import sign

__all__ = [
    "backend", "binary_conv2d", "binary_linear", "conv2d_of_signs", "conv2d_packed", "fold_threshold", "linear_packed",
    "or_pool", "pack_activation", "pack_weight", "pack_words", "prepack", "unpack_activation",
    "unpack_weight", "unpack_words", "variants",
]  # fmt: skip

Out = Literal["float32", "bfloat16", "int16", "bits"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int16": torch.int16, "bits": torch.int64}
_ops = torch.ops.bnn
_library = torch.library.Library("bnn", "DEF")


def _words(count):
    return (count + 63) // 64


def _pair(value) -> list[int]:
    return [value, value] if isinstance(value, (int, torch.SymInt)) else list(value)


# -------------------------------------------------------------------------------------------------- packing


def pack_weight(weight: Tensor) -> Tensor:
    """The signs of a float weight ``[O, ...]`` as stored bits, uint8 ``[O, ceil(K / 8)]``, K the size of
    one row.

    >>> pack_weight(torch.tensor([[1.0, -1.0, 0.0, -2.0, 3.0]]))
    tensor([[21]], dtype=torch.uint8)
    """
    return _ops.pack_weight(weight)


def unpack_weight(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Stored bits back to -1/+1, float32 of ``shape`` ``(O, ...)``. Raises ``ValueError`` if they do not
    fit each other.
    """
    o, k = shape[0], math.prod(shape[1:])
    _check_stored(bits, o, k)
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).contiguous().view(torch.int64)
    return (unpack_words(padded, k).float() * 2 - 1).reshape(tuple(shape))


def pack_activation(x: Tensor) -> Tensor:
    """The signs of ``x`` as words: ``[N, C, H, W]`` (any strides) to int64 ``[N, H, W, ceil(C / 64)]``,
    ``[M, K]`` to ``[M, ceil(K / 64)]``.
    """
    return _pack_activation(x) if _direct(x) else _ops.pack_activation(x)


def unpack_activation(bits: Tensor, channels: int) -> Tensor:
    """Words back to -1/+1, float32: ``[N, H, W, words]`` to ``[N, C, H, W]`` (channels_last), ``[M,
    words]`` to ``[M, K]``.
    """
    if bits.dtype != torch.int64 or bits.dim() not in (2, 4) or bits.shape[-1] != _words(channels):
        raise ValueError(
            f"packed activations of {channels} channels are int64 [..., {_words(channels)}], "
            f"got {_describe(bits)}"
        )
    x = unpack_words(bits, channels).float() * 2 - 1
    return x.permute(0, 3, 1, 2) if bits.dim() == 4 else x


def prepack(bits: Tensor, shape: Sequence[int], groups: int = 1) -> Tensor:
    """Stored weight bits to the layout of the kernel variant in use. ``shape`` is the float weight's, ``(O,
    C/groups, kh, kw)`` or ``(O, K)``.

    Cheap beside one call on a real image, and worth doing once for each layer; the result is not portable
    between variants.
    """
    return _ops.prepack(bits, _four(shape), groups)


def _four(shape: Sequence[int]) -> list[int]:
    shape = list(shape)
    if len(shape) == 2:
        return [*shape, 1, 1]
    if len(shape) != 4:
        raise ValueError(f"a weight has shape (O, K) or (O, C/groups, kh, kw), got {tuple(shape)}")
    return shape


def _describe(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}"


def _check_stored(bits: Tensor, o: int, k: int) -> None:
    if bits.dtype != torch.uint8 or list(bits.shape) != [o, -(-k // 8)]:
        raise ValueError(
            f"stored bits of {o} rows of {k} weights are uint8 [{o}, {-(-k // 8)}], got {_describe(bits)}"
        )


def _float32(x: Tensor) -> Tensor:
    if x.dtype == torch.float32:
        return x
    if x.is_complex():
        raise TypeError(f"complex numbers have no sign: got {x.dtype}")
    if x.dtype in (torch.bfloat16, torch.float16) or not x.is_floating_point():
        return x.float()
    return sign(x).float()  # what is too small for float32 keeps its sign


def _pack_rows(x: Tensor) -> Tensor:
    m, k = x.shape
    x = _float32(x.detach())
    out = torch.empty(m, _words(k), dtype=torch.int64)
    backend().pack(
        x.as_strided((1, k, 1, m), (0, x.stride(1), 0, x.stride(0)), x.storage_offset()), out[None, None]
    )
    return out


def _pack_images(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    out = torch.empty(n, h, w, _words(c), dtype=torch.int64)
    pixels = x.detach().permute(0, 2, 3, 1)
    if x.dtype == torch.bfloat16 and pixels.is_contiguous() and backend().compiled:
        backend().pack(pixels, out)
    else:
        backend().pack(_float32(x.detach()), out)
    return out


def _pack_activation(x: Tensor) -> Tensor:
    if x.dim() not in (2, 4) or 0 in x.shape[1:]:
        raise ValueError(
            "pack_activation takes [N, C, H, W] or [M, K] with no empty side but the first, "
            f"got {list(x.shape)}"
        )
    return _pack_images(x) if x.dim() == 4 else _pack_rows(x)


def _pack_activation_fake(x: Tensor) -> Tensor:
    if x.dim() == 4:
        n, c, h, w = x.shape
        return x.new_empty((n, h, w, _words(c)), dtype=torch.int64)
    return x.new_empty((x.shape[0], _words(x.shape[1])), dtype=torch.int64)


def _pack_weight(weight: Tensor) -> Tensor:
    if weight.dim() < 2 or 0 in weight.shape:
        raise ValueError(
            "pack_weight takes a weight [O, ...] of at least two dimensions, none empty, "
            f"got {list(weight.shape)}"
        )
    rows = weight.detach().reshape(weight.shape[0], -1)
    return (
        _pack_rows(rows)
        .view(torch.uint8)[:, : (rows.shape[1] + 7) // 8]
        .clone(memory_format=torch.contiguous_format)
    )


def _pack_weight_fake(weight: Tensor) -> Tensor:
    return weight.new_empty((weight.shape[0], (math.prod(weight.shape[1:]) + 7) // 8), dtype=torch.uint8)


def _weight_geometry(shape: Sequence[int], groups: int) -> list[int]:
    o, cg, kh, kw = shape
    return [1, kh, kw, cg * groups, o, kh, kw, 1, 1, 0, 0, 1, 1, groups]


def _prepack(bits: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    geometry = _weight_geometry(shape, groups)
    _check_stored(bits, shape[0], math.prod(shape[1:]))
    out = torch.empty(backend().blob_bytes(geometry), dtype=torch.uint8)
    backend().prepack(geometry, bits.contiguous(), out)
    return out


def _prepack_fake(bits: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    return bits.new_empty((backend().blob_bytes(_weight_geometry([int(s) for s in shape], int(groups))),))


# -------------------------------------------------------------------------------------- float in, float out


def binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``F.linear(sign(x), sign(weight))``: ``[..., K]`` and ``[O, K]`` to ``[..., O]``, of the dtype of
    ``x``.

    The gradient is the clipped straight-through estimator's: that of ``F.linear`` at the signs, where
    ``abs(.) <= 1``, else 0.
    """
    return _ops.binary_linear(x, weight)


def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``F.conv2d(sign(x), sign(weight), None, stride, padding, dilation, groups)``, of the dtype and memory
    format of ``x``.

    ``x`` is ``[N, C, H, W]`` with any strides, ``weight`` ``[O, C/groups, kh, kw]``. Padding adds
    zeros, which contribute nothing.
    The gradient is the clipped straight-through estimator's.
    """
    return _ops.binary_conv2d(x, weight, _pair(stride), _pair(padding), _pair(dilation), groups)


def conv2d_of_signs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    dropout: float = 0.0,
) -> Tensor:
    """``F.conv2d(sign(x), weight, bias, stride, padding, dilation, groups)`` where the weights of an output channel
    differ in sign alone (not checked): what a network in training multiplies once its weights are binarised. After
    a dropout of that share, ``x`` holds -1/(1 - dropout), 0 and 1/(1 - dropout) and is multiplied as it is.
    On a CPU it counts bits and rounds once; the gradients are ``F.conv2d``'s, that of ``sign(x)`` for ``x``, and so is
    everything in float64 or where the kernels are not compiled.

    Under autocast it works as ``F.conv2d`` does, in the type asked for. In bfloat16, on a CPU with AVX-512 (and no
    AMX, which is faster still), with stride 1, dilation 1 and one group, the gradients are looked up in tables of the
    sums of six values: less time than a multiplication, and nearer. The sums are of integers: 192 values at a time are
    rounded to multiples of a power of two, so that 16 bits hold their sum whatever the signs are.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    geometry = _pair(stride), _pair(padding), _pair(dilation), groups
    return _ops.conv2d_of_signs(x, weight, bias, *geometry, dropout, dtype)[0]


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _output_size(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"binary_linear needs x [..., K] and weight [O, K], got {list(x.shape)} and {list(weight.shape)}"
        )
    y = _linear_packed(_float32(x.detach()), _pack_weight(weight), weight.shape)
    return y if y.dtype == x.dtype or not x.is_floating_point() else y.to(x.dtype)


def _result_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.float32


def _binary_linear_fake(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=_result_dtype(x))


def _binary_conv2d(x, weight, stride, padding, dilation, groups) -> Tensor:
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            "binary_conv2d needs x [N, C, H, W] and weight [O, C/groups, kh, kw], "
            f"got {list(x.shape)} and {list(weight.shape)}"
        )
    y = _conv2d_packed(
        _float32(x.detach()), _pack_weight(weight), weight.shape, stride, padding, dilation, groups
    )
    return y if y.dtype == x.dtype or not x.is_floating_point() else y.to(x.dtype)


def _binary_conv2d_fake(x, weight, stride, padding, dilation, groups) -> Tensor:
    n, _, h, w = x.shape
    o, _, kh, kw = weight.shape
    oh = _output_size(h, kh, stride[0], padding[0], dilation[0])
    ow = _output_size(w, kw, stride[1], padding[1], dilation[1])
    y = x.new_empty((n, o, oh, ow), dtype=_result_dtype(x))
    return y.to(memory_format=torch.channels_last) if _channels_last(x) else y


def _conv2d_of_signs(x, weight, bias, stride, padding, dilation, groups, dropout, dtype) -> tuple[Tensor, Tensor]:
    """And the bits of x for the gradients: ``[1, N, H, W, words]``, with dropout those of -x behind them; none where
    nothing is packed."""
    rest = stride, padding, dilation, groups
    if dtype == torch.float64 or not backend().compiled:
        values = x if dropout else sign(x)
        added = None if bias is None else bias.to(dtype)
        return F.conv2d(values.to(dtype), weight.to(dtype), added, *rest), x.new_empty((0,), dtype=torch.int64)
    x, scale, stored, planes = x.detach(), _magnitude(weight), _pack_weight(weight), not _channels_last(x)
    bias = None if bias is None else _float32(bias.detach())
    if not dropout:
        bits = _pack_images(x)
        out = "bfloat16" if dtype == torch.bfloat16 and not planes else "float32"
        y = _convolved(bits, stored, weight.shape, *rest, planes and out == "float32", scale, bias, out=out)
        return y.to(dtype), bits[None]
    # zeros: half the difference of the signs of x and those of -x
    bits = torch.stack([_pack_images(x), _pack_images(-x)])
    plus, minus = (_convolved(b, stored, weight.shape, *rest, planes) for b in bits)
    plus.sub_(minus).mul_((scale / (2 - 2 * dropout))[:, None, None])
    return (plus if bias is None else plus.add_(bias[:, None, None])).to(dtype), bits


def _conv2d_of_signs_fake(x, weight, bias, stride, padding, dilation, groups, dropout, dtype) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    packed = [0] if dtype == torch.float64 or not backend().compiled else [2 if dropout else 1, n, h, w, _words(c)]
    y = _binary_conv2d_fake(x, weight, stride, padding, dilation, groups).to(dtype)
    return y, x.new_empty(packed, dtype=torch.int64)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.rest = inputs[2:]


def _keep_bits(ctx, inputs, output):
    x, weight, bias, *ctx.rest, _ = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.bias_dtype = None if bias is None else bias.dtype


def _clip(gradient: Tensor | None, at: Tensor) -> Tensor | None:
    return None if gradient is None else torch.where(at.abs() <= 1, gradient, gradient.new_zeros(()))


def _binary_linear_backward(ctx, gradient):
    x, weight = ctx.saved_tensors
    gx = gw = None
    if ctx.needs_input_grad[0]:
        gx = _clip(gradient @ sign(weight).to(gradient.dtype), x)
    if ctx.needs_input_grad[1]:
        rows, signs = gradient.reshape(-1, gradient.shape[-1]), sign(x).reshape(-1, x.shape[-1])
        gw = _clip((rows.t() @ signs).to(weight.dtype), weight)
    return gx, gw


def _conv2d_gradients(gradient, x, weight, stride, padding, dilation, groups, needed):
    gx, gw, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight.to(x.dtype), None, stride, padding, dilation, False, [0, 0], groups, [*needed, False]
    )
    return gx, None if gw is None else gw.to(weight.dtype)


def _binary_conv2d_backward(ctx, gradient):
    x, weight = ctx.saved_tensors
    gx, gw = _conv2d_gradients(gradient, sign(x), sign(weight), *ctx.rest, ctx.needs_input_grad[:2])
    return _clip(gx, x), _clip(gw, weight), None, None, None, None


def _conv2d_of_signs_backward(ctx, gradient, _):
    needed = ctx.needs_input_grad[:2]
    found = _ops.conv2d_of_signs_backward(gradient, *ctx.saved_tensors, *ctx.rest, needed)
    gx, gw = (g if wanted else None for g, wanted in zip(found, needed, strict=True))
    gb = gradient.sum((0, 2, 3), dtype=ctx.bias_dtype) if ctx.needs_input_grad[2] else None
    return gx, gw, gb, None, None, None, None, None, None


def _gradients_of_signs(
    gradient, x, weight, bits, stride, padding, dilation, groups, dropout, needed
) -> tuple[Tensor, Tensor]:
    """Looked up where the kernels can (``kernels/lookup.h``); an empty tensor for one that is not needed."""
    (n, c, h, w), (o, _, kh, kw) = x.shape, weight.shape
    plain = [*stride, *dilation, groups] == [1, 1, 1, 1, 1]
    if not (plain and gradient.dtype == torch.bfloat16 and backend().gradients and len(bits)):
        values = (x if dropout else sign(x)).to(gradient.dtype)
        gx, gw = _conv2d_gradients(gradient, values, weight, stride, padding, dilation, groups, needed)
    else:
        geometry = [n, h, w, c, o, kh, kw, 1, 1, *padding, 1, 1, 1]
        gx, gw, dy = None, None, gradient.permute(0, 2, 3, 1).contiguous()
        if needed[0]:
            gx = torch.empty(n, h, w, c, dtype=gradient.dtype)
            backend().gradient_of_input(geometry, dy, _pack_images(weight), _magnitude(weight), gx)
            gx = gx.permute(0, 3, 1, 2)
        if needed[1]:
            gw = torch.empty(o, kh, kw, c)
            backend().gradient_of_weight(geometry, dy, bits[0], gw)
            if dropout:  # as in the forward pass
                minus = torch.empty_like(gw)
                backend().gradient_of_weight(geometry, dy, bits[1], minus)
                gw.sub_(minus).div_(2 - 2 * dropout)
            gw = gw.permute(0, 3, 1, 2)
    return _in_form_of(gx, x), _in_form_of(gw, weight)


def _gradients_of_signs_fake(gradient, x, weight, bits, stride, padding, dilation, groups, dropout, needed):
    gx, gw = (t.new_empty(t.shape) if wanted else None for t, wanted in zip((x, weight), needed, strict=True))
    return _in_form_of(gx, x), _in_form_of(gw, weight)


def _magnitude(weight: Tensor) -> Tensor:
    """What the weights of an output channel have in common, float32 ``[O]``."""
    return weight.detach().flatten(1)[:, 0].abs().float()


def _in_form_of(gradient: Tensor | None, t: Tensor) -> Tensor:
    if gradient is None:
        return t.new_empty((0,))
    form = torch.channels_last if _channels_last(t) else torch.contiguous_format
    return gradient.to(t.dtype).contiguous(memory_format=form)


# -------------------------------------------------------------------------------- prepacked, with epilogues


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
    ``weight``: prepacked,
    or stored bits, prepacked here on every call. With dot the integer result:

    * ``out="float32"``: ``dot * scale + bias + residual``, each optional, each rounded on its own as
      PyTorch does; ``[N, O, H', W']``
      in the memory format of a float ``x``, channels_last for a packed one. ``residual`` has the shape of
      the result, ``scale`` and
      ``bias`` are ``[O]``.
    * ``out="bfloat16"``: ``dot * scale + bias`` of ``float32``, rounded once more; channels_last.
    * ``out="int16"``: dot, channels_last; needs K <= 32767.
    * ``out="bits"``: ``(maxpool(dot) >= threshold) ^ flip`` as words
      ``[N, H'/pool, W'/pool, ceil(O / 64)]``; the max-pool has
      windows of ``pool`` x ``pool`` side by side. Without a threshold this is ``sign(dot)``. See
      :func:`fold_threshold`.

    Raises ``ValueError`` for shapes, dtypes or sizes that do not fit, naming them.
    """
    call = _conv2d_packed if _direct(x) else _ops.conv2d_packed
    return call(
        x,
        weight,
        list(shape),
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        groups,
        scale,
        bias,
        residual,
        threshold,
        flip,
        pool,
        out,
    )


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
    call = _linear_packed if _direct(x) else _ops.linear_packed
    return call(x, weight, list(shape), scale, bias, residual, threshold, flip, out)


def _direct(x: Tensor) -> bool:
    """Whether nobody watches: plain tensors, nothing traced. Then the implementation is called without
    PyTorch's dispatcher, which costs 20 us a call for an operator with this many arguments, a third of a
    small layer.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.is_cpu
        and not torch._C._len_torch_dispatch_stack()
    )


def _vector(t: Tensor | None, name: str, dtype: torch.dtype, size: int) -> Tensor | None:
    if t is None:
        return None
    if t.dtype != dtype or t.dim() != 1 or t.shape[0] != size:
        raise ValueError(f"{name} must be {str(dtype).removeprefix('torch.')} [{size}], got {_describe(t)}")
    return t.contiguous()


def _epilogue(o: int, scale, bias, residual, threshold, flip, pool: int, out: str):
    if out not in _DTYPES:
        raise ValueError(f'out must be one of {", ".join(_DTYPES)}, got "{out}"')
    if out != "bits" and (threshold is not None or flip is not None or pool != 1):
        raise ValueError(f'threshold, flip and pool need out="bits", got "{out}"')
    if out != "float32" and residual is not None:
        raise ValueError(f'a residual needs out="float32", got "{out}"')
    if out not in ("float32", "bfloat16") and (scale is not None or bias is not None):
        raise ValueError(f'scale and bias need out="float32" or "bfloat16", got "{out}"')
    scale, bias = _vector(scale, "scale", torch.float32, o), _vector(bias, "bias", torch.float32, o)
    return (
        scale,
        bias,
        _vector(threshold, "threshold", torch.int32, o),
        _vector(flip, "flip", torch.int64, _words(o)),
    )


def _blob(weight: Tensor, shape: Sequence[int], groups: int) -> Tensor:
    if weight.dtype != torch.uint8 or weight.dim() not in (1, 2):
        raise ValueError(
            "weight must be prepacked (uint8 [bytes]) or stored bits (uint8 [O, ceil(K / 8)]), "
            f"got {_describe(weight)}"
        )
    return weight.contiguous() if weight.dim() == 1 else _prepack(weight, shape, groups)


def _conv2d_packed(
    x, weight, shape, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
    scale=None, bias=None, residual=None, threshold=None, flip=None, pool=1, out="float32",
) -> Tensor:  # fmt: skip
    if len(shape) != 4 or x.dim() != 4:
        raise ValueError(
            "a convolution needs 4-dimensional x and weight, "
            f"got x {list(x.shape)} and weight shape {list(shape)}"
        )
    o, cg, kh, kw = shape
    c = cg * groups
    packed = x.dtype == torch.int64
    if x.shape[3 if packed else 1] != (_words(c) if packed else c):
        expected = f"[N, H, W, {_words(c)}] packed" if packed else f"[N, {c}, H, W]"
        raise ValueError(
            f"a weight of shape {list(shape)} in {groups} group(s) needs x {expected}, got {_describe(x)}"
        )
    channels_first = not packed and out == "float32" and not _channels_last(x)
    bits = x.contiguous() if packed else _pack_images(x)
    return _convolved(
        bits, weight, shape, stride, padding, dilation, groups, channels_first,
        scale, bias, residual, threshold, flip, pool, out,
    )  # fmt: skip


def _convolved(
    bits, weight, shape, stride, padding, dilation, groups, channels_first,
    scale=None, bias=None, residual=None, threshold=None, flip=None, pool=1, out="float32",
) -> Tensor:  # fmt: skip
    (o, cg, kh, kw), (n, h, w, _) = shape, bits.shape
    c = cg * groups
    geometry = [n, h, w, c, o, kh, kw, *stride, *padding, *dilation, groups]
    scale, bias, threshold, flip = _epilogue(o, scale, bias, residual, threshold, flip, pool, out)
    blob = _blob(weight, shape, groups)
    if min(stride) < 1 or pool < 1:
        raise ValueError(f"stride and pool must be 1 or more, got {list(stride)} and {pool}")
    oh = max(0, _output_size(h, kh, stride[0], padding[0], dilation[0]) // pool)
    ow = max(0, _output_size(w, kw, stride[1], padding[1], dilation[1]) // pool)
    last = _words(o) if out == "bits" else o
    y = torch.empty((n, o, oh, ow) if channels_first else (n, oh, ow, last), dtype=_DTYPES[out])
    if residual is not None:
        if residual.dtype != torch.float32 or list(residual.shape) != [n, o, oh, ow]:
            raise ValueError(f"residual must be float32 {[n, o, oh, ow]}, got {_describe(residual)}")
        residual = residual.contiguous() if channels_first else residual.permute(0, 2, 3, 1).contiguous()
    backend().conv2d(geometry, bits, blob, y, channels_first, scale, bias, residual, threshold, flip, pool)
    return y if channels_first or out == "bits" else y.permute(0, 3, 1, 2)


def _conv2d_packed_fake(
    x, weight, shape, stride, padding, dilation, groups, scale, bias, residual, threshold, flip, pool, out
) -> Tensor:  # fmt: skip
    o, _, kh, kw = shape
    packed = x.dtype == torch.int64
    n = x.shape[0]
    h, w = (x.shape[1], x.shape[2]) if packed else (x.shape[2], x.shape[3])
    oh = _output_size(h, kh, stride[0], padding[0], dilation[0]) // pool
    ow = _output_size(w, kw, stride[1], padding[1], dilation[1]) // pool
    if out == "bits":
        return x.new_empty((n, oh, ow, _words(o)), dtype=torch.int64)
    if not packed and out == "float32" and not _channels_last(x):
        return x.new_empty((n, o, oh, ow), dtype=torch.float32)
    return x.new_empty((n, oh, ow, o), dtype=_DTYPES[out]).permute(0, 3, 1, 2)


def _linear_packed(
    x, weight, shape, scale=None, bias=None, residual=None, threshold=None, flip=None, out="float32"
) -> Tensor:  # fmt: skip
    if len(shape) != 2 or x.dim() < 1:
        raise ValueError(f"a linear layer needs a weight of shape (O, K), got {list(shape)}")
    o, k = shape
    packed = x.dtype == torch.int64
    if x.shape[-1] != (_words(k) if packed else k):
        raise ValueError(
            f"a weight of shape {list(shape)} needs x [..., {_words(k) if packed else k}], got {_describe(x)}"
        )
    rows = x.reshape(-1, x.shape[-1])
    bits = rows.contiguous() if packed else _pack_rows(rows)
    m = bits.shape[0]
    scale, bias, threshold, flip = _epilogue(o, scale, bias, residual, threshold, flip, 1, out)
    blob = _blob(weight, [o, k, 1, 1], 1)
    last = _words(o) if out == "bits" else o
    y = torch.empty((m, last), dtype=_DTYPES[out])
    if residual is not None:
        if residual.dtype != torch.float32 or list(residual.shape) != [*x.shape[:-1], o]:
            raise ValueError(f"residual must be float32 {[*x.shape[:-1], o]}, got {_describe(residual)}")
        residual = residual.reshape(1, 1, m, o).contiguous()
    # The rows of a linear layer are the pixels of one line of a 1 x 1 convolution.
    geometry = [1, 1, m, k, o, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    if m:
        backend().conv2d(
            geometry, bits[None, None], blob, y[None, None], False, scale, bias, residual, threshold, flip, 1
        )
    return y.view(*x.shape[:-1], last)


def _linear_packed_fake(x, weight, shape, scale, bias, residual, threshold, flip, out) -> Tensor:
    o = shape[0]
    return x.new_empty((*x.shape[:-1], _words(o) if out == "bits" else o), dtype=_DTYPES[out])


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
    call = _or_pool if _direct(bits) else _ops.or_pool
    return call(bits, channels, window, window if stride is None else stride, padding, flip)


def _or_pool(
    bits: Tensor, channels: int, window: int, stride: int, padding: int, flip: Tensor | None
) -> Tensor:
    if bits.dtype != torch.int64 or bits.dim() != 4 or bits.shape[-1] != _words(channels):
        raise ValueError(
            f"packed activations of {channels} channels are int64 [N, H, W, {_words(channels)}], "
            f"got {_describe(bits)}"
        )
    if window < 1 or stride < 1 or padding < 0 or 2 * padding > window:
        raise ValueError(f"cannot pool with window {window}, stride {stride}, padding {padding}")
    n, h, w, words = bits.shape
    oh, ow = _output_size(h, window, stride, padding, 1), _output_size(w, window, stride, padding, 1)
    if oh < 1 or ow < 1:
        raise ValueError(
            f"the window {window} is larger than the padded input, {h} x {w} with padding {padding}"
        )
    y = torch.empty((n, oh, ow, words), dtype=torch.int64)
    backend().or_pool(
        [n, h, w, channels, window, stride, padding],
        bits.contiguous(),
        _vector(flip, "flip", torch.int64, words),
        y,
    )
    return y


def _or_pool_fake(bits, channels, window, stride, padding, flip) -> Tensor:
    n, h, w, words = bits.shape
    return bits.new_empty(
        (n, _output_size(h, window, stride, padding, 1), _output_size(w, window, stride, padding, 1), words)
    )


def fold_threshold(expression: Callable[[Tensor], Tensor], channels: int, k: int) -> tuple[Tensor, Tensor]:
    """Whatever follows a binary layer, up to the next sign, as integers: (threshold int32 ``[O]``, flip
    int64 ``[ceil(O / 64)]``).

    ``expression`` maps float32 ``[V, O]`` to ``[V, O]`` (bias, scale, batch norm, PReLU, ... in
    evaluation mode, column o with the
    parameters of channel o). It is evaluated on every value -k..k that the layer can give, so the result is
    exact whatever its rounding: ``sign(expression(dot)) == ((dot >= threshold) ^ flip)``. Raises
    ``ValueError`` if a channel is not monotone.
    """
    dots = torch.arange(-k, k + 1, dtype=torch.float32)
    with torch.no_grad():
        bits = expression(dots[:, None].expand(-1, channels).contiguous()) >= 0
    if tuple(bits.shape) != (len(dots), channels):
        raise ValueError(f"the expression gave {list(bits.shape)} for [{len(dots)}, {channels}]")
    falls = bits[0] & ~bits[-1]
    rising = bits ^ falls
    if (rising[1:] < rising[:-1]).any():
        channel = int((rising[1:] < rising[:-1]).any(0).nonzero()[0])
        raise ValueError(
            f"channel {channel} is not monotone in the layer's result, so no threshold describes it"
        )
    threshold = ((~rising).sum(0) - k).to(
        torch.int32
    )  # the first dot with a rising bit; k + 1 where there is none
    return threshold, pack_words(falls)


# --------------------------------------------------------------------------------------------- registration

# No defaults here: those are the functions' above.
_EPILOGUE = "Tensor? scale, Tensor? bias, Tensor? residual, Tensor? threshold, Tensor? flip"
_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
for _schema, _cpu, _fake in [
    ("pack_activation(Tensor x) -> Tensor", _pack_activation, _pack_activation_fake),
    ("pack_weight(Tensor weight) -> Tensor", _pack_weight, _pack_weight_fake),
    ("prepack(Tensor bits, SymInt[] shape, SymInt groups) -> Tensor", _prepack, _prepack_fake),
    ("binary_linear(Tensor x, Tensor weight) -> Tensor", _binary_linear, _binary_linear_fake),
    (f"binary_conv2d(Tensor x, Tensor weight, {_GEOMETRY}) -> Tensor", _binary_conv2d, _binary_conv2d_fake),
    (f"conv2d_of_signs(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, float dropout, ScalarType dtype)"
     " -> (Tensor, Tensor)",
     _conv2d_of_signs, _conv2d_of_signs_fake),
    (f"conv2d_of_signs_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bits, {_GEOMETRY}, float dropout,"
     " bool[2] needed) -> (Tensor, Tensor)",
     _gradients_of_signs, _gradients_of_signs_fake),
    (f"conv2d_packed(Tensor x, Tensor weight, SymInt[] shape, {_GEOMETRY}, {_EPILOGUE}, SymInt pool, str out)"
     " -> Tensor",
     _conv2d_packed, _conv2d_packed_fake),
    (f"linear_packed(Tensor x, Tensor weight, SymInt[] shape, {_EPILOGUE}, str out) -> Tensor",
     _linear_packed, _linear_packed_fake),
    ("or_pool(Tensor bits, SymInt channels, SymInt window, SymInt stride, SymInt padding, Tensor? flip)"
     " -> Tensor",
     _or_pool, _or_pool_fake),
]:  # fmt: skip
    _library.define(_schema)
    _name = _schema.partition("(")[0]
    _library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"bnn::{_name}", _fake, lib=_library)
torch.library.register_autograd(
    "bnn::binary_linear", _binary_linear_backward, setup_context=_keep, lib=_library
)
torch.library.register_autograd(
    "bnn::binary_conv2d", _binary_conv2d_backward, setup_context=_keep, lib=_library
)
torch.library.register_autograd(
    "bnn::conv2d_of_signs", _conv2d_of_signs_backward, setup_context=_keep_bits, lib=_library
)
