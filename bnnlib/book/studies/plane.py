"""Two gradients of the scaled sign over the plane of two weights: a drawing that stands still, and one with sliders.

For ``W = (W1, W2)`` the scaled sign is ``W~ = alpha sign(W)`` with ``alpha = (|W1| + |W2|) / 2``, and the cost is half the squared
distance of ``W~`` from a target. The drawing with sliders is plain JavaScript (``plane.js``) and needs no server and no network. A test
holds its numbers equal to those of :func:`descent`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bnnlib import quantizers
from bnnlib.book import figures
from bnnlib.book.studies import gradients

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure

WEIGHTS, TARGET = (-0.4, 0.7), (0.9, 0.3)
"""Where both drawings begin."""
COMPARED = {"corrected": figures.BINARY, "paper": figures.SOURCE}
ARROW = 0.16
"""Length of an arrow in the plane, of a gradient of length 1."""


def descent(weights: Tensor, gradient: str, target: tuple[float, float] = TARGET, whole: bool = False) -> Tensor:
    """Minus ``dC/dW`` at each of ``weights``, ``(m, 2)``, under a gradient of :func:`bnnlib.quantizers.scaled_sign`.

    whole: with the part through the sign, by the clipped estimator; otherwise the part through alpha alone.
    """
    g = quantizers.scaled_sign(weights) - torch.tensor(target, dtype=weights.dtype)
    full = gradients.scaled_sign_gradient(weights, g, gradient)
    return -(full if whole else full - gradients.scaled_sign_gradient(weights, g, "detached"))


def draw(weights: tuple[float, float] = WEIGHTS, target: tuple[float, float] = TARGET) -> Figure:
    """The part through alpha of both gradients, side by side, with contours of the cost."""
    import matplotlib.pyplot as plt

    ticks = torch.linspace(-0.95, 0.95, 10, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    here = torch.tensor([weights], dtype=torch.float64)
    there = quantizers.scaled_sign(here)[0]
    drawn, axes = plt.subplots(1, 2, figsize=(figures.WIDTH, 4.1), sharey=True)
    for ax, (gradient, colour) in zip(axes, COMPARED.items(), strict=True):
        _contours(ax, target)
        arrows = {"angles": "xy", "scale_units": "xy", "scale": 1 / ARROW}
        ax.quiver(*grid.T, *descent(grid, gradient, target).T, color=colour, width=0.006, **arrows)
        ax.plot([weights[0], there[0]], [weights[1], there[1]], ":", color=figures.INK, lw=1)
        ax.plot(*there, "s", color=figures.INK, mfc="white", label=r"$\widetilde W$")
        ax.plot(*weights, "o", color=figures.INK, label="$W$")
        ax.plot(*target, "*", ms=13, color=figures.FURTHER[1], label="target")
        ax.quiver(*weights, *descent(here, gradient, target)[0], color=figures.INK, width=0.013, **arrows)
        ax.set(title=gradient, xlabel="$W_1$", aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
        ax.grid(False)
    axes[0].set_ylabel("$W_2$")
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return drawn


def _contours(ax, target: tuple[float, float]) -> None:
    """Of the cost, quadrant by quadrant: it jumps from one to the next."""
    half = torch.linspace(0.001, 1, 60, dtype=torch.float64)
    for sides in torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0])).double():
        w = torch.stack(torch.meshgrid(sides[0] * half, sides[1] * half, indexing="xy"), dim=-1)
        height = (quantizers.scaled_sign(w.flatten(0, 1)) - torch.tensor(target)).square().sum(1).view(60, 60) / 2
        ax.contour(w[..., 0], w[..., 1], height, levels=np.arange(0, 6, 0.1), colors=figures.FAINT, linewidths=0.8)


def live(name: str = "") -> HTML:
    """The drawing with sliders, as what a cell shows.

    name: of the figure that stands still. Where the page has it, this drawing takes its place on the screen; without JavaScript,
    and on paper, the other one stays.
    """
    from IPython.display import HTML

    settings = {"w": WEIGHTS, "target": TARGET, "name": name, "arrow": ARROW}
    script = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return HTML(f"<div class='plane' hidden data-settings='{json.dumps(settings)}'></div>\n<script>\n{script}</script>")
