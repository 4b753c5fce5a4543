"""LeNet-5 on 28x28 images as S4 (jiecaoyu/XNOR-Net-PyTorch, MNIST) has it, and its real-valued twin.

conv 1->20 5x5 - BN (no affine) - ReLU - pool 2 - [BN - sign - conv 20->50 5x5 - ReLU] - pool 2 - [BN - sign
- linear 800->500 - ReLU] - linear 500->10. The bracketed layers are binary; the first and the last stay
real-valued.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnnlib.layers.options import over_defaults
from bnnlib.models import register
from bnnlib.models.blocks import Block, activation

S4_LAYER = {"scale": "mean", "gradient": "s4", "latent": "center-clip", "ste": "clipped"}


@register("lenet5-real", binary=False, without=["layer"])
@register("lenet5")
class LeNet5(nn.Module):
    """``(N, in_channels, 28, 28) -> (N, classes)`` logits.

    ``act``: activation; ``gamma_min``: floor of the batch norms' gamma; ``first_affine``: whether the first
    batch norm learns an affine map; ``pool_first``: whether each pooling comes right after its convolution,
    which leaves a quarter of the values to what follows; ``norm``: whether there are batch norms;
    ``binary=False``: the same layers in the same order without the signs; ``layer``: options of the binary
    layers, S4's where not given (see :class:`bnnlib.layers.Options`).
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 10,
        act: str = "relu",
        gamma_min: float | None = 0.01,
        first_affine: bool = False,
        pool_first: bool = False,
        norm: bool = True,
        binary: bool = True,
        layer: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        layer = over_defaults(S4_LAYER, layer)
        self.pool_first = pool_first
        common = {"binary": binary, "act": act, "gamma_min": gamma_min, "norm": norm, "layer": layer}
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.bn1 = nn.BatchNorm2d(20, eps=1e-4, momentum=0.1, affine=first_affine) if norm else nn.Identity()
        self.act1 = activation(act, 20)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = Block(20, 50, 5, **common)
        self.fc1 = Block(50, 500, positions=16, **common)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)  # (N, 20, 24, 24)
        if self.pool_first:
            x = self.act1(self.bn1(self.pool(x)))
            x = self.conv2.act(self.pool(self.conv2.layer(self.conv2.bn(x))))
        else:
            x = self.pool(self.act1(self.bn1(x)))  # (N, 20, 12, 12)
            x = self.pool(self.conv2(x))  # (N, 50, 4, 4)
        return self.fc2(self.fc1(x))
