"""Run a trained net over a split: the inputs a recipe names, logits, and accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnlib import data
from bnnlib.data.views import S4_STD
from bnnlib.data.whitening import fitted


def input_transform(kind: str, dataset: data.Dataset) -> nn.Module:
    """What a recipe's ``input`` names, fitted on ``dataset.train``: ``normalized``, ``unit`` (0..1),
    ``mean-subtracted`` (0..255 less the mean, S4's ImageNet) or ``gcn-zca``."""
    if kind == "normalized":
        return data.Normalize(dataset.mean, dataset.std)
    if kind == "unit":
        return data.Normalize(0.0, 1.0)
    if kind == "mean-subtracted":
        return data.Normalize(dataset.mean, S4_STD[: len(dataset.mean)])
    if kind == "gcn-zca":
        return fitted(dataset.train)
    raise ValueError(f"unknown input {kind!r}: choose normalized, unit, mean-subtracted or gcn-zca")


@torch.no_grad()
def logits(model: nn.Module, split: data.Split, transform: nn.Module, batch_size: int = 500) -> Tensor:
    """The model's logits on every image of ``split``, in its order: ``(N, classes)`` float32 on the CPU.
    Sets evaluation mode."""
    model.eval()
    batches = data.Batches(split, batch_size, seed=0, transform=transform, shuffle=False)
    return torch.cat([model(x).float() for _, x, _ in batches.epoch(0)])


def top1(scores: Tensor, labels: Tensor) -> float:
    """Share of rows of ``scores`` whose largest entry is at ``labels``, in per cent."""
    return 100 * (scores.argmax(1) == labels).double().mean().item()
