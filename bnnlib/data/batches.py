"""Batches of an epoch, resumable in the middle and shardable over processes.

The order of epoch e depends on (seed, e) alone; the augmentation of its step s on (seed, e, s) alone (of an
image that is decoded lazily, on (seed, e) and its position). Nothing is remembered between epochs or steps,
so a run resumed at step s of epoch e sees exactly what the uninterrupted one saw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bnnlib.data import lazy
from bnnlib.data.augment import Augment
from bnnlib.data.lazy import LazySplit
from bnnlib.data.random import generator
from bnnlib.data.splits import Split
from bnnlib.data.transforms import Normalize


class Batches:
    """Cut a split into batches of (index, x, y).

    index: int64 (B,), positions in the split, on the CPU.
    x: float32 (B, C, H, W), y: int64 (B,), both on `device`.

    split: a `Split` is moved to `device` whole; a `LazySplit` is decoded by worker processes.
    batch_size: of the global batch; with `world` processes each gets its share of it.
    augment: for a `Split` an `Augment` or None; for a `LazySplit` a view, such as `view("s5", train=True)`:
        PIL image -> uint8 (C, H, W), None being the split's own.
    transform: uint8 or float32 batch on the 0..255 scale -> float32 batch. None normalises by the split's own
        mean and std (images made float32 by `Split.map` pass as they are). A module is moved to `device`.
    shuffle: False keeps the order of the split. drop_last: leave out a last batch that is not full.
    rank, world: this process takes every world-th image of each global batch, from `rank` on. The shards of a
        step are disjoint and together are the batch that one process would see, augmentation included; every
        image is seen exactly once an epoch (but for drop_last), so sums over ranks are exact. Shards of a
        last batch differ in size by up to one and may be empty: weight by size, `count(step)` being the sum.
    workers: processes that decode a `LazySplit`; None for one a core, 8 at most; 0 decodes in this process.
    """

    def __init__(
        self,
        split: Split | LazySplit,
        batch_size: int,
        *,
        seed: int,
        augment: Augment | lazy.View | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        workers: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size} is impossible: give 1 or more")
        if not 0 <= rank < world:
            raise ValueError(
                f"rank = {rank} of world = {world} is impossible: ranks count from 0 to world - 1"
            )
        self.lazy = isinstance(split, LazySplit)
        if augment is not None and isinstance(augment, Augment) == self.lazy:
            wanted = "a view, such as view('s5', train=True)," if self.lazy else "an Augment"
            raise ValueError(
                f"augment = {augment!r} does not fit: a {type(split).__name__} takes {wanted} or None"
            )
        self.device = torch.device(device)
        self.split = split.to(self.device)
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world = rank, world
        self.workers = min(8, os.cpu_count() or 1) if workers is None else workers
        if transform is None and (self.lazy or split.images.dtype == torch.uint8):
            transform = Normalize(split.mean, split.std)
        self.transform = transform.to(self.device) if isinstance(transform, nn.Module) else transform
        if len(self) == 0:
            raise ValueError(f"no batch of {batch_size} in {len(split)} images: give a smaller batch_size")

    def __len__(self) -> int:
        """Steps in an epoch."""
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def count(self, step: int) -> int:
        """Images in the global batch of a step, all ranks together."""
        return min(self.batch_size, len(self.split) - step * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Positions in the order of this epoch, int64 (N,)."""
        if not self.shuffle:
            return torch.arange(len(self.split))
        return torch.randperm(len(self.split), generator=generator(self.seed, "order", epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batches of an epoch from step `start` on: (index, x, y) each."""
        if not 0 <= start <= len(self):
            raise ValueError(f"start = {start} is impossible: an epoch has {len(self)} steps")
        steps = range(start, len(self))
        members = self.order(epoch).split(self.batch_size)
        return self._decoded(epoch, steps, members) if self.lazy else self._resident(epoch, steps, members)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Epoch 0, the only one that an evaluation has."""
        return self.epoch(0)

    def _finish(self, x: Tensor) -> Tensor:
        return x if self.transform is None else self.transform(x)

    def _resident(self, epoch: int, steps: range, members: tuple[Tensor, ...]) -> Iterator:
        for step in steps:
            index = members[step][self.rank :: self.world]
            here = index.to(self.device, non_blocking=True)
            x, y = self.split.images.index_select(0, here), self.split.labels.index_select(0, here)
            if self.augment is not None:
                # Drawn for the global batch, so that a shard shows what the whole batch would have.
                draw = generator(self.seed, "augment", epoch, step)
                draws = self.augment.draw(len(members[step]), self.split.shape, draw)
                x = self.augment(x, {name: rows[self.rank :: self.world] for name, rows in draws.items()})
            yield index, self._finish(x), y

    def _decoded(self, epoch: int, steps: range, members: tuple[Tensor, ...]) -> Iterator:
        shards = [members[step][self.rank :: self.world] for step in steps]
        images = iter(
            lazy.loader(
                self.split,
                self.augment,
                [shard.tolist() for shard in shards if len(shard)],
                seed=self.seed,
                epoch=epoch,
                workers=self.workers,
                pin=self.device.type == "cuda",
            )
        )
        shape = None
        for index in shards:
            if len(index):
                x = next(images).to(self.device, non_blocking=True)
                shape = x.shape[1:]
            else:  # an empty shard has the shape of the others, if there are any to know it by
                x = torch.empty(0, *(shape or (3, 0, 0)), dtype=torch.uint8, device=self.device)
            yield index, self._finish(x), self.split.labels[index].to(self.device, non_blocking=True)
