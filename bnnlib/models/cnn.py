"""Small real-valued convolutional nets that serve as teachers in distillation."""

from __future__ import annotations

from torch import Tensor, nn

from bnnlib.layers import Dropout
from bnnlib.models import register


class ConvNet(nn.Module):
    """Stages of ``depth`` 3x3 convs (BN, ReLU) and a 2x2 max-pool; global average; linear. ``(N, C, H, W) ->
    (N, classes)``.

    ``stem``: the width of a conv before the stages, 0 for none. ``pool_early``: a stage pools behind its first
    conv, so that the others work on a quarter of the positions; otherwise at its end.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, ...],
        depth: int,
        classes: int,
        dropout: float,
        stem: int,
        pool_early: bool,
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = in_channels

        def conv(width: int, pool: bool) -> None:
            nonlocal channels
            stages.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            stages.extend([nn.MaxPool2d(2)] if pool else [])
            stages.extend([nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
            channels = width

        if stem:
            conv(stem, pool=False)
        for width in widths:
            for k in range(depth):
                conv(width, pool=pool_early and k == 0)
            if not pool_early:
                stages.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), Dropout(dropout), nn.Linear(channels, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@register("convnet")
def convnet(
    in_channels: int = 1,
    widths: tuple[int, ...] = (32, 64, 128),
    depth: int = 2,
    classes: int = 10,
    dropout: float = 0.0,
    stem: int = 0,
    pool_early: bool = False,
) -> ConvNet:
    """A plain real-valued net, ``len(widths)`` stages of ``depth`` convs each."""
    return ConvNet(in_channels, tuple(widths), depth, classes, dropout, stem, pool_early)
