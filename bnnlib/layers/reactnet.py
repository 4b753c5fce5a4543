"""ReActNet's learned shifts (arXiv 2003.03488)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib.layers.quantizers import Sign, estimator


class RSign(nn.Module):
    """ReActNet's sign with a learned threshold per channel: ``sign(x + shift)`` on ``(N, C, ...)``.

    A binary layer behind it sees signs, and must let their gradient through: ``ste="identity"`` there
    (ApproxSign's derivative is 0 at -1 and +1). ``ste``: the name of an estimator, or a
    :class:`bnnlib.layers.Sign`. ``signs=False`` leaves taking the sign to that layer, and gives ``x + shift``
    with the same gradients.
    """

    def __init__(self, channels: int, ste: str | Sign = "clipped", signs: bool = True) -> None:
        super().__init__()
        self.quantizer = ste if isinstance(ste, Sign) else estimator("ste", ste)
        self.signs = signs
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shifted = (x + _per_channel(self.shift, x)).to(x.dtype)
        return self.quantizer(shifted) if self.signs else self.quantizer.leave_signs(shifted)

    def extra_repr(self) -> str:
        return f"{self.shift.numel()}" + ("" if self.signs else ", signs=False")


class RPReLU(nn.Module):
    """ReActNet's PReLU with learned shifts per channel: ``PReLU(x - before) + after`` on ``(N, C, ...)``
    (arXiv 2003.03488)."""

    def __init__(self, channels: int, slope: float = 0.25) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), slope))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.prelu(x - _per_channel(self.before, x), self.slope) + _per_channel(self.after, x)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.slope.numel()}"


def _per_channel(p: Tensor, x: Tensor) -> Tensor:
    return p.view(1, -1, *([1] * (x.dim() - 2)))
