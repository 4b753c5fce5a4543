"""Dropout, drawn faster than PyTorch draws it on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, share: float) -> Tensor:
    """``F.dropout(x, share)``, on a CPU from 16 random bits a value (``share`` to the nearest 2**-16):
    PyTorch draws a number in float64 for each, which on CPUs that are not Intel's takes several times as
    long."""
    if not x.is_cpu or share > 1 - 2**-16 or torch.compiler.is_compiling():  # which draws in its own way
        return F.dropout(x, share)
    strides = torch.empty_like(x, device="meta").stride()  # dense, in the memory format of x
    noise = x.new_empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = noise[: x.numel()].as_strided(x.shape, strides) >= round(share * 2**16) - 2**15
    return x * (kept / (1 - share)).to(x.dtype)


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training and self.p else x
