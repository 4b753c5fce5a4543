"""Float tensors in, float tensors out, with gradients: what a network trains through."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnlib.ops import _backend, precision
from bnnlib.ops._common import (
    GEOMETRY,
    OPS,
    channels_last,
    float32,
    output_size,
    pair,
    real_tensors,
    register,
    words,
)
from bnnlib.ops._packed import conv2d_now, convolved, linear_now
from bnnlib.ops._packing import pack_images, pack_weight_now
from bnnlib.quantizers import binarize, sign


def binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``F.linear(sign(x), sign(weight))``: ``[..., K]`` and ``[O, K]`` to ``[..., O]``, of the dtype of
    ``x``.

    The gradient is the clipped straight-through estimator's: that of ``F.linear`` at the signs, where
    ``abs(.) <= 1``, else 0.
    """
    real_tensors("binary_linear", x=x, weight=weight)
    return OPS.binary_linear(x, weight)


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
    zeros, which contribute nothing. There is no bias: add one to the result. Both operands are floating-point, as a layer's are.
    The gradient is the clipped straight-through estimator's.
    """
    real_tensors("binary_conv2d", x=x, weight=weight)
    return OPS.binary_conv2d(x, weight, pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation"), groups)


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
    everything in float64, on a GPU or where the kernels are not compiled.

    Under autocast it works as ``F.conv2d`` does, in the type asked for. In bfloat16, on a CPU with AMX, AVX-512 or AVX2,
    with dilation 1 and one group, the kernels compute the gradients from the packed signs. With AMX, where the stride
    must be 1, they multiply signs, and for the input weights rounded to bfloat16, by the gradient; sums are of float32, and numbers
    too small for its normal range count as 0. Otherwise they look sums of a few values up in tables, which takes less
    time than a multiplication. These sums are of integers: 128 or 192 values at a time are rounded to multiples of a
    power of two, so that no sum of theirs overflows, whatever the signs are. On normally distributed gradients that is
    off by less than bfloat16's own rounding with AVX-512, by up to a third more than it with AVX2.
    """
    real_tensors("conv2d_of_signs", x=x, weight=weight)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout!r}: it must lie in [0, 1)")
    kind = x.device.type
    wanted = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(kind) if wanted else x.dtype
    geometry = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation"), groups
    return OPS.conv2d_of_signs(x, weight, bias, *geometry, dropout, dtype)[0]


def _binary_linear(x: Tensor, weight: Tensor) -> Tensor:
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"binary_linear needs x [..., K] and weight [O, K], got {list(x.shape)} and {list(weight.shape)}"
        )
    y = linear_now(float32(x.detach()), pack_weight_now(weight), weight.shape)
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
    y = conv2d_now(
        float32(x.detach()), pack_weight_now(weight), weight.shape, stride, padding, dilation, groups
    )
    return y if y.dtype == x.dtype or not x.is_floating_point() else y.to(x.dtype)


def _binary_conv2d_fake(x, weight, stride, padding, dilation, groups) -> Tensor:
    n, _, h, w = x.shape
    o, _, kh, kw = weight.shape
    oh = output_size(h, kh, stride[0], padding[0], dilation[0])
    ow = output_size(w, kw, stride[1], padding[1], dilation[1])
    y = x.new_empty((n, o, oh, ow), dtype=_result_dtype(x))
    return y.to(memory_format=torch.channels_last) if channels_last(x) else y


def _conv2d_of_signs(x, weight, bias, stride, padding, dilation, groups, dropout, dtype) -> tuple[Tensor, Tensor]:
    """And the bits of x for the gradients: ``[1, N, H, W, words]``, with dropout those of -x behind them; none where
    nothing is packed."""
    rest = stride, padding, dilation, groups
    if dtype == torch.float64 or not _counts(x):
        wide = precision.float32_where_slow((x if dropout else sign(x)).to(dtype))
        added = None if bias is None else bias.to(wide.dtype)
        return F.conv2d(wide, weight.to(wide.dtype), added, *rest).to(dtype), x.new_empty((0,), dtype=torch.int64)
    x, scale, stored, planes = x.detach(), _magnitude(weight), pack_weight_now(weight), not channels_last(x)
    bias = None if bias is None else float32(bias.detach())
    if not dropout:
        bits = pack_images(x)
        out = "bfloat16" if dtype == torch.bfloat16 and not planes else "float32"
        y = convolved(bits, stored, weight.shape, *rest, planes and out == "float32", scale, bias, out=out)
        return y.to(dtype), bits[None]
    # zeros: half the difference of the signs of x and those of -x
    bits = torch.stack([pack_images(x), pack_images(-x)])
    plus, minus = (convolved(b, stored, weight.shape, *rest, planes) for b in bits)
    plus.sub_(minus).mul_((scale / (2 - 2 * dropout))[:, None, None])
    return (plus if bias is None else plus.add_(bias[:, None, None])).to(dtype), bits


def _conv2d_of_signs_fake(x, weight, bias, stride, padding, dilation, groups, dropout, dtype) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    packed = [0] if dtype == torch.float64 or not _counts(x) else [2 if dropout else 1, n, h, w, words(c)]
    y = _binary_conv2d_fake(x, weight, stride, padding, dilation, groups).to(dtype)
    return y, x.new_empty(packed, dtype=torch.int64)


def _counts(x: Tensor) -> bool:
    """Whether training counts bits where ``x`` lies."""
    return x.device.type == "cpu" and _backend.backend().compiled


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
    gradient = precision.float32_where_slow(gradient)
    if ctx.needs_input_grad[0]:
        gx = _clip((gradient @ binarize(weight).to(gradient.dtype)).to(x.dtype), x)
    if ctx.needs_input_grad[1]:
        rows, signs = gradient.reshape(-1, gradient.shape[-1]), binarize(x).reshape(-1, x.shape[-1]).to(gradient.dtype)
        gw = _clip((rows.t() @ signs).to(weight.dtype), weight)
    return gx, gw


def _conv2d_gradients(gradient, x, weight, stride, padding, dilation, groups, needed):
    dtype, gradient, x = x.dtype, precision.float32_where_slow(gradient), precision.float32_where_slow(x)
    gx, gw, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight.to(x.dtype), None, stride, padding, dilation, False, [0, 0], groups, [*needed, False]
    )
    return None if gx is None else gx.to(dtype), None if gw is None else gw.to(weight.dtype)


def _binary_conv2d_backward(ctx, gradient):
    x, weight = ctx.saved_tensors
    gx, gw = _conv2d_gradients(gradient, binarize(x), binarize(weight), *ctx.rest, ctx.needs_input_grad[:2])
    return _clip(gx, x), _clip(gw, weight), None, None, None, None


def _conv2d_of_signs_backward(ctx, gradient, _):
    needed = ctx.needs_input_grad[:3]
    if torch.is_grad_enabled():  # create_graph=True: by operations that PyTorch can differentiate again
        (x, weight, _), (*geometry, dropout) = ctx.saved_tensors, ctx.rest
        values = (x if dropout else binarize(x, "identity")).to(gradient.dtype)
        found = *_conv2d_gradients(gradient, values, weight, *geometry, needed[:2]), gradient.sum((0, 2, 3), dtype=ctx.bias_dtype)
    else:
        found = OPS.conv2d_of_signs_backward(gradient, *ctx.saved_tensors, *ctx.rest, needed)
    gx, gw, gb = (g if wanted else None for g, wanted in zip(found, needed, strict=True))
    return gx, gw, None if gb is None else gb.to(ctx.bias_dtype), None, None, None, None, None, None


def _gradients_of_signs(
    gradient, x, weight, bits, stride, padding, dilation, groups, dropout, needed
) -> tuple[Tensor, Tensor, Tensor]:
    """By the kernels where they can (``kernels/gradients/gradient.h``); an empty tensor for one that is not needed."""
    (n, c, h, w), (o, _, kh, kw) = x.shape, weight.shape
    geometry, backend = [n, h, w, c, o, kh, kw, *stride, *padding, *dilation, groups], _backend.backend()
    if not (gradient.dtype == torch.bfloat16 and len(bits) and backend.gradients and backend.computes_gradients(geometry)):
        values = (x if dropout else sign(x)).to(gradient.dtype)
        gx, gw = _conv2d_gradients(gradient, values, weight, stride, padding, dilation, groups, needed[:2])
    else:
        gx, gw, dy = None, None, gradient.permute(0, 2, 3, 1).contiguous()
        if needed[0]:
            gx = dy.new_empty(n, h, w, c)
            backend.gradient_of_input(geometry, dy, pack_images(weight), _magnitude(weight), gx)
            gx = gx.permute(0, 3, 1, 2)
        if needed[1]:
            gw = dy.new_empty(o, kh, kw, c, dtype=torch.float32)
            backend.gradient_of_weight(geometry, dy, bits[0], gw)
            if dropout:  # as in the forward pass
                minus = torch.empty_like(gw)
                backend.gradient_of_weight(geometry, dy, bits[1], minus)
                gw.sub_(minus).div_(2 - 2 * dropout)
            gw = gw.permute(0, 3, 1, 2)
    gb = _sum_of_channels(gradient) if needed[2] else gradient.new_empty((0,))
    return _in_form_of(gx, x), _in_form_of(gw, weight), gb


def _gradients_of_signs_fake(gradient, x, weight, bits, stride, padding, dilation, groups, dropout, needed):
    gx, gw = (t.new_empty(t.shape) if wanted else None for t, wanted in zip((x, weight), needed[:2], strict=True))
    gb = _sum_of_channels(gradient[:1]) if needed[2] else gradient.new_empty((0,))
    return _in_form_of(gx, x), _in_form_of(gw, weight), gb


def _sum_of_channels(values: Tensor) -> Tensor:
    """``[N, C, H, W]`` to ``[C]``, added in float32 at least. Some images at a time: PyTorch would first write all values
    in float32 to memory, which takes longer than adding them."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    images = max(1, 2**18 * torch.get_num_threads() // max(1, values[:1].numel()))
    return torch.stack([some.sum((0, 2, 3), dtype=dtype) for some in values.split(images)]).sum(0)


def _magnitude(weight: Tensor) -> Tensor:
    """What the weights of an output channel have in common, float32 ``[O]``."""
    return weight.detach()[:, 0, 0, 0].abs().float()


def _in_form_of(gradient: Tensor | None, t: Tensor) -> Tensor:
    if gradient is None:
        return t.new_empty((0,))
    form = torch.channels_last if channels_last(t) else torch.contiguous_format
    return gradient.to(t.dtype).contiguous(memory_format=form)


register(
    "binary_linear(Tensor x, Tensor weight) -> Tensor",
    _binary_linear,
    _binary_linear_fake,
    _binary_linear_backward,
    _keep,
)
register(
    f"binary_conv2d(Tensor x, Tensor weight, {GEOMETRY}) -> Tensor",
    _binary_conv2d,
    _binary_conv2d_fake,
    _binary_conv2d_backward,
    _keep,
)
register(
    f"conv2d_of_signs(Tensor x, Tensor weight, Tensor? bias, {GEOMETRY}, float dropout, ScalarType dtype)"
    " -> (Tensor, Tensor)",
    _conv2d_of_signs,
    _conv2d_of_signs_fake,
    _conv2d_of_signs_backward,
    _keep_bits,
)
register(
    f"conv2d_of_signs_backward(Tensor gradient, Tensor x, Tensor weight, Tensor bits, {GEOMETRY}, float dropout,"
    " bool[3] needed) -> (Tensor, Tensor, Tensor)",
    _gradients_of_signs,
    _gradients_of_signs_fake,
)
