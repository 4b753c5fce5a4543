"""Network in Network on 32x32 images as S4 (jiecaoyu/XNOR-Net-PyTorch, CIFAR-10) has it, and its real-valued
twin.

192(5x5)-160-96, max-pool 3/2, 192(5x5)-192-192, average pool 3/2, 192(3x3)-192-10, average pool 8; a plain
number is a 1x1 conv. The first and the last conv are real-valued; dropout .5 follows the sign of binary
convs 3 and 6 of the code's count, those behind the pools.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnnlib.layers.options import over_defaults
from bnnlib.models import register
from bnnlib.models.blocks import Block, activation
from bnnlib.models.lenet import S4_LAYER


@register("nin-real", binary=False, without=["layer"])
@register("nin")
class NIN(nn.Module):
    """``(N, in_channels, 32, 32) -> (N, classes)`` logits.

    ``act``, ``gamma_min``, ``first_affine``, ``binary``: as in :class:`bnnlib.models.lenet.LeNet5`.
    ``dropout`` follows the sign of the first conv behind each pool; ``layer``: options of the binary convs,
    S4's where not given. ``width``: channels of the first conv, to which all others are in proportion.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        act: str = "relu",
        gamma_min: float | None = 0.01,
        first_affine: bool = False,
        dropout: float = 0.5,
        binary: bool = True,
        layer: dict[str, Any] | None = None,
        width: int = 192,
    ) -> None:
        super().__init__()
        layer = over_defaults(S4_LAYER, layer)
        common = {"binary": binary, "act": act, "gamma_min": gamma_min, "layer": layer}
        w, narrow, half = width, 160 * width // 192, 96 * width // 192
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, w, 5, padding=2),
            nn.BatchNorm2d(w, eps=1e-4, momentum=0.1, affine=first_affine),
            activation(act, w),
            Block(w, narrow, 1, **common),
            Block(narrow, half, 1, **common),
            nn.MaxPool2d(3, stride=2, padding=1),  # 16x16
            Block(half, w, 5, padding=2, dropout=dropout, **common),
            Block(w, w, 1, **common),
            Block(w, w, 1, **common),
            nn.AvgPool2d(3, stride=2, padding=1),  # 8x8
            Block(w, w, 3, padding=1, dropout=dropout, **common),
            Block(w, w, 1, **common),
            nn.BatchNorm2d(w, eps=1e-4, momentum=0.1),
            nn.Conv2d(w, classes, 1),
            activation(act, classes),
            nn.AvgPool2d(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)
