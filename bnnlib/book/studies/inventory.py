"""What a net is made of, layer by layer: weights, bits, multiply-adds, and what a sign sees.

Everything is read off the model while it runs once, so that a table in the book cannot differ from the code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnnlib import layers

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("1-bit", "additions", "real")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer. ``shape``: of its weight; ``output``: ``(C, H, W)`` or ``(C,)`` of one
    image; ``macs``: multiply-adds for one image, padding counted as if it held values."""

    name: str
    binary: bool
    shape: tuple[int, ...]
    output: tuple[int, ...]
    macs: int

    @property
    def weights(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def products(self) -> int:
        """n: the number of products in one output."""
        return self.weights // self.shape[0]

    @property
    def bits(self) -> int:
        """Of the weights in the trained net."""
        return self.weights * (1 if self.binary else 32)


def weighted_layers(model: nn.Module, x: Tensor) -> list[Layer]:
    """The layers of ``model`` that multiply, in the order in which ``x`` ``(N, C, H, W)`` passes them.

    Runs the model once in evaluation mode, and leaves it as it was.
    """
    found: list[Layer] = []
    binary = layers.binary_layers(model)

    def watch(name: str):
        def see(module: nn.Module, inputs, y: Tensor) -> None:
            shape = tuple(module.weight.shape)
            positions = y[0].numel() // shape[0]
            macs = positions * module.weight.numel()
            found.append(Layer(name, name in binary, shape, tuple(y.shape[1:]), macs))

        return see

    kinds = (nn.Conv2d, nn.Linear, layers.BinaryConv2d, layers.BinaryLinear)
    watched = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    _run(model, x, {module: watch(name) for name, module in watched.items()})
    return found


def operations(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Products of the convolutions and linear layers for one image of ``x`` ``(N, C, H, W)``, by :data:`KINDS`:
    ``1-bit`` (+-1 times +-1), ``additions`` (a real value times +-1), ``real``."""
    binary = layers.binary_layers(model)
    found = dict.fromkeys(KINDS, 0)
    for layer in weighted_layers(model, x):
        found[_kind(binary.get(layer.name))] += layer.macs
    return found


def _kind(layer: layers.BinaryLayer | None) -> str:
    if layer is None:
        return "real"
    return "1-bit" if layer.binary_input else "additions"


def frame(model: nn.Module, x: Tensor) -> pd.DataFrame:
    """:func:`weighted_layers` as a table: a row a layer, sizes in KiB, multiply-adds in millions."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "layer": layer.name,
                "weights": "×".join(map(str, layer.shape)),
                "output": "×".join(map(str, layer.output)),
                "bits a weight": 1 if layer.binary else 32,
                "KiB": layer.bits / 8 / 1024,
                "KiB at 32 bits": layer.weights * 4 / 1024,
                "million MAC": layer.macs / 1e6,
            }
            for layer in weighted_layers(model, x)
        ]
    ).set_index("layer")


def sign_information(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Bits of information in one binarised activation of each binary layer, mean over channels: 1 where half
    of a channel's signs are +1, 0 where they are all alike.

    Batch norm goes by the statistics of ``x``, as in the first step of training; the running ones are left as they
    were.
    """
    found: dict[str, float] = {}

    def watch(name: str):
        def see(module: nn.Module, inputs, y: Tensor) -> None:
            with torch.no_grad():
                positive = (module.binarize_input(inputs[0]) > 0).double()
            channel = 1 if positive.dim() == 4 else -1
            share = positive.movedim(channel, 0).flatten(1).mean(dim=1)
            found[name] = entropy(share).mean().item()

        return see

    seen = {module: watch(name) for name, module in layers.binary_layers(model).items()}
    _run(model, x, seen, training=True)
    return found


def entropy(share: Tensor) -> Tensor:
    """Bits in a sign that is +1 with probability ``share``; elementwise, 0 at 0 and 1.

    >>> entropy(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0., 1., 0.])
    """
    other = 1 - share
    nats = 0 - torch.xlogy(share, share) - torch.xlogy(other, other)  # 0 -, not a minus sign: no -0
    return nats / math.log(2)


@torch.no_grad()
def _run(model: nn.Module, x: Tensor, hooks: dict, *, training: bool = False) -> None:
    """One forward pass with forward ``hooks`` by module; modes and buffers are as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        model.train(training)
        model(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
