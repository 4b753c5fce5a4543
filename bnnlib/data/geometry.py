"""Geometric maps of a batch of images, one row of parameters an image. Plain functions, no randomness.

Everywhere x is (B, C, H, W) on the 0..255 scale and `fill` is the value of pixels from outside the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(x: Tensor, offset: Tensor, padding: int, fill: float = 0.0) -> Tensor:
    """Pad by `padding` on each side and cut windows of the old size; offset int64 (B, 2): row, column."""
    height, width = x.shape[2:]
    padded = F.pad(x, (padding,) * 4, value=fill)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p+1, 2p+1, H, W), a view
    image = torch.arange(len(x), device=x.device)
    return windows[image, :, offset[:, 0], offset[:, 1]]


def flip(x: Tensor, which: Tensor) -> Tensor:
    """Mirror the images where `which`, bool (B,), is set left to right."""
    return torch.where(which.view(-1, 1, 1, 1), x.flip(3), x)


def cutout(x: Tensor, centre: Tensor, side: int, fill: float = 0.0) -> Tensor:
    """Set a square to fill: `side` pixels from centre - side // 2 on, where inside; centre int64 (B, 2)."""
    rows = torch.arange(x.shape[2], device=x.device) - (centre[:, :1] - side // 2)  # (B, H)
    columns = torch.arange(x.shape[3], device=x.device) - (centre[:, 1:] - side // 2)  # (B, W)
    in_rows, in_columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    return x.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], fill)


def resized_crop(x: Tensor, box: Tensor) -> Tensor:
    """Cut boxes out and scale each to the size of the image, bilinearly; the result is float32.

    box: int64 (B, 4): top, left, height, width. Pixels outside the box are never read, nothing is smoothed
    before (torchvision's resized_crop with antialias=False); boxes are at most as large as the image.
    """
    top, left, box_height, box_width = box.to(torch.float32).split(1, 1)  # each (B, 1)
    rows = _interpolation(x.shape[2], top, box_height)  # (B, H, H)
    columns = _interpolation(x.shape[3], left, box_width)  # (B, W, W)
    return rows[:, None] @ x.float() @ columns[:, None].mT


def _interpolation(size: int, start: Tensor, length: Tensor) -> Tensor:
    """(B, size, size): row o holds the weights by which output pixel o is mixed from the input pixels."""
    pixel = torch.arange(size, device=start.device, dtype=torch.float32)
    place = (((pixel + 0.5) * (length / size) - 0.5).clamp(min=0).minimum(length - 1) + start)[:, :, None]
    return (1 - (place - pixel).abs()).clamp(min=0)


def affine_map(angle: Tensor, scale: Tensor, shift: Tensor, shear: Tensor) -> Tensor:
    """Maps of pixel coordinates about the centre of the image, from output to input: float64 (B, 2, 3).

    angle (B,) and shear (B, 2; along x, along y) in radians, scale (B,), shift (B, 2; x, y) in pixels. An
    image is sheared along x, then along y, rotated and scaled, and shifted last, as torchvision does it.
    """
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    along_x, along_y = torch.tan(shear).unbind(1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotate = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    shear_x = torch.stack([one, -along_x, zero, one], 1).view(-1, 2, 2)
    shear_y = torch.stack([one, zero, -along_y, one], 1).view(-1, 2, 2)
    inverse = torch.linalg.inv((scale.view(-1, 1, 1) * (rotate @ shear_y @ shear_x)).double())
    return torch.cat([inverse, -inverse @ shift.double().unsqueeze(2)], 2)


def affine(x: Tensor, pixel_map: Tensor, fill: float = 0.0) -> Tensor:
    """Resample by maps from `affine_map`, bilinearly; the result is float32."""
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=x.device)
    # grid_sample counts from -1 to 1 along each axis: stretch what goes in, shrink what comes out.
    theta = torch.cat([pixel_map[:, :, :2] * half, pixel_map[:, :, 2:]], 2) / half.view(1, 2, 1)
    grid = F.affine_grid(theta.float(), list(x.shape), align_corners=False)
    x = x.float()
    if fill == 0:
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.grid_sample(x - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill
