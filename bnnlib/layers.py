"""Binary layers: convolution and linear layers that multiply +-1 by +-1, and ReActNet's learned shifts.

A binary layer keeps real-valued *latent* weights for the optimizer and binarises them, and its input, at
every forward pass. What papers disagree on is an argument: the scale of the weights, their gradient, the
estimator of the activation, what becomes of the latent weights between steps, what zero means, and what the
padding holds.

In evaluation the scale multiplies an exact sum of +-1 products, ``y = scale * (sign(x) * sign(W)) + bias``,
so that a packed layer (XNOR and popcount) computes the same numbers; in training it is folded into the
weights, which is what the gradient formulas of :func:`bnnlib.quantizers.scaled_sign` differentiate. The
latent weights get a gradient in training mode only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from bnnlib import ops, quantizers

Scale = Literal["none", "mean", "learned", "xnorpp", "dense", "channel-map"]
Latent = Literal["free", "clip", "center-clip"]
WeightTransform = Literal["none", "center", "standardize"]
SPATIAL = (
    "xnorpp",
    "dense",
    "channel-map",
)  # learned scales that differ from pixel to pixel, tied to the resolution


def dropout(x: Tensor, share: float) -> Tensor:
    """``F.dropout(x, share)``, on a CPU from 16 random bits a value (``share`` to the nearest 2**-16): PyTorch draws
    a number in float64 for each, which on CPUs that are not Intel's takes several times as long."""
    if not x.is_cpu or share > 1 - 2**-16 or torch.compiler.is_compiling():  # which draws in its own way
        return F.dropout(x, share)
    strides = torch.empty_like(x, device="meta").stride()  # dense, in the memory format of x
    noise = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = noise[: x.numel()].as_strided(x.shape, strides) >= round(share * 2**16) - 2**15
    return x * (kept / (1 - share)).to(x.dtype)


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x


class _Binary(nn.Module):
    """What the convolution and the linear layer share: latent weight, its binarisation, and its scale."""

    def _setup(
        self,
        weight_shape: tuple[int, ...],
        bias: bool,
        *,
        scale: str,
        gradient: str,
        gain: float,
        ste: str,
        weight_ste: str,
        latent: str,
        transform: str,
        scale_init: float | None,
        sign_of_zero: int,
        dropout: float,
    ) -> None:
        _choose("scale", scale, Scale)
        _choose("gradient", gradient, quantizers.WeightGradient)
        _choose("ste", ste, quantizers.STE)
        _choose("weight_ste", weight_ste, quantizers.STE)
        _choose("latent", latent, Latent)
        _choose("transform", transform, WeightTransform)
        if sign_of_zero not in (-1, 1):
            raise ValueError(f"sign_of_zero is {sign_of_zero!r}: it must be +1 or -1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout!r}: it must lie in [0, 1)")
        if min(weight_shape) < 1:
            raise ValueError(f"the weight would be of shape {weight_shape}: every size must be at least 1")
        self.scale_kind, self.gradient, self.gain = scale, gradient, gain
        self.ste, self.weight_ste, self.latent, self.transform = ste, weight_ste, latent, transform
        self.scale_init, self.sign_of_zero, self.dropout = scale_init, sign_of_zero, dropout
        self.weight = nn.Parameter(torch.empty(weight_shape))
        self.bias = nn.Parameter(torch.empty(weight_shape[0])) if bias else None
        # annealed by the training loop for ste="tanh"; a function of the epoch, so no part of the state
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def reset_parameters(self) -> None:
        """PyTorch's default initialisation of a layer of this shape; a learned scale starts at mean|W| of the
        latent weights, so that outputs are as large as a real-valued layer's, or at ``scale_init``."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        self._reset_scale()

    def _reset_scale(self) -> None:
        if self.scale_kind == "learned":
            with torch.no_grad():
                start = quantizers.mean_scale(self.weight).reshape(self.scale.shape)
                self.scale.copy_(
                    start if self.scale_init is None else torch.full_like(start, self.scale_init)
                )

    def _transformed(self) -> Tensor:
        if self.transform == "standardize":
            return quantizers.standardize(self.weight)
        if self.transform == "center":
            return quantizers.center(self.weight)
        return self.weight

    def binary_weight(self) -> Tensor:
        """The weight as +-1, shape of ``weight``; no gradient."""
        with torch.no_grad():
            return quantizers.sign(self._transformed())

    def channel_scale(self) -> Tensor | None:
        """The scale of each output channel, shape ``(C_out,)``, or None where there is none; no gradient."""
        with torch.no_grad():
            if self.scale_kind == "mean":
                return quantizers.mean_scale(self._transformed()).flatten()
            if self.scale_kind == "learned":
                return self.scale.detach().flatten()
        return None

    def _binary_input(self, x: Tensor, signs: bool = True) -> Tensor:
        if self.sign_of_zero == 1:
            x = quantizers.binarize(x, self.ste, self.temperature, signs)
        else:  # always signs: those of x itself say +1 for a zero
            x = -quantizers.binarize(-x, self.ste, self.temperature)
        return dropout(x, self.dropout) if self.dropout and self.training else x

    def _training_weight(self) -> Tensor:
        w = self._transformed()
        if self.scale_kind == "mean":
            return quantizers.scaled_sign(w, self.gradient, self.gain)
        return quantizers.binarize(w, self.weight_ste, self.temperature)

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the latent weights back to where the recipe keeps them; the training loop calls this after
        every step."""
        if self.latent == "center-clip":
            self.weight.sub_(self.weight.mean(dim=1, keepdim=True))
        if self.latent != "free":
            self.weight.clamp_(-1, 1)

    def _describe(self) -> str:
        parts = [f"scale={self.scale_kind}"]
        if self.scale_kind == "mean":
            parts.append(f"gradient={self.gradient}")
        parts.append(f"ste={self.ste}")
        if self.scale_kind != "mean" and self.weight_ste != "clipped":
            parts.append(f"weight_ste={self.weight_ste}")
        for name, default in (
            ("latent", "free"),
            ("transform", "none"),
            ("sign_of_zero", 1),
            ("dropout", 0.0),
            ("gain", 1.0),
        ):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


