"""What a data set is: two splits, the names of its classes, and the statistics to normalise it by.

A `Split` holds all of its images in memory as bytes; `bnnlib.data.lazy.LazySplit` has the same interface for
sets too large for that. Both are immutable: taking a part gives a new split.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnnlib.data import fingerprint as fp
from bnnlib.data.random import generator

if TYPE_CHECKING:
    from bnnlib.data.lazy import LazySplit


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels held whole in memory.

    images: uint8 (N, C, H, W), 0..255; float32 for images that a transform was applied to once (see `map`).
    labels: int64 (N,).
    mean, std: statistics of one channel each, on the 0..1 scale, by which `Batches` normalises uint8 images.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images must be uint8 or float32 of shape (N, C, H, W), not {self.images.dtype} of shape "
                f"{tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), one for each image, not "
                f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> Split:
        """The same split with images and labels on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, index: Tensor) -> Split:
        """The images at `index` (int64 or bool), in that order."""
        index = index.to(self.device)
        return replace(self, images=self.images[index], labels=self.labels[index])

    def map(self, transform, batch_size: int = 1000) -> Split:
        """A split of float32 images with `transform` applied to each once, for transforms too dear to repeat.

        transform: (B, C, H, W) -> (B, C', H', W'), such as a fitted `ZCAWhitening`. `Batches` does not
        normalise the result again.
        """
        parts = [transform(part).float() for part in self.images.split(batch_size)]
        return replace(self, images=torch.cat(parts), mean=(0.0,), std=(1.0,))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over labels and pixels, see `bnnlib.data.fingerprint`."""
        return fp.of_images(self.images, self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set: training and test split, class names (position = label), normalisation statistics."""

    name: str
    train: Split | LazySplit
    test: Split | LazySplit
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    part: str = field(default="", repr=False)  # how this is a subset of the whole set; "" for the whole

    @cached_property
    def fingerprint(self) -> str:
        """One line that identifies labels and pixels of both splits; a subset's says that it is one."""
        return fp.combine(self.train.fingerprint, self.test.fingerprint) + self.part

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> Dataset:
        """A stratified part for quick runs: `train` and `test` images (None: all), the same for a seed."""
        if train is None and test is None:
            return self
        parts = {}
        for which, count in (("train", train), ("test", test)):
            split = getattr(self, which)
            if count is None or count == len(split):
                parts[which] = split
            else:
                parts[which] = split.take(stratified(split.labels, count, seed))
        told = f"+subset(train={len(parts['train'])},test={len(parts['test'])},seed={seed})"
        return replace(self, **parts, part=self.part + told)


def stratified(labels: Tensor, count: int, seed: int) -> Tensor:
    """Positions of `count` images drawn without replacement, each class in proportion; ascending, int64.

    What is left over after rounding down goes to the classes with the largest remainders, so that every class
    is within one image of its exact share.
    """
    labels = labels.cpu()
    if not 0 < count <= len(labels):
        raise ValueError(
            f"cannot take {count} of {len(labels)} images: give a number from 1 to {len(labels)}"
        )
    sizes = torch.bincount(labels)
    share = sizes.double() * count / len(labels)
    take = share.floor().long()
    short = count - int(take.sum())
    take[torch.argsort(take.double() - share, stable=True)[:short]] += 1
    draw = generator(seed, "stratified")
    chosen = []
    for label, n in enumerate(take.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=draw)[:n]])
    return torch.cat(chosen).sort().values


def split_validation(split: Split | LazySplit, fraction: float, seed: int) -> tuple:
    """(rest, validation): two disjoint parts of a training split, stratified, the same for a seed."""
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction = {fraction} is impossible: give the validation part as a number between 0 and 1"
        )
    count = round(fraction * len(split))
    if not 0 < count < len(split):
        raise ValueError(f"fraction = {fraction} of {len(split)} images leaves one of the two parts empty")
    chosen = torch.zeros(len(split), dtype=torch.bool)
    chosen[stratified(split.labels, count, seed)] = True
    return split.take((~chosen).nonzero().flatten()), split.take(chosen.nonzero().flatten())
