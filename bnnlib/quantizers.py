"""Binarisation: the sign function, its straight-through estimators, and the scaled sign of weights.

Every 1-bit network in this book goes through the functions of this module, and through no other sign:

* :func:`sign` maps to {-1, +1} and never to 0;
* :func:`binarize` is ``sign`` with a straight-through estimator (STE), for activations and unscaled weights;
* :func:`scaled_sign` is ``alpha * sign(W)`` with ``alpha = mean|W|`` per output channel, with the gradient
  chosen by name: the XNOR-Net paper's formula, the corrected one, and four more.

Sources: Courbariaux et al. 2016 (arXiv 1602.02830) for the STE of the sign, Rastegari et al. 2016 (arXiv
1603.05279) for the scaled sign, Liu et al. 2018 (arXiv 1808.00278) for ApproxSign, Qin et al. 2020
(arXiv 1909.10788) for the error decay estimator, whose temperature is annealed, jiecaoyu/XNOR-Net-PyTorch for the
corrected gradient.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

STE = Literal["identity", "clipped", "approx_sign", "ede", "polynomial", "tanh"]
WeightGradient = Literal["identity", "detached", "paper", "corrected", "s4", "consistent"]

_FIELDS_NAME = {"polynomial": "approx_sign", "tanh": "ede"}  # recipes and records keep the older names


def sign(x: Tensor) -> Tensor:
    """Sign with values in {-1, +1}: ``+1`` where ``x >= 0``, else ``-1``; of the shape and dtype of ``x``.

    ``sign(0) = sign(-0.0) = +1``. A NaN compares false and becomes ``-1``: training stops on a NaN loss
    before that matters.

    >>> sign(torch.tensor([-2.0, -0.0, 0.0, 0.5]))
    tensor([-1.,  1.,  1.,  1.])
    """
    if type(x) not in (Tensor, torch.nn.Parameter) or not x.is_floating_point() or _is_recorded():
        return torch.where(x >= 0, x.new_ones(()), x.new_full((), -1))
    # the same in a tenth of the time on a CPU, where torch.where is slow with numbers
    x = x.detach()
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


def _is_recorded() -> bool:
    """Whether operations are compiled, transformed or exported: these fuse ``torch.where``, or do not take ``out=``."""
    compiled = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return compiled or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def in_transform() -> bool:
    """Whether this code runs below ``torch.func.grad``, ``vmap`` or another transform of functions."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _apply(function: type[torch.autograd.Function], *args):
    """``function`` applied. The transforms of :mod:`torch.func` want its context set up apart from its forward pass, which costs 20 us
    a call: so they get a class of their own."""
    return (function.transformable if in_transform() else function).apply(*args)


