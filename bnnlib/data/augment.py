"""Augmentation of a whole batch at once, on the device the images are on.

What is drawn and what is applied are two steps. `draw` takes a generator and gives one row of numbers an image;
`__call__` applies rows to images and is a plain function of both. So a shard of a batch sees exactly what the
whole batch would have shown it, and a resumed epoch repeats nothing and skips nothing.

Images come in and go out on the 0..255 scale, before normalisation: `fill = 0` is black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Draws = dict[str, Tensor]


@dataclass(frozen=True)
class Affine:
    """Ranges of a random affine map about the centre of the image.

    degrees: rotation, uniform in +-degrees. scale: factor, uniform in [low, high]. translate: shift in pixels,
    uniform in +-translate along each axis. shear: degrees, uniform in +-shear along each axis.
    """

    degrees: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        for name in ("degrees", "translate", "shear"):
            if getattr(self, name) < 0:
                raise ValueError(f"affine {name} = {getattr(self, name)} is impossible: give a range, 0 or more")
        if self.shear >= 90:
            raise ValueError(f"affine shear = {self.shear} is impossible: give degrees below 90")
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"affine scale = {self.scale} is impossible: give (low, high) with 0 < low <= high")
        object.__setattr__(self, "scale", (float(low), float(high)))


@dataclass(frozen=True)
class Augment:
    """Random affine map, crop, flip and cutout, in this order.

    crop: pad by so many pixels on each side, then cut a window of the old size out; 0 for none.
    flip: mirror half of the images left to right.
    cutout: side of a square set to `fill`, centred anywhere in the image and cut off at its border; 0 for none.
    affine: an `Affine` or a mapping of its fields; None for none.
    fill: value (0..255) of pixels from outside the image and of the cut-out square.
    """

    crop: int = 4
    flip: bool = True
    cutout: int = 0
    affine: Affine | Mapping | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"augment {name} = {value!r} is impossible: give a number of pixels, 0 or more")
        if isinstance(self.affine, Mapping):
            object.__setattr__(self, "affine", Affine(**self.affine))

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Draws:
        """Random numbers for `count` images of `shape` (C, H, W); every tensor has `count` rows, on the CPU."""
        _, height, width = shape
        draws: Draws = {}
        if self.affine is not None:
            draws["affine"] = torch.rand(count, 6, generator=generator)
        if self.crop:
            draws["crop"] = torch.randint(0, 2 * self.crop + 1, (count, 2), generator=generator)
        if self.flip:
            draws["flip"] = torch.rand(count, generator=generator) < 0.5
        if self.cutout:
            place = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
            draws["cutout"] = place.long()
        return draws

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Apply `draws` to x (B, C, H, W), uint8 or float32. The affine map makes float32 of uint8."""
        draws = {name: value.to(x.device, non_blocking=True) for name, value in draws.items()}
        if "affine" in draws:
            x = affine(x.float(), matrices(self.affine, draws["affine"]), self.fill)
        if "crop" in draws:
            x = crop(x, draws["crop"], self.crop, self.fill)
        if "flip" in draws:
            x = torch.where(draws["flip"].view(-1, 1, 1, 1), x.flip(3), x)
        if "cutout" in draws:
            x = cutout(x, draws["cutout"], self.cutout, self.fill)
        return x


def crop(x: Tensor, offset: Tensor, padding: int, fill: float = 0.0) -> Tensor:
    """Windows of the old size out of the padded images; offset (B, 2): row and column, 0..2 padding."""
    height, width = x.shape[2:]
    padded = F.pad(x, (padding,) * 4, value=fill)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p+1, 2p+1, H, W), a view
    image = torch.arange(len(x), device=x.device)
    return windows[image, :, offset[:, 0], offset[:, 1]]


def cutout(x: Tensor, centre: Tensor, side: int, fill: float = 0.0) -> Tensor:
    """Squares set to fill; centre (B, 2): row and column. The square spans centre - side//2 .. + side - 1."""
    rows = torch.arange(x.shape[2], device=x.device) - (centre[:, :1] - side // 2)  # (B, H)
    columns = torch.arange(x.shape[3], device=x.device) - (centre[:, 1:] - side // 2)  # (B, W)
    inside = ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[:, None, None, :]
    return x.masked_fill(inside, fill)


def matrices(ranges: Affine, uniform: Tensor) -> Tensor:
    """(B, 2, 3) maps of pixel coordinates about the centre, output -> input, from uniform numbers (B, 6).

    The image is sheared along y, then along x, scaled, rotated and shifted; torchvision's order. Columns of
    `uniform`: angle, scale, shift x, shift y, shear x, shear y.
    """
    u = uniform.double()
    spread = 2 * u - 1
    angle = spread[:, 0] * math.radians(ranges.degrees)
    low, high = ranges.scale
    scale = low + (high - low) * u[:, 1]
    shift = spread[:, 2:4] * ranges.translate
    shear = torch.tan(spread[:, 4:6] * math.radians(ranges.shear))
    one, cos, sin = torch.ones_like(angle), torch.cos(angle), torch.sin(angle)
    rotate = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    shear_x = torch.stack([one, -shear[:, 0], one * 0, one], 1).view(-1, 2, 2)
    shear_y = torch.stack([one, one * 0, -shear[:, 1], one], 1).view(-1, 2, 2)
    inverse = torch.linalg.inv(scale.view(-1, 1, 1) * (rotate @ shear_y @ shear_x))
    return torch.cat([inverse, -inverse @ shift.unsqueeze(2)], 2)


def affine(x: Tensor, pixel_map: Tensor, fill: float = 0.0) -> Tensor:
    """Bilinear resampling of float32 images x (B, C, H, W) by maps (B, 2, 3) in pixels about the centre."""
    height, width = x.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64, device=x.device)
    # grid_sample counts from -1 to 1 along each axis: scale columns going in, rows coming out.
    theta = pixel_map.clone()
    theta[:, :, :2] *= half
    theta /= half.view(1, 2, 1)
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill
