"""A small convolutional net with every operation and stage of its kind, as training leaves it, and images for it."""

from __future__ import annotations

import torch
from torch import nn

from bnnlib import layers


class Small(nn.Module):
    """Every operation and stage that there is, in few and odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        binary = layers.BinaryConv2d
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), layers.RPReLU(24))
        self.grouped = nn.Conv2d(24, 24, 3, stride=1, padding=2, dilation=2, groups=3, bias=False)
        self.one = nn.Sequential(layers.RSign(24), binary(24, 48, 3, padding=1, padding_value=-1, bias=True, scale="learned"), nn.PReLU(48))
        self.two = nn.Sequential(nn.BatchNorm2d(48), binary(48, 48, 3, padding=1, groups=2), nn.Hardtanh(-9, 9))
        self.three = nn.Sequential(nn.BatchNorm2d(48), binary(48, 130, 1), nn.MaxPool2d(3, 2, 1), nn.BatchNorm2d(130), binary(130, 70, 2))
        self.dense = binary(70, 70, 3, padding=1, scale="dense", output_size=(5, 5))
        self.weights = binary(70, 20, 1, binary_input=False)
        self.pools = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(20 * 4 * 4), layers.BinaryLinear(320, 33), nn.ReLU(), nn.Linear(33, 7))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.grouped(x)
        y = nn.functional.max_pool2d(self.one(x), 2)
        y = y + nn.functional.avg_pool2d(x, 2).repeat(1, 2, 1, 1)
        y = self.two(y) + y
        y = self.dense(self.three(y))
        return self.head(self.pools(self.weights(y)))


def trained_small() -> nn.Module:
    """The net with running variances, shifts and biases as training leaves them: no two alike."""
    torch.manual_seed(5)
    model = Small().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 4)
            elif tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(torch.randn(tensor.shape) / 2)
    return model


def images(batch: int, seed: int = 0, shape=(3, 22, 25)) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))
