"""Loss and accuracy over the images of an epoch, as torchmetrics sums them: in float64, over all processes.

torchmetrics is imported where a meter is made: it takes seconds, and a chapter that reads records makes none.
"""

from __future__ import annotations

import torch
from torch import Tensor

NAMES = ("loss", "top1", "top5", "images")


class Meter:
    """Sums over images: loss, top-1 and top-5 hits, images."""

    def __init__(self, device: torch.device) -> None:
        from torchmetrics import MetricCollection
        from torchmetrics.aggregation import SumMetric

        # a loss that is not a number must show: it stops the run
        sums = {name: SumMetric(nan_strategy="disable") for name in NAMES}
        self.sums = MetricCollection(sums, compute_groups=False).to(device).set_dtype(torch.float64)

    def add(self, loss: Tensor, top1: Tensor, top5: Tensor | None, images: int) -> None:
        """``loss``: the sum over ``images``; ``top1`` and ``top5``: how many are right. Nothing waits for a GPU."""
        loss = loss.detach().double()
        values = {"loss": loss, "top1": top1.double(), "images": loss.new_full((), images)}
        for name, value in values.items() if top5 is None else {**values, "top5": top5.double()}.items():
            self.sums[name].update(value)

    def local(self) -> tuple[float, float, float]:
        """Loss, hits and images of this process alone, as sums."""
        return tuple(self.sums[name].sum_value.item() for name in ("loss", "top1", "images"))

    def over_all(self) -> dict[str, float]:
        """The sums over all processes, each of which must call this."""
        for name in NAMES:
            self.sums[name].update(torch.zeros((), dtype=torch.float64, device=self.sums[name].device))
        return {name: value.item() for name, value in self.sums.compute().items()}

    def means(self) -> dict[str, float]:
        """Mean loss, and accuracies in per cent, over all processes."""
        sums = self.over_all()
        images = sums["images"]
        return {
            "loss": sums["loss"] / images,
            "top1": 100 * sums["top1"] / images,
            "top5": 100 * sums["top5"] / images,
            "images": images,
        }

    def restore(self, totals: Tensor) -> None:
        """Begin from the sums of a checkpoint: loss, hits, images."""
        for name, value in zip(("loss", "top1", "images"), totals.double(), strict=True):
            self.sums[name].update(value.to(self.sums[name].device))

    def reset(self) -> None:
        self.sums.reset()
