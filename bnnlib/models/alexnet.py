"""AlexNet on 227x227 images as S4 (jiecaoyu/XNOR-Net-PyTorch, ImageNet) has it, and its real-valued twin.

conv 3->96 11x11/4 - BN - ReLU - pool; binary convs 96->256 5x5 - pool - 256->384, 384->384, 384->256 3x3 -
pool; binary linear ->4096 and, with dropout .5 after the sign, 4096->4096; BN - dropout .5 - linear
->classes. Pools are 3x3/2, convs have a bias and one group; a binary layer is S4's block BN - sign -
[dropout] - layer - ReLU. The first and the last layer stay real-valued. Inputs: pixels on the 0..255 scale
less their mean.

S4's code multiplies the gradient of the binary weights by 1e9 more than its other nets do. Its first batch
norm has an affine map here.

Images of 64 pixels would leave nothing after the third pool: the stem is then 11x11/2 with padding 5 (32x32,
pooled to 15, 7 and 3), all else the same, so that the first binary linear layer takes 256 x 3 x 3 inputs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bnnlib.layers import Dropout
from bnnlib.layers.options import over_defaults
from bnnlib.models import register
from bnnlib.models.blocks import Block, activation
from bnnlib.models.lenet import S4_LAYER

SMALL_IMAGE = 128  # below it the stem halves the image instead of quartering it


@register("alexnet-real", binary=False, without=["layer"])
@register("alexnet")
class AlexNet(nn.Module):
    """``(N, in_channels, image, image) -> (N, classes)`` logits.

    ``image``: pixels of a side. ``act``, ``gamma_min``, ``first_affine``, ``binary``: as in
    :class:`bnnlib.models.lenet.LeNet5`. ``layer``: options of the binary layers, S4's where not given (gain
    1e9). ``width``: channels of the first conv, to which all others are in proportion.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1000,
        image: int = 227,
        act: str = "relu",
        gamma_min: float | None = 0.01,
        first_affine: bool = True,
        dropout: float = 0.5,
        binary: bool = True,
        layer: dict[str, Any] | None = None,
        width: int = 96,
    ) -> None:
        super().__init__()
        layer = over_defaults({**S4_LAYER, "gain": 1e9}, layer)
        stride, padding = (2, 5) if image < SMALL_IMAGE else (4, 0)
        side = (image + 2 * padding - 11) // stride + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        if side < 1:
            raise ValueError(
                f"image is {image}: nothing would be left after the pools, it must be at least 29 pixels"
            )
        common = {"binary": binary, "act": act, "gamma_min": gamma_min, "layer": layer}
        middle, wide, linear = (n * width // 96 for n in (256, 384, 4096))
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 11, stride, padding),
            nn.BatchNorm2d(width, eps=1e-4, momentum=0.1, affine=first_affine),
            activation(act, width),
            nn.MaxPool2d(3, 2),
            Block(width, middle, 5, padding=2, **common),
            nn.MaxPool2d(3, 2),
            Block(middle, wide, 3, padding=1, **common),
            Block(wide, wide, 3, padding=1, **common),
            Block(wide, middle, 3, padding=1, **common),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            # Flattened, so that its batch norm has a gamma for each of the inputs.
            Block(middle * side * side, linear, **common),
            Block(linear, linear, dropout=dropout, **common),
            nn.BatchNorm1d(linear, eps=1e-3, momentum=0.1),
            Dropout(dropout),
            nn.Linear(linear, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
