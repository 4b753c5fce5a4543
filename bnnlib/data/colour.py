"""Colour jitter as torchvision's ColorJitter defines it, for a batch, one row of parameters an image.

x is (B, 3, H, W) on the 0..255 scale; results are float32, clamped to that scale after each step.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights torchvision uses


def grey(x: Tensor) -> Tensor:
    """Luma (B, 1, H, W)."""
    return (torch.tensor([LUMA], device=x.device) @ x.flatten(2)).unflatten(2, x.shape[2:])


def jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast and saturation by factors (B, 3), in the order of each image's row of `order`.

    Each moves x away from black, from the mean luma or from its luma: x <- f x + (1 - f) other.
    order: int64 (B, 3), each row a permutation of 0 (brightness), 1 (contrast), 2 (saturation).
    """
    x = x.float()
    for turn in order.unbind(1):
        factor = torch.gather(factors, 1, turn[:, None])[:, :, None, None]
        luma, kind = grey(x), turn[:, None, None, None]
        other = torch.where(kind == 1, luma.mean(dim=(2, 3), keepdim=True), luma).masked_fill(kind == 0, 0)
        x = torch.addcmul((1 - factor) * other, x, factor).clamp_(0, 255)
    return x
