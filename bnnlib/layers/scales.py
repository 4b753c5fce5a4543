"""Output scales: learned factors that multiply a layer's exact sums of +-1 products.

The factors are parameters of the layer, under the names that files have (``scale``, ``scale_channel``, ...);
an output scale says which there are, where they start, and that they are multiplied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnlib import quantizers


class OutputScale(nn.Module):
    """A product of factors that broadcast to ``(C_out, H_out, W_out)``, or ``(C_out,)`` of a linear layer.

    ``factors``: the shape of each, by the name of the layer's parameter. A scale of your own is any
    :class:`torch.nn.Module` whose ``forward`` takes nothing and gives such a tensor: its parameters stay its
    own.
    """

    kind = "product"

    def __init__(self, factors: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, *factors: Tensor) -> Tensor:
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        return product

    @torch.no_grad()
    def start(self, name: str, factor: Tensor, weight: Tensor) -> None:
        """Set a factor to what it is before training; ``weight``: the layer's latent weights."""
        factor.fill_(1)

    def extra_repr(self) -> str:
        return ", ".join(f"{name} {tuple(shape)}" for name, shape in self.factors.items())


class LearnedScale(OutputScale):
    """A parameter to an output channel. It starts at ``mean|W|`` of the latent weights, so that outputs are
    as large as a real-valued layer's, or at ``init``."""

    kind = "learned"

    def __init__(self, channels: int, dims: int = 3, init: float | None = None) -> None:
        super().__init__({"scale": (channels, *[1] * (dims - 1))})
        self.init = init

    @torch.no_grad()
    def start(self, name: str, factor: Tensor, weight: Tensor) -> None:
        mean = quantizers.mean_scale(weight).reshape(factor.shape)
        factor.copy_(mean if self.init is None else torch.full_like(mean, self.init))


class DenseScale(OutputScale):
    """XNOR-Net++'s case 2 (arXiv 1909.13863): a parameter to an output element."""

    kind = "dense"

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__({"scale_dense": (channels, *size)})


class ChannelMapScale(OutputScale):
    """XNOR-Net++'s case 3: a vector over channels times a map over pixels."""

    kind = "channel-map"

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__({"scale_channel": (channels, 1, 1), "scale_map": (1, *size)})


class OuterProductScale(OutputScale):
    """XNOR-Net++'s case 4: the outer product of vectors over channels, rows and columns."""

    kind = "xnorpp"

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        height, width = size
        super().__init__(
            {"scale_channel": (channels, 1, 1), "scale_height": (1, height, 1), "scale_width": (1, 1, width)}
        )


SPATIAL_SCALES = {"xnorpp": OuterProductScale, "dense": DenseScale, "channel-map": ChannelMapScale}
SPATIAL = tuple(SPATIAL_SCALES)
"""The learned scales that differ from pixel to pixel, and are tied to the resolution."""