def _transformable(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """A class decorator: ``transformable`` is the same function in the form that :mod:`torch.func` takes."""

    class Transformable(torch.autograd.Function):
        generate_vmap_rule = True
        backward = staticmethod(function.backward)

        @staticmethod
        def forward(*args):
            return function.forward(_NoContext(), *args)

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            function.forward(ctx, *inputs)

    function.transformable = Transformable
    return function


class _NoContext:
    """Stands for the context of a forward pass of which nothing is kept."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        pass


def _clipped(grad: Tensor, x: Tensor) -> Tensor:
    """``grad`` where ``abs(x) <= 1``, else 0, in one pass: the derivative of hardtanh, which leaves its bounds
    out, between the next numbers beyond them."""
    beyond = 1 + torch.finfo(x.dtype).eps
    return torch.ops.aten.hardtanh_backward(grad, x, -beyond, beyond)


def surrogate(x: Tensor, ste: STE = "clipped", temperature: float | Tensor = 1.0) -> Tensor:
    """The smooth function whose exact derivative is the backward pass of ``binarize(x, ste)``. Shape and
    dtype of ``x``.

    =============== ================================================== ==========================================
    ``ste``         surrogate f(x)                                     derivative f'(x)
    =============== ================================================== ==========================================
    ``identity``    x                                                  1
    ``clipped``     x where abs(x) <= 1, else sign(x)                  1 where abs(x) <= 1, else 0
    ``approx_sign`` 2x - x abs(x) where abs(x) <= 1, else sign(x)      2 - 2 abs(x) where abs(x) <= 1, else 0
    ``ede``         max(1/t, 1) tanh(t x), t the temperature           max(1/t, 1) t (1 - tanh(t x)^2)
    =============== ================================================== ==========================================

    Recipes call ``approx_sign`` ``polynomial`` and ``ede`` ``tanh``; both names work.

    Used to test the estimators and to draw them; training never evaluates it.
    """
    choose("ste", ste, STE)
    ste = _FIELDS_NAME.get(ste, ste)
    if ste == "identity":
        return x.clone()
    # not torch.clamp: its derivative at -1 and 1 differs between versions
    clipped = torch.where(x.abs() <= 1, x, sign(x))
    if ste == "clipped":
        return clipped
    if ste == "approx_sign":
        return 2 * clipped - clipped * clipped.abs()
    t = torch.as_tensor(temperature, dtype=x.dtype, device=x.device)
    return (1 / t).clamp(min=1) * torch.tanh(t * x)


@_transformable
class _Binarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, ste: str, temperature: Tensor | None, signs: bool) -> Tensor:
        ctx.ste = ste
        ctx.save_for_backward(x, temperature)
        return sign(x) if signs else x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, t = ctx.saved_tensors
        if ctx.ste == "clipped":
            grad = _clipped(grad, x)
        elif ctx.ste == "approx_sign":
            grad = grad * (2 - 2 * x.abs()).clamp(min=0)
        elif ctx.ste == "ede":
            grad = grad * ((1 / t).clamp(min=1) * t * (1 - torch.tanh(t * x).square()))
        return grad, None, None, None


def binarize(x: Tensor, ste: STE = "clipped", temperature: float | Tensor = 1.0, signs: bool = True) -> Tensor:
    """``sign(x)`` forward, the derivative of :func:`surrogate` backward. Any shape; any floating dtype,
    which is kept.

    ``temperature`` is read by ``ste="ede"`` alone. ``signs=False`` leaves the sign to what reads no more than that of
    each number (:func:`bnnlib.ops.conv2d_of_signs`) and gives ``x`` itself, without a copy, with the same backward.
    Raises ``ValueError`` for an unknown ``ste``.

    >>> x = torch.tensor([-1.5, -0.25, 0.0, 2.0], requires_grad=True)
    >>> binarize(x, "approx_sign").sum().backward()
    >>> x.grad
    tensor([0.0000, 1.5000, 2.0000, 0.0000])
    """
    choose("ste", ste, STE)
    ste = _FIELDS_NAME.get(ste, ste)
    if torch.onnx.is_in_onnx_export():  # which holds no gradient
        return sign(x) if signs else x
    t = torch.as_tensor(temperature, dtype=x.dtype, device=x.device) if ste == "ede" else None
    return _apply(_Binarize, x, ste, t, signs)


@_transformable
class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, slope: Tensor, signs: bool) -> Tensor:
        ctx.save_for_backward(slope)
        return sign(x) if signs else x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None


def with_slope(x: Tensor, slope: Tensor, signs: bool = True) -> Tensor:
    """``sign(x)`` forward, the gradient times ``slope`` backward: an estimator of which the derivative at ``x`` is known.
    ``slope`` is of the shape of ``x``; ``signs`` as in :func:`binarize`."""
    if slope.shape != x.shape:
        raise ValueError(f"the derivative is of shape {tuple(slope.shape)}, the values are of {tuple(x.shape)}: both must agree")
    if torch.onnx.is_in_onnx_export():  # which holds no gradient
        return sign(x) if signs else x
    return _apply(_WithSlope, x, slope.to(x.dtype), signs)


def mean_scale(w: Tensor) -> Tensor:
    """``alpha = mean|W|`` of each output channel: ``(C_out, ...) -> (C_out, 1, ...)``, the scale that
    minimises ``||W - alpha sign(W)||``."""
    return w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)


@_transformable
class _ScaledSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w: Tensor, gradient: str, gain: float) -> Tensor:
        alpha = mean_scale(w)
        ctx.gradient, ctx.gain = gradient, gain
        ctx.save_for_backward(w, alpha)
        return sign(w) * alpha  # not in place: PyTorch 2.11 compiles that to a gradient of zero

    @staticmethod
    def backward(ctx, grad: Tensor):
        w, alpha = ctx.saved_tensors
        kind, n = ctx.gradient, w[0].numel()
        if kind == "identity":
            out = grad
        else:
            through_sign = _clipped(alpha * grad, w)
            if kind == "detached":
                out = through_sign
            elif kind == "paper":
                out = grad / n + through_sign
            else:
                s = sign(w)
                cross = (grad * s).mean(dim=tuple(range(1, w.dim())), keepdim=True)
                if kind == "consistent":
                    return _with_gain(s * cross + _clipped(alpha * (grad - s * cross), w), ctx.gain), None, None
                out = s * cross + through_sign
                if kind == "s4":
                    out = out * ((1 - 1 / w.shape[1]) * n)
        return _with_gain(out, ctx.gain), None, None


def _with_gain(grad: Tensor, gain: float) -> Tensor:
    return grad if gain == 1 else grad * gain


def scaled_sign(w: Tensor, gradient: WeightGradient = "corrected", gain: float = 1.0) -> Tensor:
    """The scaled sign of weights ``W~ = alpha sign(W)``, ``alpha = mean|W|`` per output channel (dimension
    0).

    ``w`` has shape ``(C_out, C_in, ...)`` with ``n`` weights to an output channel. With ``g = dC/dW~``, ``s
    = sign(W)``, and ``1_i`` the indicator of ``|W_i| <= 1`` (the clipped STE of the sign), the gradient
    ``dC/dW_i`` is:

    ============== ======================================================================================
    ``gradient``   formula
    ============== ======================================================================================
    ``identity``   g_i                                   (the scale left out: S1)
    ``detached``   alpha 1_i g_i                         (alpha a constant)
    ``paper``      g_i / n + alpha 1_i g_i               (XNOR-Net paper: alpha's dependence on W_i for j = i only)
    ``corrected``  s_i (1/n) sum_j g_j s_j + alpha 1_i g_i    (every W~_j depends on W_i through alpha)
    ``s4``         corrected x (1 - 1/C_in) x n          (as S4's code has it)
    ``consistent`` p_i + alpha 1_i (g_i - p_i), p_i = s_i (1/n) sum_j g_j s_j
    ============== ======================================================================================

    Along ``sign(W)`` the scaled sign is smooth, and ``p`` is its exact gradient. ``corrected`` adds the estimator's part
    along ``sign(W)`` to it, and so counts that component ``1 + alpha`` times; ``consistent`` lets the estimator act on
    what is orthogonal to ``sign(W)`` alone, where the exact gradient is zero.

    ``gain`` multiplies the gradient (S4's AlexNet: 1e9). Raises ``ValueError`` for an unknown ``gradient``
    or a tensor without input dimensions or without elements.

    >>> w = torch.tensor([[0.5, -1.5]], requires_grad=True)
    >>> scaled_sign(w, "corrected")
    tensor([[ 1., -1.]], grad_fn=<_ScaledSignBackward>)
    """
    choose("gradient", gradient, WeightGradient)
    if w.dim() < 2 or w.numel() == 0:
        raise ValueError(
            f"scaled_sign needs weights of shape (C_out, C_in, ...) without a 0, got {tuple(w.shape)}"
        )
    return _apply(_ScaledSign, w, gradient, float(gain))


def standardize(w: Tensor, eps: float = 1e-5) -> Tensor:
    """Weights centred and scaled to unit variance per output channel, differentiably (``(C_out, ...)``, same
    shape)."""
    dims = tuple(range(1, w.dim()))
    variance, mean = torch.var_mean(w, dim=dims, keepdim=True, correction=0)
    return (w - mean) * torch.rsqrt(variance + eps)


def center(w: Tensor) -> Tensor:
    """Weights less their mean over the input channels (dimension 1), differentiably; same shape."""
    return w - w.mean(dim=1, keepdim=True)


def input_scale(x: Tensor, kernel_size, stride, padding, dilation) -> Tensor:
    """The XNOR-Net paper's input scale K: ``mean over channels of |x|``, averaged over each kernel window.

    ``(N, C, H, W) -> (N, 1, H_out, W_out)``; padded positions count as zero.
    """
    kernel = x.new_full((1, 1, *kernel_size), 1.0 / (kernel_size[0] * kernel_size[1]))
    return F.conv2d(x.abs().mean(dim=1, keepdim=True), kernel, None, stride, padding, dilation)


def choose(what: str, value: object, kind: object) -> None:
    """Raises ``ValueError`` for an option that is not among the choices of ``kind``, a ``Literal``."""
    if value not in get_args(kind):
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(get_args(kind))}")
