"""What a run must not do without a word: train on numbers that are not finite, or without gradients."""

from __future__ import annotations

import math

from torch import nn

from bnnlib import layers


class TrainingError(RuntimeError):
    """A run that cannot go on, with the reason and the way out."""


def not_finite(model: nn.Module, loss: float) -> str | None:
    """What is not finite, in words: a sign turns NaN into -1, so that a binary net's loss can stay finite without being
    right."""
    if not math.isfinite(loss):
        return f"the loss became {loss}"
    values = ((name, v) for name, v in model.state_dict().items() if v.is_floating_point())
    return next((f"{name} is not finite" for name, v in values if not v.isfinite().all()), None)


def gradients_arrive(model: nn.Module) -> bool:
    """Whether a gradient arrives at any binary weight, or there is none: an estimator, or what a compiler made of it,
    may drop it without a word, and the net still learns something with its other weights. At single layers it may
    rightly be missing, behind signs whose inputs are all large."""
    weights = [layer.weight for layer in layers.binary_layers(model).values()]
    return not weights or any(w.grad is not None and w.grad.any() for w in weights)
