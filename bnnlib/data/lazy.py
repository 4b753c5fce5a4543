"""Splits too large for memory: images are decoded from their files, batch by batch, by worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bnnlib.data import fingerprint as fp
from bnnlib.data.folders import Tree, open_image
from bnnlib.data.random import generator, mix

View = Callable[[Image.Image], Tensor]  # RGB image -> uint8 (C, H, W), the same shape for every image


@dataclass(frozen=True, eq=False)
class LazySplit:
    """Files and labels of a split; the interface of `Split` but for `images`, `shape` and `map`.

    root: folder that `names` are relative to.
    names: bytes (N,); an array, because a million Python strings would be copied into every worker.
    sizes: int64 (N,), bytes. labels: int64 (N,).
    view: what a batch shows when no other view is asked for (no augmentation).
    mean, std: as in `Split`.
    """

    root: Path
    names: np.ndarray
    sizes: np.ndarray
    labels: Tensor
    view: View
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.names[index])

    def decode(self, index: int) -> Image.Image:
        """One image as RGB; raises DataError naming the file if it is damaged."""
        return open_image(self.path(index)).convert("RGB")

    def to(self, device: torch.device | str) -> LazySplit:
        """The split itself, since images are decoded on the CPU."""
        return self

    def take(self, index: Tensor) -> LazySplit:
        """The images at `index` (int64 or bool), in that order."""
        here = index.cpu().numpy()
        return replace(self, names=self.names[here], sizes=self.sizes[here], labels=self.labels[index.cpu()])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the listing of (label, file name, size); the pixels are not read."""
        files = (os.fsdecode(name.rsplit(b"/", 1)[-1]) for name in self.names)
        return fp.of_listing(zip(map(str, self.labels.tolist()), files, self.sizes.tolist(), strict=True))


def split_of(tree: Tree, view: View, mean: tuple[float, ...], std: tuple[float, ...]) -> LazySplit:
    """A lazily decoded split of a listed tree."""
    names = np.array([os.fsencode(name) for name in tree.names])
    sizes = np.array([size for size, _ in tree.stats], dtype=np.int64)
    return LazySplit(tree.root, names, sizes, torch.tensor(tree.labels), view, mean, std)


class Items(torch.utils.data.Dataset):
    """What a worker process runs: decode an image and show it, at random by (seed, epoch, index) alone."""

    def __init__(self, split: LazySplit, view: View | None, seed: int, epoch: int) -> None:
        self.split, self.view, self.keys = split, view or split.view, (seed, "view", epoch)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Tensor:
        image = self.split.decode(index)
        state = torch.get_rng_state()  # torchvision draws from the global generator; leave it as it was
        try:
            torch.default_generator.manual_seed(mix(*self.keys, index))
            shown = self.view(image)
        finally:
            torch.set_rng_state(state)
        if shown.dtype != torch.uint8 or shown.ndim != 3:
            raise ValueError(
                f"a view must give uint8 (C, H, W), this one gave {shown.dtype} {tuple(shown.shape)}"
            )
        return shown


def loader(
    split: LazySplit,
    view: View | None,
    batches: list[list[int]],
    *,
    seed: int,
    epoch: int,
    workers: int,
    pin: bool,
) -> torch.utils.data.DataLoader:
    """uint8 (B, C, H, W) for each list of positions, decoded by `workers` processes (0: in this one)."""
    return torch.utils.data.DataLoader(
        Items(split, view, seed, epoch),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_stack,
        generator=generator(seed, "loader", epoch),  # or it would draw from the global one
    )


def _stack(images: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise ValueError(f"a view must give images of one shape, this one gave {shapes[0]} and {shapes[1]}")
    return torch.stack(images)
