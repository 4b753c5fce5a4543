"""The gradients of the scaled sign beside each other, and the file in which a comparison of them is stored.

:func:`compare` forms all five gradients of :func:`bnnlib.quantizers.scaled_sign` from the same latent weights ``W`` and the
same ``g = dC/dW~``, and compares each with the corrected one. :mod:`bnnlib.book.studies.gradient_runs` does so along
training runs and writes a :class:`Measurement`; :func:`read` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from bnnlib import quantizers, records
from bnnlib.paths import RESULTS

FOLDER = RESULTS / "gradients"
RECIPE = "s4-lenet5-15ep-corrected"
# The gradients that are in use; the records hold these.
GRADIENTS = ("identity", "detached", "paper", "corrected", "s4")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Strict):
    """One binary layer at one step. A dict has an entry for each gradient of the scaled sign.

    ``cosine``: with the corrected gradient, over the whole layer. ``channel_cosine``: the same within an
    output channel, mean over channels. ``rms``: root mean square of the gradient. ``along``:
    ``n cos(g, B)^2``, mean over channels: 1 for a ``g`` that knows nothing of ``B = sign(W)``, 0 where the
    cost does not depend on alpha. ``alpha_n``: mean of ``alpha n``.
    """

    seed: int = Field(ge=0)
    trained_with: str
    step: int = Field(ge=0)
    layer: str
    n: int = Field(gt=0)
    cosine: dict[str, float]
    channel_cosine: dict[str, float]
    rms: dict[str, float]
    along: float = Field(ge=0)
    alpha_n: float = Field(ge=0)


class Cost(_Strict):
    """CPU time under each gradient: median and quartiles over rounds of the ratio to ``detached``.

    ``milliseconds``: the median of ``detached`` itself, of one call.
    """

    what: Literal["training step", "scaled sign"]
    rounds: int = Field(gt=0)
    milliseconds: float = Field(gt=0)
    ratio: dict[str, float]
    quartiles: dict[str, tuple[float, float]]


class Measurement(_Strict):
    """The file that ``python -m bnnlib.gradients`` writes."""

    format: Literal[1] = 1
    recipe: str
    resolved: dict[str, Any]
    recipe_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    steps: int = Field(gt=0, description="of one run; the recipe's schedule is compressed into them")
    seeds: list[int]
    dataset: records.Data
    points: list[Point] = Field(min_length=1)
    costs: list[Cost]
    wall_time_s: float = Field(ge=0)
    started: str
    commit: records.Commit
    versions: dict[str, str]
    hardware: dict[str, Any]


def scaled_sign_gradient(w: Tensor, g: Tensor, gradient: quantizers.WeightGradient = "corrected") -> Tensor:
    """``dC/dW`` under ``gradient`` from ``g = dC/dW~``; shape and dtype of ``w``, ``(C_out, C_in, ...)``."""
    w = w.detach().requires_grad_()
    return torch.autograd.grad(quantizers.scaled_sign(w, gradient), w, g)[0]


def adam_path(
    gradients: Sequence[Tensor],
    start: Tensor,
    *,
    factor: float = 1.0,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Tensor:
    """Where Adam, with L2 weight decay, goes from ``start`` when given ``factor`` times each gradient.

    Returns ``(steps, *start.shape)``. The factor does what dividing ``eps`` and ``weight_decay`` by it does.
    """
    w = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.01, eps=eps, weight_decay=weight_decay)
    path = []
    for g in gradients:
        w.grad = factor * g
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def compare(w: Tensor, g: Tensor) -> dict[str, Any]:
    """The fields of a :class:`Point` that come from the weights and ``g`` of one layer, in float64.

    Channels that get no gradient at all, such as those of a ReLU that stays off, are left out. Raises
    ``ValueError`` where none gets any.
    """
    w, g = w.detach().double(), g.detach().double()
    live = g.flatten(1).any(dim=1)
    if not live.any():
        raise ValueError("no gradient reaches the weights: g is 0 everywhere")
    w, g = w[live], g[live]
    found = {kind: scaled_sign_gradient(w, g, kind).flatten(1) for kind in GRADIENTS}
    right, signs, rows = found["corrected"], quantizers.sign(w).flatten(1), g.flatten(1)
    n = rows.shape[1]
    whole = {
        k: nn.functional.cosine_similarity(v.flatten(), right.flatten(), dim=0).item()
        for k, v in found.items()
    }
    each = {k: nn.functional.cosine_similarity(v, right, dim=1).mean().item() for k, v in found.items()}
    size = {k: v.square().mean().sqrt().item() for k, v in found.items()}
    along = (n * nn.functional.cosine_similarity(rows, signs, dim=1).square()).mean().item()
    return {
        "n": n,
        "cosine": whole,
        "channel_cosine": each,
        "rms": size,
        "along": along,
        "alpha_n": quantizers.mean_scale(w).mean().item() * n,
    }


def read(path: Path) -> Measurement:
    """Read and check a measurement. Raises :class:`bnnlib.records.RecordError` for one absent or damaged."""
    return records.read_measurement(Measurement, path, "python -m bnnlib.gradients")
