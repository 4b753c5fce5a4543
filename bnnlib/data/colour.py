"""Colour jitter as torchvision's ColorJitter defines it, for a batch, one row of parameters an image.

x is (B, 3, H, W) on the 0..255 scale; results are float32, clamped to that scale after each step.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights torchvision uses


def grey(x: Tensor) -> Tensor:
    """Luma (B, 1, H, W)."""
    return (x * torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor x + (1 - factor) other, clamped to 0..255; factor (B,)."""
    factor = factor.view(-1, 1, 1, 1)
    return (factor * x + (1 - factor) * other).clamp(0, 255)


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast and saturation by factors (B, 3), in the order of each image's row of `order`.

    order: int64 (B, 3), a permutation of 0 (brightness), 1 (contrast), 2 (saturation) a row.
    """
    x = x.float()
    for turn in order.unbind(1):
        here = torch.gather(factors, 1, turn.unsqueeze(1)).squeeze(1)
        luma, kind = grey(x), turn.view(-1, 1, 1, 1)
        towards = torch.where(kind == 1, luma.mean(dim=(2, 3), keepdim=True), luma)
        x = blend(x, towards.masked_fill(kind == 0, 0), here)
    return x
