"""What a network weighs as a file, whole: sign bits, real-valued parts, scales, norms and the header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bnnlib import layers, models
from bnnlib.deploy import container, trained


@dataclass(frozen=True)
class Sizes:
    """Bytes. ``fp32``: the file of the trained model with all its weights as float32; ``float32``, ``bfloat16``,
    ``int8``: the packed file, by how its real-valued weights are stored; ``bits``: of these, the binary weights;
    ``latent``: the binary weights as float32."""

    fp32: int
    float32: int
    bfloat16: int
    int8: int
    bits: int
    latent: int

    @property
    def factor(self) -> float:
        """How many times smaller the whole packed file is, its real-valued parts as float32."""
        return self.fp32 / self.float32


def of(name: str, options: dict[str, Any] | None = None) -> Sizes:
    """The sizes of the model that ``models.build(name, **options)`` builds. No memory is taken for its weights."""
    with torch.device("meta"):
        model = models.build(name, **(options or {}))
    return of_model(model)


def of_model(model: nn.Module) -> Sizes:
    """The sizes of ``model``, whose weights may be on the meta device."""
    state = {
        key: np.broadcast_to(np.zeros((), np.float32), tuple(value.shape))
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    packed = {real: trained.pack(model, real) for real in ("float32", "bfloat16", "int8")}
    binary = layers.binary_layers(model).values()
    return Sizes(
        fp32=container.size({}, state),
        **{real: container.size(*both) for real, both in packed.items()},
        bits=sum(a.nbytes for key, a in packed["float32"][1].items() if key.endswith(".weight.bits")),
        latent=sum(4 * layer.weight.numel() for layer in binary),
    )
