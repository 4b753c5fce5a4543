"""Normalisation, and the one place that knows each set's statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Mean and standard deviation of a channel, on the 0..1 scale.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),  # S4's
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalize(nn.Module):
    """y = (x / 255 - mean) / std for x of (B, C, H, W) on the 0..255 scale, uint8 or float; y is float32.

    mean, std: one number a channel, or one for all. `Normalize(0, 1)` just scales to 0..1.
    """

    def __init__(self, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> None:
        super().__init__()
        m = torch.as_tensor(mean, dtype=torch.float64).reshape(-1)
        s = torch.as_tensor(std, dtype=torch.float64).reshape(-1)
        if (s <= 0).any():
            raise ValueError(f"std = {std} is impossible: every standard deviation must be positive")
        if len(m) != len(s) and 1 not in (len(m), len(s)):
            raise ValueError(
                f"mean has {len(m)} channels and std {len(s)}: give one number a channel in both"
            )
        # One multiplication and one addition a pixel: y = a x + b.
        a, b = torch.broadcast_tensors(1 / (255 * s), -m / s)
        self.register_buffer("a", a.float().reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("b", b.float().reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.a.shape[1] not in (1, x.shape[1]):
            raise ValueError(f"images have {x.shape[1]} channels, the statistics {self.a.shape[1]}")
        return x.to(torch.float32).mul(self.a).add_(self.b)