class BinaryConv2d(_Binary):
    """2-d convolution of a binarised input with binarised weights: ``(N, C_in, H, W) -> (N, C_out, H_out,
    W_out)``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as
            :class:`torch.nn.Conv2d`.
        scale: ``none``; ``mean`` (mean|W| per output channel, gradient by ``gradient``); ``learned`` (a
            parameter per output channel); or one of XNOR-Net++'s (arXiv 1909.13863) others, which need
            ``output_size``: ``dense`` (a parameter per output element),
            ``channel-map`` (a vector over channels times a map over pixels), ``xnorpp`` (outer product of
            vectors over channels, rows, columns).
        gradient, gain: see :func:`bnnlib.quantizers.scaled_sign`.
        ste, weight_ste: estimator for the input, and for the weight where the scale is not ``mean``.
        latent: what is kept after each step, by :func:`project_` or :func:`project_after_steps`: ``free``, ``clip`` to
            [-1, 1], or ``center-clip`` (first less the mean over input channels).
        transform: applied to the latent weight, differentiably, before the sign: ``none``, ``center``,
            ``standardize``.
        scale_init: start of a learned scale; None starts at mean|W| of the latent weights.
        padding_value: what the padding holds after binarisation: 0 (contributes nothing, the default), +1 or
            -1.
        input_scale: multiply by the XNOR-Net paper's K (mean|x| in each window).
        sign_of_zero: what a zero input becomes; +1 everywhere but in S3, whose layer follows a ReLU.
        dropout: applied to the binarised input (S4's NIN and AlexNet).
        output_size: (H_out, W_out) for a scale that differs from pixel to pixel.
        binary_input: False leaves the input as it is, so that the weights alone are binary (XNOR-Net's
            "BWN").

    In training on a CPU the forward pass counts bits and the gradients may come from its bits
    (:func:`bnnlib.ops.conv2d_of_signs`); see :func:`counting` for evaluation.

    Raises ``ValueError`` for a value that is not among the choices and for an input whose channels do not
    fit.
    """

    counting = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        scale: Scale = "mean",
        gradient: quantizers.WeightGradient = "corrected",
        gain: float = 1.0,
        ste: quantizers.STE = "clipped",
        weight_ste: quantizers.STE = "clipped",
        latent: Latent = "free",
        transform: WeightTransform = "none",
        scale_init: float | None = None,
        padding_value: int = 0,
        input_scale: bool = False,
        sign_of_zero: int = 1,
        dropout: float = 0.0,
        output_size: tuple[int, int] | None = None,
        binary_input: bool = True,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups is {groups}: it must divide in_channels {in_channels} and out_channels {out_channels}"
            )
        if padding_value not in (-1, 0, 1):
            raise ValueError(f"padding_value is {padding_value!r}: it must be 0, +1 or -1")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _sizes("kernel_size", kernel_size, 1), _sizes("stride", stride, 1)
        self.padding, self.dilation = _sizes("padding", padding, 0), _sizes("dilation", dilation, 1)
        self.padding_value, self.input_scale, self.binary_input = padding_value, input_scale, binary_input
        self._setup(
            (out_channels, in_channels // groups, *self.kernel_size),
            bias,
            scale=scale,
            gradient=gradient,
            gain=gain,
            ste=ste,
            weight_ste=weight_ste,
            latent=latent,
            transform=transform,
            scale_init=scale_init,
            sign_of_zero=sign_of_zero,
            dropout=dropout,
        )
        if scale == "learned":
            self.scale = nn.Parameter(torch.empty(out_channels, 1, 1))
        elif scale in SPATIAL:
            if output_size is None:
                raise ValueError(
                    f"scale={scale!r} needs output_size=(H_out, W_out): its factors are tied to the resolution"
                )
            height, width = _sizes("output_size", output_size, 1)
            shapes = {
                "xnorpp": {"channel": (out_channels, 1, 1), "height": (1, height, 1), "width": (1, 1, width)},
                "dense": {"dense": (out_channels, height, width)},
                "channel-map": {"channel": (out_channels, 1, 1), "map": (1, height, width)},
            }[scale]
            for factor, shape in shapes.items():
                self.register_parameter(f"scale_{factor}", nn.Parameter(torch.ones(shape)))
        self.reset_parameters()

    def output_scale(self) -> Tensor | None:
        """What multiplies the exact sums in evaluation, broadcastable to ``(C_out, H_out, W_out)``."""
        if self.scale_kind == "xnorpp":
            return self.scale_channel * self.scale_height * self.scale_width
        if self.scale_kind == "dense":
            return self.scale_dense
        if self.scale_kind == "channel-map":
            return self.scale_channel * self.scale_map
        if self.scale_kind == "learned":
            return self.scale
        alpha = self.channel_scale()
        return None if alpha is None else alpha[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"BinaryConv2d expects (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        _check_floating("BinaryConv2d", x)
        k = (
            quantizers.box_mean(x, self.kernel_size, self.stride, self.padding, self.dilation)
            if self.input_scale
            else None
        )
        dropout = self.dropout if self.training else 0.0
        counts = not (dropout and self.padding_value) if self.training else self.counting
        counts = counts and self.binary_input and x.is_cpu
        b = self._binary_input(x, signs=bool(dropout) or not counts) if self.binary_input else x
        padding = self.padding
        if self.padding_value and padding != (0, 0):
            b = F.pad(b, (padding[1], padding[1], padding[0], padding[0]), value=float(self.padding_value))
            padding = (0, 0)
        folded = self.training and self.scale_kind == "mean"
        w = self._training_weight() if self.training else self.binary_weight()
        late_scale = None if folded or self.scale_kind == "none" else self.output_scale()
        # in evaluation the bias is added to the exact sum: a sum that starts from it would round at every step
        early = self.training and late_scale is None and k is None
        bias, late_bias = (self.bias, None) if early else (None, self.bias)
        if counts:
            y = ops.conv2d_of_signs(b, w, bias, self.stride, padding, self.dilation, self.groups, dropout)
        else:
            y = F.conv2d(b, w, bias, self.stride, padding, self.dilation, self.groups)
        y = _whole_in_onnx(y) if self.binary_input and not self.training else y
        dtype = y.dtype  # under autocast not that of scale and bias: all that follows would be float32 with them
        if self.scale_kind in SPATIAL and y.shape[2:] != late_scale.shape[1:]:
            raise ValueError(
                f"scale={self.scale_kind!r} has factors for outputs of {tuple(late_scale.shape[1:])}, an input of {tuple(x.shape)} gives {tuple(y.shape[2:])}: "
                "give images of the size it was built for, or build it with another output_size"
            )
        if late_scale is not None:
            y = y * late_scale
        if k is not None:
            y = y * k
        return (y if late_bias is None else y + late_bias[:, None, None]).to(dtype)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        for name, default in (
            ("padding", (0, 0)),
            ("dilation", (1, 1)),
            ("groups", 1),
            ("padding_value", 0),
            ("input_scale", False),
        ):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        if not self.binary_input:
            text += ", binary_input=False"
        if self.scale_kind in SPATIAL:
            text += f", output_size={tuple(self.output_scale().shape[1:])}"
        return f"{text}, bias={self.bias is not None}, {self._describe()}"


class BinaryConv1d(BinaryConv2d):
    """1-d convolution of a binarised input with binarised weights: ``(N, C_in, L) -> (N, C_out, L_out)``, for text and signals.

    Arguments as :class:`BinaryConv2d`, sizes as whole numbers. The weight is ``(C_out, C_in / groups, 1, kernel)``: the layer is a
    two-dimensional one on rows one pixel high, and is packed as such. ``output_size`` (of a scale that differs from place to
    place) is the length L_out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        output_size: int | None = None,
        **options: object,
    ) -> None:
        for name, size in (("kernel_size", kernel_size), ("stride", stride), ("padding", padding), ("dilation", dilation)):
            if type(size) is not int:
                raise ValueError(f"{name} is {size!r}: BinaryConv1d takes a whole number")
        super().__init__(
            in_channels, out_channels, (1, kernel_size), (1, stride), (0, padding), (1, dilation), groups, bias,
            output_size=None if output_size is None else (1, output_size), **options,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[1] != self.in_channels:
            raise ValueError(f"BinaryConv1d expects (N, {self.in_channels}, L), got {tuple(x.shape)}")
        return super().forward(x.unsqueeze(2)).squeeze(2)


class BinaryLinear(_Binary):
    """Linear layer of a binarised input with binarised weights: ``(..., in_features) -> (...,
    out_features)``.

    Arguments as :class:`BinaryConv2d`, without those of space; ``scale`` is ``none``, ``mean`` or
    ``learned``; ``input_scale`` multiplies by mean|x| of each row.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scale: Scale = "mean",
        gradient: quantizers.WeightGradient = "corrected",
        gain: float = 1.0,
        ste: quantizers.STE = "clipped",
        weight_ste: quantizers.STE = "clipped",
        latent: Latent = "free",
        transform: WeightTransform = "none",
        scale_init: float | None = None,
        input_scale: bool = False,
        sign_of_zero: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if scale in SPATIAL:
            raise ValueError(
                f"scale={scale!r} is for convolutions: a linear layer takes none, mean or learned"
            )
        self.in_features, self.out_features, self.input_scale = in_features, out_features, input_scale
        self._setup(
            (out_features, in_features),
            bias,
            scale=scale,
            gradient=gradient,
            gain=gain,
            ste=ste,
            weight_ste=weight_ste,
            latent=latent,
            transform=transform,
            scale_init=scale_init,
            sign_of_zero=sign_of_zero,
            dropout=dropout,
        )
        if scale == "learned":
            self.scale = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def output_scale(self) -> Tensor | None:
        """What multiplies the exact sums in evaluation, shape ``(C_out,)``, or None."""
        return self.scale if self.scale_kind == "learned" else self.channel_scale()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"BinaryLinear expects (..., {self.in_features}), got {tuple(x.shape)}")
        _check_floating("BinaryLinear", x)
        k = x.abs().mean(dim=-1, keepdim=True) if self.input_scale else None
        b = self._binary_input(x)
        folded = self.training and self.scale_kind == "mean"
        w = self._training_weight() if self.training else self.binary_weight()
        late_scale = None if folded or self.scale_kind == "none" else self.output_scale()
        if late_scale is None and k is None and self.training:
            return F.linear(b, w, self.bias)
        y = F.linear(b, w)
        y = y if self.training else _whole_in_onnx(y)
        dtype = y.dtype
        if late_scale is not None:
            y = y * late_scale
        if k is not None:
            y = y * k
        return (y if self.bias is None else y + self.bias).to(dtype)

    def extra_repr(self) -> str:
        text = f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self._describe()}"
        return text + (", input_scale=True" if self.input_scale else "")


