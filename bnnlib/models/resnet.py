"""ResNet-18 as S5 (XNOR-Net++, arXiv 1909.13863) has it, its real-valued twin, and the variants that S5's
claims are tested with.

Stem: conv 7x7/2 - BN - ReLU - max-pool 3/2. Eight blocks of two binary 3x3 convs, of widths 64, 128, 256,
512; then average pool and linear. A block, in S5's order::

    o = BN(x)
    y = sign - conv - scale - ReLU - BN - sign - conv - scale - BN of o
    s = x, or, where the width grows, AvgPool2 - 1x1 conv - BN of o
    the next x = ReLU(y + s)

One shortcut spans two convs, and there is no PReLU. The scale of a binary conv is a product of learned
vectors over channels, rows and columns, all starting at 1, so the net is tied to one size of image. Every
binary weight starts in U[0, 0.001) and is centred over its input channels before the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnnlib.layers import SPATIAL, BinaryConv2d, binary_layers
from bnnlib.layers.options import over_defaults
from bnnlib.models import register

STAGES = (1, 1, 2, 2, 4, 4, 8, 8)  # width of each block, in widths of the first
Order = Literal["s5", "xnor", "resnet", "bireal"]
Downsample = Literal["real", "binary-weight", "binary"]
Stem = Literal["imagenet", "small"]

# What stands around the two convs of a block, and whether a ReLU follows the addition.
ORDERS: dict[str, tuple[tuple[str, ...], bool]] = {
    "s5": (("bn", "conv", "relu", "bn", "conv", "bn"), True),
    # XNOR-Net's block, twice. Nothing normalises the sum of the blocks, so BN - ReLU follows the last one.
    "xnor": (("bn", "conv", "relu", "bn", "conv", "relu"), False),
    # The real-valued net's own: both signs see what a ReLU left, so that they give +1 whatever the image is.
    "resnet": (("conv", "bn", "relu", "conv", "bn"), True),
    # No ReLU anywhere, as in Bi-Real Net; the stem has none either, or the first sign would see what it left.
    "bireal": (("conv", "bn", "conv", "bn"), False),
}

S5_LAYER = {
    "scale": "xnorpp",
    "transform": "center",
    "ste": "clipped",
    "weight_ste": "clipped",
    "scale_init": 1.0,
}


class ResNetBlock(nn.Module):
    """Two 3x3 convs and a shortcut: ``(N, in, H, W) -> (N, out, H', W')``, H' = ceil(H / 2) where the width
    grows, else H.

    ``size``: (H', W'). The sign belongs to the binary conv, so that the real-valued twin is the same list of
    modules.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        *,
        binary: bool,
        order: Order,
        downsample: Downsample,
        layer: dict[str, Any],
    ) -> None:
        super().__init__()
        names, self.last_relu = ORDERS[order]
        grows = channels != out_channels
        body: list[nn.Module] = []
        width, stride = channels, 2 if grows else 1
        for name in names:
            if name == "conv":
                body.append(_conv(width, out_channels, 3, stride, size, binary, layer))
                width, stride = out_channels, 1
            else:
                body.append(nn.BatchNorm2d(width) if name == "bn" else nn.ReLU())
        # apart from the rest, because its output feeds the downsampling shortcut too
        self.norm = body.pop(0) if names[0] == "bn" else nn.Identity()
        self.body = nn.Sequential(*body)
        self.shortcut: nn.Module | None = None
        if grows:
            options = {**layer, "binary_input": downsample == "binary"}
            conv = _conv(channels, out_channels, 1, 1, size, binary and downsample != "real", options)
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), conv, nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        o = self.norm(x)
        y = self.body(o) + (x if self.shortcut is None else self.shortcut(o))
        return y.relu() if self.last_relu else y


def _conv(
    channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    size: tuple[int, int],
    binary: bool,
    layer: dict[str, Any],
) -> nn.Module:
    if not binary:
        return nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False)
    options = {**layer, "output_size": size} if layer["scale"] in SPATIAL else layer
    return BinaryConv2d(channels, out_channels, kernel, stride, kernel // 2, **options)


def _real_blocks(given: Any) -> frozenset[int]:
    """The indices in ``given``. Raises ``ValueError`` for anything else."""
    indices = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [None]
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(STAGES):
            raise ValueError(
                f"real_blocks is {given!r}: it is a list of blocks, each from 0 to {len(STAGES) - 1}, such as [0]"
            )
    if len(set(indices)) < len(indices):
        raise ValueError(f"real_blocks is {given!r}: name each block once")
    return frozenset(indices)


@register(
    "resnet18-real", binary=False, without=["downsample", "scale", "weights_below", "real_blocks", "layer"]
)
@register("resnet18")
class ResNet18(nn.Module):
    """``(N, in_channels, image, image) -> (N, classes)`` logits.

    ``image``: side of the images, to which the spatial scales are tied. ``width``: channels of the first
    stage. ``stem``: ``imagenet`` (7x7/2 and max-pool: 16x16 features of 64 pixels) or ``small`` (3x3, stride
    1, no pool). ``order``: see :data:`ORDERS`. ``downsample``: the shortcut's 1x1 conv where the width grows:
    ``real``, ``binary-weight`` (on a real-valued input) or ``binary``. ``scale``: of every binary conv, see
    :class:`bnnlib.layers.Options` (``mean``: XNOR-Net). ``weights_below``: binary weights start uniform
    between 0 and this; None: PyTorch's default. ``real_blocks``: indices (0 to 7) of blocks that are not
    binarised: their convs have real weights and a real input, no scale, and PyTorch's default start.
    ``norm_eps``: the ε of all batch norms. ``binary=False``: the same layers in the same order without signs and scales.
    ``layer``: further options of the binary convs.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1000,
        image: int = 224,
        width: int = 64,
        stem: Stem = "imagenet",
        order: Order = "s5",
        downsample: Downsample = "real",
        scale: str = "xnorpp",
        weights_below: float | None = 0.001,
        real_blocks: Sequence[int] = (),
        norm_eps: float = 1e-5,
        binary: bool = True,
        layer: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        layer = over_defaults({**S5_LAYER, "scale": scale}, layer)
        for what, value, kind in (
            ("order", order, Order),
            ("downsample", downsample, Downsample),
            ("stem", stem, Stem),
        ):
            if value not in kind.__args__:
                raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(kind.__args__)}")
        if image < 8:
            raise ValueError(f"image is {image}: it must be at least 8 pixels")
        if not 0 < norm_eps < 1:
            raise ValueError(f"norm_eps is {norm_eps}: it must lie between 0 and 1, as 1e-5 does")
        real = _real_blocks(real_blocks)
        large = stem == "imagenet"
        self.stem = nn.Sequential(
            nn.Conv2d(
                in_channels, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False
            ),
            nn.BatchNorm2d(width),
            nn.Identity() if order == "bireal" else nn.ReLU(),
            nn.MaxPool2d(3, 2, 1) if large else nn.Identity(),
        )
        side = -(-image // 4) if large else image
        blocks: list[nn.Module] = []
        channels = width
        for index, stage in enumerate(STAGES):
            side = side if stage * width == channels else -(-side // 2)
            blocks.append(
                ResNetBlock(
                    channels,
                    stage * width,
                    (side, side),
                    binary=binary and index not in real,
                    order=order,
                    downsample=downsample,
                    layer=layer,
                )
            )
            channels = stage * width
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if order == "xnor" else nn.Identity()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps
        if weights_below is not None:
            with torch.no_grad():
                for module in binary_layers(self).values():
                    module.weight.uniform_(0, weights_below)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.blocks(self.stem(x))))
