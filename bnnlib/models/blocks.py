"""S4's binary block, from which its LeNet-5, NIN and AlexNet are made: BN -> sign -> [dropout] -> conv or
linear -> activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnnlib.layers import BinaryConv2d, BinaryLinear, Dropout, RPReLU


def activation(name: str, channels: int) -> nn.Module:
    """``relu``, ``prelu`` (a slope per channel), ``rprelu`` or ``none``."""
    kinds = {
        "relu": lambda: nn.ReLU(),
        "prelu": lambda: nn.PReLU(channels),
        "rprelu": lambda: RPReLU(channels),
        "none": nn.Identity,
    }
    if name not in kinds:
        raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(kinds)}")
    return kinds[name]()


class Block(nn.Module):
    """BN -> sign -> conv -> activation, or, with ``binary=False``, its real-valued twin BN -> conv ->
    activation.

    ``size``: a conv where given (the kernel's), else a linear layer whose input may still be ``(N, channels,
    H, W)``: the batch norm then works per channel, and the map is flattened after it. ``gamma_min``: the
    batch norm's gamma is kept at least there (S4: 0.01). ``norm=False``: no batch norm.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: int | None = None,
        *,
        positions: int = 1,
        padding: int = 0,
        binary: bool = True,
        act: str = "relu",
        gamma_min: float | None = 0.01,
        norm: bool = True,
        dropout: float = 0.0,
        layer: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.gamma_min = gamma_min
        self.flatten = size is None
        kind = nn.BatchNorm1d if size is None and positions == 1 else nn.BatchNorm2d
        self.bn = kind(channels, eps=1e-4, momentum=0.1) if norm else nn.Identity()
        if binary:
            options = {"bias": True, "dropout": dropout, **(layer or {})}
            self.layer = (
                BinaryLinear(channels * positions, out_channels, **options)
                if size is None
                else BinaryConv2d(channels, out_channels, size, padding=padding, **options)
            )
        else:
            real = (
                nn.Linear(channels * positions, out_channels)
                if size is None
                else nn.Conv2d(channels, out_channels, size, padding=padding)
            )
            self.layer = nn.Sequential(Dropout(dropout), real) if dropout else real
        self.act = activation(act, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        return self.act(self.layer(x.flatten(1) if self.flatten else x))

    @torch.no_grad()
    def project_(self) -> None:
        if self.gamma_min is not None and getattr(self.bn, "affine", False):
            self.bn.weight.clamp_(min=self.gamma_min)
