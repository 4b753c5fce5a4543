"""How large a net is and what it computes: the bytes of its whole packed file, and its operations by kind.

Neither depends on what was learned, so both are measured on a net that was never trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from bnnlib import building, deploy, inventory, layers
from bnnlib.recipes import Recipe

KINDS = ("1-bit", "additions", "real")


def packed_bytes(recipe: Recipe, reals: Sequence[str] = ("float32",)) -> list[int]:
    """Bytes of the file that :func:`bnnlib.deploy.save` writes of ``recipe``'s net (a real-valued one too), header
    and all, for each way ``reals`` to store its real-valued weights."""
    net = building.model(recipe)
    found = []
    with tempfile.TemporaryDirectory(prefix="bnn-size-") as folder:
        for real in reals:
            path = deploy.save(
                net,
                Path(folder) / "net.safetensors",
                recipe=recipe,
                seed=0,
                top1=0.0,
                fingerprint="untrained",
                real=real,
            )
            found.append(path.stat().st_size)
    return found


def operations(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Products of the convolutions and linear layers for one image of ``x`` ``(N, C, H, W)``, by :data:`KINDS`:
    ``1-bit`` (+-1 times +-1), ``additions`` (a real value times +-1), ``real``."""
    binary = layers.binary_layers(model)
    found = dict.fromkeys(KINDS, 0)
    for layer in inventory.weighted_layers(model, x):
        found[_kind(binary.get(layer.name))] += layer.macs
    return found


def _kind(layer: nn.Module | None) -> str:
    if layer is None:
        return "real"
    return "1-bit" if getattr(layer, "binary_input", True) else "additions"
