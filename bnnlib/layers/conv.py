"""Binary convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib import ops, quantizers
from bnnlib.layers.binary import BinaryLayer, check_floating, whole_in_onnx
from bnnlib.layers.options import Options
from bnnlib.layers.scales import OutputScale
from bnnlib.layers.values import sizes, whole


class BinaryConv2d(BinaryLayer):
    """2-d convolution of a binarised input with binarised weights: ``(N, C_in, H, W) -> (N, C_out, H_out,
    W_out)``; an image without a batch, ``(C_in, H, W)``, gives one without.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as
            :class:`torch.nn.Conv2d`. ``padding="same"`` needs as much on both sides (an odd kernel).
        bias: False by default, where :class:`torch.nn.Conv2d` has True: a batch norm follows most binary
            convolutions. The linear layers agree: both have a bias.
        padding_mode: ``zeros``; no other.
        device, dtype: of the parameters, as :class:`torch.nn.Conv2d`.
        padding_value: what the padding holds after binarisation: 0 (contributes nothing, the default), +1 or
            -1.
        options: quantizers, scale, constraint, by name or as modules: see
            :class:`bnnlib.layers.options.Options`.

    In training on a CPU the forward pass counts bits and the gradients may come from its bits
    (:func:`bnnlib.ops.conv2d_of_signs`); see :func:`popcount_forward` for evaluation.

    Raises ``ValueError`` for a value that is not among the choices and for an input whose channels do not
    fit.
    """

    popcount_in_evaluation = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        padding_value: int = 0,
        **options: Unpack[Options],
    ) -> None:
        in_channels, out_channels = (
            whole("in_channels", in_channels, 1),
            whole("out_channels", out_channels, 1),
        )
        groups = whole("groups", groups, 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups is {groups}: it must divide in_channels {in_channels} and out_channels {out_channels}"
            )
        if padding_value not in (-1, 0, 1):
            raise ValueError(f"padding_value is {padding_value!r}: it must be 0, +1 or -1")
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode is {padding_mode!r}: a binary convolution pads with one value, padding_value, behind the "
                "sign; leave padding_mode='zeros'"
            )
        kernel, stride = sizes("kernel_size", kernel_size, 1), sizes("stride", stride, 1)
        dilation = sizes("dilation", dilation, 1)
        padding = _padding(padding, kernel, stride, dilation)
        super().__init__((out_channels, in_channels // groups, *kernel), bias, device, dtype, **options)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.padding_mode, self.padding_value = padding_mode, int(padding_value)

    def _counts_bits(self, x: Tensor) -> bool:
        """Whether this pass takes the signs of ``x`` and counts bits."""
        if not (self.exact and x.is_cpu) or quantizers.in_transform():
            return False
        return not (self.dropout and self.padding_value) if self.training else self.popcount_in_evaluation

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3 and x.shape[0] == self.in_channels:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"BinaryConv2d expects (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W), got {tuple(x.shape)}"
            )
        check_floating("BinaryConv2d", x, self.weight)
        k = None
        if self.input_scale:
            k = quantizers.input_scale(x, self.kernel_size, self.stride, self.padding, self.dilation)
        counts = self._counts_bits(x)
        b, padding = self._signs_later(x) if counts else self.binarize_input(x), self.padding
        if self.padding_value and padding != (0, 0):
            b = F.pad(b, (padding[1], padding[1], padding[0], padding[0]), value=float(self.padding_value))
            padding = (0, 0)
        w, scale = self._weight_and_scale()
        # in evaluation the bias is added to the exact sum: a sum that starts from it would round at every step
        early = self.training and scale is None and k is None
        bias, late_bias = (self.bias, None) if early else (None, self.bias)
        geometry = self.stride, padding, self.dilation, self.groups
        if counts:
            y = ops.conv2d_of_signs(b, w, bias, *geometry, self.dropout if self.training else 0.0)
        else:
            y = F.conv2d(b, w, bias, *geometry)
        y = whole_in_onnx(self, y)
        dtype = y.dtype  # under autocast not that of scale and bias: all that follows would be float32 with them
        if scale is not None:
            self._check_resolution(scale, x, y)
            y = y * scale
        if k is not None:
            y = y * k
        return (y if late_bias is None else y + late_bias[:, None, None]).to(dtype)

    def _check_resolution(self, scale: Tensor, x: Tensor, y: Tensor) -> None:
        size, made = tuple(scale.shape[1:]), tuple(y.shape[2:])
        own = not isinstance(self.output_scale, OutputScale)  # which may leave a dimension to broadcasting
        if size not in ((1, 1), made) and not (
            own and all(a in (1, b) for a, b in zip(size, made, strict=True))
        ):
            raise ValueError(
                f"scale={self.scale_kind!r} has factors for outputs of {size}, an input of {tuple(x.shape)} gives {made}: "
                "give images of the size it was built for, or build it with another output_size"
            )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        for name, default in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1), ("padding_value", 0)):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return f"{text}, {super().extra_repr()}"


def _padding(
    padding: object, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """The padding of rows and columns, where ``same`` and ``valid`` are names of numbers."""
    if not isinstance(padding, str):
        return sizes("padding", padding, 0)
    if padding == "valid":
        return 0, 0
    if padding != "same":
        raise ValueError(
            f"padding is {padding!r}: it must be a whole number >= 0, a pair of them, same or valid"
        )
    if stride != (1, 1):
        raise ValueError(f"padding='same' goes with stride 1, and stride is {stride}")
    both = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(size % 2 for size in both):
        raise ValueError(
            f"padding='same' with kernel_size {kernel} would pad one side more than the other: choose an odd kernel, or "
            "give numbers"
        )
    return both[0] // 2, both[1] // 2


class BinaryConv1d(BinaryConv2d):
    """1-d convolution of a binarised input with binarised weights: ``(N, C_in, L) -> (N, C_out, L_out)``, for
    text and signals; ``(C_in, L)``, without a batch, gives one without.

    Arguments as :class:`BinaryConv2d`, sizes as whole numbers. The weight is ``(C_out, C_in / groups, 1,
    kernel)``: the layer is a two-dimensional one on rows one pixel high, and is packed as such.
    ``output_size`` (of a scale that differs from place to place) is the length L_out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        padding_value: int = 0,
        **options: Unpack[Options],
    ) -> None:
        rows: list[Any] = []
        given = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
        for name, size in given.items():
            if isinstance(size, str) and name == "padding":
                rows.append(size)
                continue
            if isinstance(size, tuple | list) and len(size) == 1:  # as PyTorch's own layers keep it
                size = size[0]
            rows.append((0, whole(name, size, 0)) if name == "padding" else (1, whole(name, size, 1)))
        if options.get("output_size") is not None:
            options["output_size"] = (1, options["output_size"])
        super().__init__(
            in_channels, out_channels, *rows, groups, bias, padding_mode, device, dtype, padding_value=padding_value, **options
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and x.shape[0] == self.in_channels:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.dim() != 3 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"BinaryConv1d expects (N, {self.in_channels}, L) or ({self.in_channels}, L), got {tuple(x.shape)}"
            )
        return super().forward(x.unsqueeze(2)).squeeze(2)


@contextmanager
def popcount_forward(model: nn.Module) -> Iterator[None]:
    """Within, the binary convolutions of ``model``, in evaluation mode, count bits on a CPU as they do in
    training: the same numbers to the last bit, in less time. By themselves they leave evaluation to PyTorch,
    against which packed networks are compared."""
    convolutions = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    try:
        for module in convolutions:
            module.popcount_in_evaluation = True
        yield
    finally:
        for module in convolutions:
            module.popcount_in_evaluation = False
