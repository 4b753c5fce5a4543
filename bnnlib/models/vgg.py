"""VGG-style nets on 32x32 images: S1's, S2's student and teacher, and ours.

S1: conv 3->128 - BN - ReLU; six binary 3x3 convs of widths 128, 128p, 256, 256p, 512, 512p (p: 2x2 max-pool
after the conv); dropout - linear 8192->1024 - BN - ReLU - dropout - linear 10. Convs have no bias; the first
conv and the classifier are real-valued.

S2 adds a shortcut around every binary conv: the identity, or a real-valued 1x1 conv and BN where the width
grows; in p blocks both sides are pooled.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib.layers import BinaryConv2d, Dropout, RSign
from bnnlib.layers.options import over_defaults
from bnnlib.models import register
from bnnlib.models.blocks import activation

# of the six binary convs: channels, in widths of the first conv, and whether a pool follows
WIDTHS = ((1, False), (1, True), (2, False), (2, True), (4, False), (4, True))
Order = Literal["bn-sign-conv", "sign-conv-bn"]

S1_LAYER = {
    "scale": "mean",
    "gradient": "identity",
    "latent": "clip",
    "ste": "clipped",
    "weight_ste": "identity",
}

OURS_LAYER = {
    "scale": "none",
    "transform": "standardize",
    "latent": "free",
    "ste": "polynomial",
    "weight_ste": "identity",
}


class VGGBlock(nn.Module):
    """One binary 3x3 conv: ``(N, in, H, W) -> (N, out, H, W)``, or half of H and W with ``pool``.

    ``order``: ``bn-sign-conv`` (S1's code) or ``sign-conv-bn`` (S1's text). ``act``: after the conv (and
    batch norm), ``none`` in the sources.
    ``shortcut``: S2's, around the conv.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        pool: bool,
        *,
        binary: bool,
        order: Order,
        act: str,
        shortcut: bool,
        layer: dict[str, Any],
    ) -> None:
        super().__init__()
        if order not in Order.__args__:
            raise ValueError(f"unknown order {order!r}: choose one of {', '.join(Order.__args__)}")
        self.order, self.pool = order, pool
        self.bn = nn.BatchNorm2d(channels if order == "bn-sign-conv" else out_channels)
        self.conv = (
            BinaryConv2d(channels, out_channels, 3, padding=1, **layer)
            if binary
            else nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        )
        self.act = activation(act, out_channels)
        self.shortcut: nn.Module | None = None
        if shortcut:
            self.shortcut = (
                nn.Identity()
                if channels == out_channels
                else nn.Sequential(
                    nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.bn(x)) if self.order == "bn-sign-conv" else self.bn(self.conv(x))
        y = self.act(y)
        if self.shortcut is None:
            return F.max_pool2d(y, 2) if self.pool else y
        side = self.shortcut(x)
        return F.max_pool2d(y, 2) + F.max_pool2d(side, 2) if self.pool else y + side


class VGG(nn.Module):
    """``(N, in_channels, 32, 32) -> (N, classes)`` logits."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def _stem(in_channels: int, width: int, act: str) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        activation(act, width),
    )


@register("vgg-real", binary=False, without=["layer"])
@register("vgg")
def vgg(
    in_channels: int = 3,
    classes: int = 10,
    binary: bool = True,
    order: Order = "bn-sign-conv",
    act: str = "none",
    stem_act: str = "relu",
    shortcut: bool = False,
    dropout: float = 0.5,
    layer: dict[str, Any] | None = None,
    width: int = 128,
) -> VGG:
    """S1's net; with ``shortcut`` S2's student. ``binary=False``: the same topology in real values, which want an ``act``.
    ``stem_act``: after the first conv; with ``sign-conv-bn`` the next operation is a sign, which is
    constant behind a ReLU. ``layer``: options of the binary convs. ``width``: channels of the first conv, to which all others are
    in proportion."""
    options = over_defaults(S1_LAYER, layer)
    channels, blocks = width, []
    for times, pool in WIDTHS:
        blocks.append(
            VGGBlock(
                channels, times * width, pool, binary=binary, order=order, act=act, shortcut=shortcut, layer=options
            )
        )
        channels = times * width
    head = nn.Sequential(
        nn.Flatten(),
        Dropout(dropout),
        nn.Linear(64 * width, 8 * width),
        nn.BatchNorm1d(8 * width),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(8 * width, classes),
    )
    return VGG(_stem(in_channels, width, stem_act), blocks, head)


@register("s2-teacher")
def s2_teacher(in_channels: int = 3, classes: int = 10, width: int = 128) -> VGG:
    """S2's real-valued teacher: three 3x3 convs 128-256-512 (BN, ReLU, 2x2 max-pool), linear 1024, linear
    ``classes``; no dropout. ``width``: of the first conv, the others in proportion."""
    stages: list[nn.Module] = []
    channels = in_channels
    for out_channels in (width, 2 * width, 4 * width):
        stages.append(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
        )
        channels = out_channels
    head = nn.Sequential(
        nn.Flatten(), nn.Linear(64 * width, 8 * width), nn.ReLU(), nn.Linear(8 * width, classes)
    )
    return VGG(nn.Identity(), stages, head)


class OursBlock(nn.Module):
    """RSign - binary 3x3 conv - [2x2 max-pool] - BN, plus a shortcut without weights, then RPReLU.

    The shortcut is pooled where the conv is, and doubled along the channels where the width doubles: the
    body holds no real-valued conv. ``shifts=False``: a plain sign; ``act``: another activation;
    ``shortcut=False``: none.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        pool: bool,
        layer: dict[str, Any],
        shifts: bool = True,
        act: str = "rprelu",
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.pool, self.shortcut = pool, shortcut
        if shifts:
            # the estimator is the shifted sign's: the conv lets the gradient of what it takes for signs through
            self.sign: nn.Module = RSign(channels, layer["ste"], signs=False)
            layer = {**layer, "ste": "identity"}
        else:
            self.sign = nn.Identity()
        self.conv = BinaryConv2d(channels, out_channels, 3, padding=1, **layer)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = activation(act, out_channels)

    def side(self, x: Tensor) -> Tensor:
        """What the shortcut adds, in the shape of the block's output."""
        repeat = self.conv.out_channels // self.conv.in_channels  # not of x: a model that is traced has no sizes yet
        x = F.avg_pool2d(x, 2) if self.pool else x
        return x if repeat == 1 else torch.cat([x] * repeat, 1)  # Tensor.repeat would not keep channels_last

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.sign(x))
        y = self.bn(F.max_pool2d(y, 2) if self.pool else y)
        return self.act(y + self.side(x) if self.shortcut else y)


