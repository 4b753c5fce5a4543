"""What becomes of latent weights: transforms before the sign, and constraints that hold after each optimizer
step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnlib import quantizers


class Center(nn.Module):
    """The weight less its mean over the input channels, differentiably; same shape."""

    def forward(self, weight: Tensor) -> Tensor:
        return quantizers.center(weight)


class Standardize(nn.Module):
    """The weight centred and scaled to unit variance per output channel, differentiably; same shape."""

    def forward(self, weight: Tensor) -> Tensor:
        return quantizers.standardize(weight)


class Clip(nn.Module):
    """A constraint: the latent weight within [-1, 1]. A constraint of your own is a module whose ``forward``
    takes the weight after an optimizer step and gives what it becomes."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.clamp(-1, 1)


class CenterClip(Clip):
    """A constraint: the latent weight less its mean over the input channels, then within [-1, 1] (S4's
    code)."""

    def forward(self, weight: Tensor) -> Tensor:
        return super().forward(weight - weight.mean(dim=1, keepdim=True))


TRANSFORMS: dict[str, type[nn.Module] | None] = {"none": None, "center": Center, "standardize": Standardize}
CONSTRAINTS: dict[str, type[nn.Module] | None] = {"free": None, "clip": Clip, "center-clip": CenterClip}


def named(what: str, given: object, kinds: dict[str, type[nn.Module] | None]) -> nn.Module | None:
    """The module that a name stands for, or the module that was given. Raises ``ValueError`` for an unknown
    name."""
    if isinstance(given, nn.Module):
        return given
    if not isinstance(given, str) or given not in kinds:
        raise ValueError(f"unknown {what} {given!r}: choose one of {', '.join(kinds)}, or give a module")
    kind = kinds[given]
    return None if kind is None else kind()


@torch.no_grad()
def hold_(constraint: nn.Module | None, weight: Tensor) -> None:
    """Bring ``weight`` back to where the constraint keeps it, in place."""
    if constraint is not None:
        weight.copy_(constraint(weight))
