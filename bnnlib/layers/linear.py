"""The binary linear layer."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnlib.layers.binary import BinaryLayer, check_floating, whole_in_onnx
from bnnlib.layers.options import Options
from bnnlib.layers.values import whole


class BinaryLinear(BinaryLayer):
    """Linear layer of a binarised input with binarised weights: ``(..., in_features) -> (...,
    out_features)``.

    ``options``: quantizers, scale, constraint, by name or as modules: see
    :class:`bnnlib.layers.options.Options`; ``scale`` is ``none``, ``mean`` or ``learned``; ``input_scale``
    multiplies by mean|x| of each row. ``bias``, ``device``, ``dtype``: as :class:`torch.nn.Linear` has them.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        in_features, out_features = (
            whole("in_features", in_features, 1),
            whole("out_features", out_features, 1),
        )
        super().__init__((out_features, in_features), bias, device, dtype, **options)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"BinaryLinear expects (..., {self.in_features}), got {tuple(x.shape)}")
        check_floating("BinaryLinear", x, self.weight)
        k = x.abs().mean(dim=-1, keepdim=True) if self.input_scale else None
        b = self.binarize_input(x)
        w, scale = self._weight_and_scale()
        if scale is None and k is None and self.training:
            return F.linear(b, w, self.bias)
        y = whole_in_onnx(self, F.linear(b, w))
        dtype = y.dtype
        if scale is not None:
            y = y * scale
        if k is not None:
            y = y * k
        return (y if self.bias is None else y + self.bias).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}"