class OursPair(nn.Module):
    """Two :class:`OursBlock` without shortcuts of their own, and one around both, added to their output."""

    def __init__(self, first: OursBlock, second: OursBlock) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.second.side(self.first.side(x))


@register("ours-vgg")
def ours_vgg(
    in_channels: int = 3,
    classes: int = 10,
    dropout: float = 0.0,
    classifier: Literal["average", "flatten"] = "flatten",
    shifts: bool = True,
    act: str = "rprelu",
    shortcut: Literal["each", "pairs", "none"] = "each",
    layer: dict[str, Any] | None = None,
    width: int = 128,
) -> VGG:
    """Our net on S1's body: the same six binary convs at the same widths, with ReActNet's shifts and
    shortcuts that hold no weights.

    ``classifier``: ``flatten`` (linear from 8192, as VGG-small has it) or ``average`` (global average pool,
    linear from 512). ``shifts``: whether a learned shift stands before each sign; ``act``: behind each conv and the
    first, see :func:`bnnlib.models.blocks.activation`; ``shortcut``: around each binary conv, around pairs of them, or
    none. ``width``: channels of the first conv, to which all others are in proportion.
    """
    if shortcut not in ("each", "pairs", "none"):
        raise ValueError(f"unknown shortcut {shortcut!r}: choose each, pairs or none")
    if classifier not in ("average", "flatten"):
        raise ValueError(f"unknown classifier {classifier!r}: choose average or flatten")
    options = over_defaults(OURS_LAYER, layer)
    channels = width
    blocks: list[nn.Module] = []
    for times, pool in WIDTHS:
        blocks.append(OursBlock(channels, times * width, pool, options, shifts, act, shortcut == "each"))
        channels = times * width
    if shortcut == "pairs":
        blocks = [OursPair(*pair) for pair in zip(blocks[::2], blocks[1::2], strict=True)]
    features = channels if classifier == "average" else 16 * channels
    squeeze: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if classifier == "average" else []
    head = nn.Sequential(
        *squeeze,
        nn.Flatten(),
        nn.BatchNorm1d(features),
        Dropout(dropout),
        nn.Linear(features, classes),
    )
    return VGG(_stem(in_channels, width, act), blocks, head)
