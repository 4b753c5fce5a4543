"""The MLP of S3 (XNOR GEMM as a PyTorch extension, MNIST), and its real-valued twin.

784 -> 1024 -> 768 (no activation between the two) - ReLU - binary linear 768 -> 512 with bias - ReLU - 10.
Only the middle layer is binary: identity STE for input and weights, no scale, no clipping. S3 binarises ``x
> 0`` to +1 and zero to -1, right after a ReLU: with
``sign(0) = +1`` every activation would be +1 and the layer constant, so the layer carries its own
``sign_of_zero=-1``.

S3's rule applies to its weights too, but a trained real-valued weight is never exactly zero.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnnlib.layers import BinaryLinear
from bnnlib.models import register


@register("mlp-real", binary=False, without=["sign_of_zero"])
@register("mlp")
class MLP(nn.Module):
    """``(N, C, H, W) -> (N, classes)`` logits, with ``C * H * W == features``.

    ``sign_of_zero``: of the binary layer's input, -1 as S3 has it; 1 makes it constant. ``binary=False``:
    that layer real-valued.
    """

    def __init__(
        self, features: int = 784, classes: int = 10, sign_of_zero: int = -1, binary: bool = True
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 1024)
        self.fc2 = nn.Linear(1024, 768)
        self.fc3 = (
            BinaryLinear(
                768, 512, scale="none", ste="identity", weight_ste="identity", sign_of_zero=sign_of_zero
            )
            if binary
            else nn.Linear(768, 512)
        )
        self.fc4 = nn.Linear(512, classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.fc2(self.fc1(x.flatten(1))))
        return self.fc4(self.relu(self.fc3(x)))


@register("binary-mlp")
class BinaryMLP(nn.Module):
    """``(N, C, H, W) -> (N, classes)`` logits: real-valued linear, binary linears ``hidden -> hidden``,
    real-valued linear. The signs of the ``depth`` binary layers are its only non-linearities.

    ``norm``: whether a batch norm stands before each of them; without it the scale of the weights reaches the
    next sign's estimator. ``layer``: options of the binary layers (see :class:`bnnlib.layers.Options`).
    """

    def __init__(
        self,
        features: int = 784,
        classes: int = 10,
        hidden: int = 256,
        depth: int = 2,
        norm: bool = True,
        layer: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1 or depth < 1:
            raise ValueError(f"hidden is {hidden} and depth {depth}: both must be at least 1")
        self.first = nn.Linear(features, hidden)
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) if norm else nn.Identity() for _ in range(depth))
        self.middle = nn.ModuleList(BinaryLinear(hidden, hidden, **(layer or {})) for _ in range(depth))
        self.last = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for norm, layer in zip(self.norms, self.middle, strict=True):
            x = layer(norm(x))
        return self.last(x)
