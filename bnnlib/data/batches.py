"""Batches of an epoch, resumable in the middle and shardable over processes.

The order of epoch e depends on (seed, e) alone and the augmentation of its step s on (seed, e, s) alone. Nothing
is remembered between epochs or steps, so a run resumed at step s of epoch e sees exactly what the uninterrupted
one saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bnnlib.data.augment import Augment
from bnnlib.data.random import generator
from bnnlib.data.splits import Split
from bnnlib.data.transforms import Normalize


class Batches:
    """Cut a split into batches of (index, x, y).

    index: int64 (B,) positions in the split, on the CPU. x: float32 (B, C, H, W) on `device`. y: int64 (B,) there.

    split: moved to `device` whole.
    batch_size: of the global batch; with `world` processes each gets its share of it.
    augment: `Augment` or None. transform: uint8 or float batch on the 0..255 scale -> float32 batch; None
    normalises by the split's own mean and std (images already made float32 by `Split.map` pass as they are).
    shuffle: False keeps the order of the split. drop_last: leave out a last batch that is not full.
    rank, world: this process takes every world-th image of each global batch, starting at rank. The shards of a
    step are disjoint and together are the batch that one process would see, augmentation included; every image
    is seen exactly once an epoch (but for drop_last), so sums over ranks are exact. Shards of a last batch may
    differ in size by one, and be empty.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        augment: Augment | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} is impossible: give 1 or more")
        if not 0 <= rank < world:
            raise ValueError(f"rank = {rank} of world = {world} is impossible: ranks count from 0 to world - 1")
        self.split = split.to(device)
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.device, self.shuffle, self.drop_last = torch.device(device), shuffle, drop_last
        self.rank, self.world = rank, world
        if transform is None and split.images.dtype == torch.uint8:
            transform = Normalize(split.mean, split.std)
        self.transform = transform.to(device) if isinstance(transform, torch.nn.Module) else transform
        if len(self) == 0:
            raise ValueError(f"no batch of {batch_size} in {len(split)} images: give a smaller batch_size")

    def __len__(self) -> int:
        """Steps in an epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> Tensor:
        """Positions in the order of this epoch, int64 (N,)."""
        if not self.shuffle:
            return torch.arange(len(self.split))
        return torch.randperm(len(self.split), generator=generator(self.seed, "order", epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of an epoch from step `start` on."""
        if not 0 <= start <= len(self):
            raise ValueError(f"start = {start} is impossible: an epoch has {len(self)} steps")
        order = self.order(epoch)
        for step in range(start, len(self)):
            yield self.batch(order[step * self.batch_size : (step + 1) * self.batch_size], epoch, step)

    def batch(self, members: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's share of the global batch `members` (int64 positions)."""
        index = members[self.rank :: self.world]
        here = index.to(self.device, non_blocking=True)
        x, y = self.split.images.index_select(0, here), self.split.labels.index_select(0, here)
        if self.augment is not None:
            draws = self.augment.draw(len(members), self.split.shape, generator(self.seed, "augment", epoch, step))
            x = self.augment(x, {name: rows[self.rank :: self.world] for name, rows in draws.items()})
        return index, (self.transform(x) if self.transform is not None else x), y
