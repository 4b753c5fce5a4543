"""Augmentation of a whole batch at once, on the device the images are on.

What is drawn and what is applied are two steps. `draw` takes a generator and gives rows of numbers, one row
an image; `__call__` applies rows to images and is a plain function of both. So a shard of a batch shows
exactly what the whole batch would have shown, and a resumed epoch repeats nothing and skips nothing.

Images come in and go out on the 0..255 scale, before normalisation: `fill = 0` is black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bnnlib.data import colour, geometry

Draws = dict[str, Tensor]
RATIO = (3 / 4, 4 / 3)  # width over height of a resized crop, torchvision's default
ATTEMPTS = 10  # at drawing a box that fits, torchvision's number


@dataclass(frozen=True)
class Affine:
    """Ranges of a random affine map about the centre of the image.

    degrees: rotation, uniform in +-degrees.
    scale: factor, uniform in (low, high); a number r stands for (1 - r, 1 + r).
    translate: shift in pixels, uniform in +-translate along each axis.
    shear: degrees, uniform in +-shear along each axis.
    """

    degrees: float = 0.0
    scale: float | tuple[float, float] = (1.0, 1.0)
    translate: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        for name in ("degrees", "translate", "shear"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"affine {name} = {getattr(self, name)} is impossible: give a range, 0 or more"
                )
        if self.shear >= 90:
            raise ValueError(f"affine shear = {self.shear} is impossible: give degrees below 90")
        alone = isinstance(self.scale, int | float)
        low, high = (1 - self.scale, 1 + self.scale) if alone else self.scale
        if not 0 < low <= high:
            raise ValueError(
                f"affine scale = {self.scale} is impossible: give (low, high) with 0 < low <= high"
            )
        object.__setattr__(self, "scale", (float(low), float(high)))


@dataclass(frozen=True)
class Augment:
    """Random affine map, resized crop, crop, colour jitter, flip and cutout, in this order.

    crop: pad by so many pixels on each side, then cut a window of the old size out; 0 for none.
    flip: mirror half of the images left to right.
    cutout: side of a square set to `fill`, centred anywhere in the image, cut off at its border; 0 for none.
    affine: an `Affine`, or a mapping of its fields; None for none.
    resized_crop: (low, high) share of the image's area; a box of such an area, 3/4 to 4/3 as wide as high, is
        scaled up to the whole image (RandomResizedCrop for images held in memory); None for none.
    jitter: brightness, contrast, saturation, each by a factor uniform in 1 +- jitter; 0: none; needs colour.
    fill: value (0..255) of pixels from outside the image and of the cut-out square.
    """

    crop: int = 4
    flip: bool = True
    cutout: int = 0
    affine: Affine | Mapping | None = None
    resized_crop: tuple[float, float] | None = None
    jitter: float = 0.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(
                    f"augment {name} = {value!r} is impossible: give a number of pixels, 0 or more"
                )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"augment jitter = {self.jitter} is impossible: give 0 to 1")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"augment fill = {self.fill} is impossible: give a pixel value, 0 to 255")
        if self.resized_crop is not None:
            low, high = self.resized_crop
            if not 0 < low <= high <= 1:
                raise ValueError(
                    f"augment resized_crop = {self.resized_crop} is impossible: give shares of the area, "
                    "0 < low <= high <= 1"
                )
            object.__setattr__(self, "resized_crop", (float(low), float(high)))
        if isinstance(self.affine, Mapping):
            known = [field.name for field in fields(Affine)]
            unknown = sorted(set(self.affine) - set(known))
            if unknown:
                raise ValueError(
                    f"augment affine has no field {unknown[0]!r}: choose from {', '.join(known)}"
                )
            object.__setattr__(self, "affine", Affine(**self.affine))

    def draw(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Draws:
        """Parameters for `count` images of `shape` (C, H, W); every tensor has `count` rows, on the CPU."""
        channels, height, width = shape
        draws: Draws = {}
        if self.affine is not None:
            draws["affine"] = self._affine_map(torch.rand(count, 6, generator=generator, dtype=torch.float64))
        if self.resized_crop is not None:
            draws["resized_crop"] = boxes(count, height, width, self.resized_crop, generator)
        if self.crop:
            draws["crop"] = torch.randint(0, 2 * self.crop + 1, (count, 2), generator=generator)
        if self.jitter:
            if channels != 3:
                raise ValueError(
                    f"augment jitter needs images of 3 channels, these have {channels}: set jitter to 0"
                )
            draws["jitter"] = 1 + self.jitter * (2 * torch.rand(count, 3, generator=generator) - 1)
            draws["jitter_order"] = torch.rand(count, 3, generator=generator).argsort(1)
        if self.flip:
            draws["flip"] = torch.rand(count, generator=generator) < 0.5
        if self.cutout:
            place = torch.rand(count, 2, generator=generator) * torch.tensor([height, width])
            draws["cutout"] = place.long()
        return draws

    def _affine_map(self, uniform: Tensor) -> Tensor:
        """Columns of `uniform` (count, 6), each in [0, 1): angle, scale, shift x, y, shear along x, y."""
        spread = 2 * uniform - 1
        low, high = self.affine.scale
        return geometry.affine_map(
            spread[:, 0] * math.radians(self.affine.degrees),
            low + (high - low) * uniform[:, 1],
            spread[:, 2:4] * self.affine.translate,
            spread[:, 4:6] * math.radians(self.affine.shear),
        )

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Apply `draws` to x (B, C, H, W), uint8 or float32. Whatever interpolates gives float32."""
        if len(x) == 0:  # the empty shard of a last batch; affine_grid refuses those
            return x
        draws = {name: value.to(x.device, non_blocking=True) for name, value in draws.items()}
        if "affine" in draws:
            x = geometry.affine(x, draws["affine"], self.fill)
        if "resized_crop" in draws:
            x = geometry.resized_crop(x, draws["resized_crop"])
        if "crop" in draws:
            x = geometry.crop(x, draws["crop"], self.crop, self.fill)
        if "jitter" in draws:
            x = colour.jitter(x, draws["jitter"], draws["jitter_order"])
        if "flip" in draws:
            x = geometry.flip(x, draws["flip"])
        if "cutout" in draws:
            x = geometry.cutout(x, draws["cutout"], self.cutout, self.fill)
        return x


def boxes(
    count: int, height: int, width: int, area: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Random boxes as torchvision's RandomResizedCrop draws them, int64 (count, 4): top, left, height, width.

    Area uniform in `area` (shares of the image), shape log-uniform in `RATIO`; the first of `ATTEMPTS` boxes
    that fits is taken. Where none does, the largest centred box of an allowed shape.
    """
    uniform = torch.rand(count, ATTEMPTS, 2, generator=generator)
    share = (area[0] + (area[1] - area[0]) * uniform[..., 0]) * height * width
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(low + (high - low) * uniform[..., 1])
    sides = torch.stack([(share / ratio).sqrt(), (share * ratio).sqrt()], 2)  # (count, ATTEMPTS, 2)
    size = sides.round().long()
    fits = ((size > 0) & (size <= torch.tensor([height, width]))).all(2)
    first = fits.float().argmax(1)  # 0 where none fits
    size = size[torch.arange(count), first]
    place = (torch.rand(count, 2, generator=generator) * (torch.tensor([height, width]) - size + 1)).long()
    whole = (min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1])))
    centred = torch.tensor([(height - whole[0]) // 2, (width - whole[1]) // 2, *whole])
    return torch.where(fits.any(1, keepdim=True), torch.cat([place, size], 1), centred)