class RSign(nn.Module):
    """ReActNet's sign with a learned threshold per channel: ``sign(x + shift)`` on ``(N, C, ...)`` (arXiv
    2003.03488).

    A binary layer behind it sees signs, and must let their gradient through: ``ste="identity"`` there (the
    polynomial estimator's derivative is 0 at -1 and +1). ``signs=False`` leaves taking the sign to that layer, and
    gives ``x + shift`` with the same gradients.
    """

    def __init__(self, channels: int, ste: quantizers.STE = "clipped", signs: bool = True) -> None:
        super().__init__()
        _choose("ste", ste, quantizers.STE)
        self.ste, self.signs = ste, signs
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shifted = (x + _per_channel(self.shift, x)).to(x.dtype)
        return quantizers.binarize(shifted, self.ste, self.temperature, self.signs)

    def extra_repr(self) -> str:
        return f"{self.shift.numel()}, ste={self.ste}" + ("" if self.signs else ", signs=False")


class RPReLU(nn.Module):
    """ReActNet's PReLU with learned shifts per channel: ``PReLU(x - before) + after`` on ``(N, C, ...)``
    (arXiv 2003.03488)."""

    def __init__(self, channels: int, slope: float = 0.25) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), slope))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.prelu(x - _per_channel(self.before, x), self.slope) + _per_channel(self.after, x)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.slope.numel()}"


@contextmanager
def counting(model: nn.Module) -> Iterator[None]:
    """Within, the binary convolutions of ``model``, in evaluation mode, count bits on a CPU as they do in
    training: the same numbers to the last bit, in less time. By themselves they leave evaluation to PyTorch,
    against which packed networks are compared."""
    convolutions = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    try:
        for module in convolutions:
            module.counting = True
        yield
    finally:
        for module in convolutions:
            module.counting = False


def project_(model: nn.Module) -> None:
    """Call ``project_`` of every module that has one: the constraints a recipe keeps between optimizer
    steps."""
    for module in model.modules():
        if hasattr(module, "project_"):
            module.project_()


def project_after_steps(optimizer: torch.optim.Optimizer, model: nn.Module) -> Any:
    """Have ``optimizer`` call :func:`project_` after each of its steps, for whoever trains by hand: without it
    ``latent="clip"`` does nothing. What comes back has a ``remove()``."""
    return optimizer.register_step_post_hook(lambda *_: project_(model))


def set_temperature_(model: nn.Module, temperature: float) -> None:
    """Set the temperature of every ``tanh`` estimator in ``model``."""
    for module in model.modules():
        if isinstance(module, (_Binary, RSign)):
            module.temperature.fill_(temperature)


def binary_layers(model: nn.Module) -> dict[str, _Binary]:
    """The binary layers of ``model`` by their qualified name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _Binary)}


def _whole_in_onnx(sums: Tensor) -> Tensor:
    """Sums of +-1, as an exported graph must keep them: a runtime that moved the scale that follows into the weights would get sums of
    zero that are not zero, and flip their signs. Rounding changes no whole number, and nothing is moved past it."""
    return torch.round(sums) if torch.onnx.is_in_onnx_export() else sums


def _check_floating(layer: str, x: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(
            f"{layer} expects floating-point values, got {str(x.dtype).removeprefix('torch.')}: give x.float(), for images "
            "scaled as the network was trained to see them"
        )


def _per_channel(p: Tensor, x: Tensor) -> Tensor:
    return p.view(1, -1, *([1] * (x.dim() - 2)))


def _sizes(what: str, value: object, least: int) -> tuple[int, int]:
    pair = _pair(value)
    if len(pair) != 2 or not all(isinstance(size, int) and size >= least for size in pair):
        raise ValueError(f"{what} is {value!r}: it must be a whole number >= {least}, or a pair of them")
    return tuple(pair)


def _choose(what: str, value: object, kind: object) -> None:
    if value not in kind.__args__:
        raise quantizers._unknown(what, value, kind)
