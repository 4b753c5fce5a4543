"""What the operators are compared with: PyTorch's own convolution of -1/+1 tensors in double precision; and every variant
of the kernels that this CPU can run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bnnlib import native
from bnnlib.ops import _backend


def _usable() -> list[str]:
    try:
        return [name for name, _, supported in _backend.variants() if supported]
    except native.BuildError:
        return []


USABLE = _usable()  # variants of the kernels, best first
ALL = [*USABLE, "pytorch"]


def signs(x):
    """-1 or +1 of each element, float64: sign(0) = +1, and a NaN counts as -1."""
    return torch.where(x >= 0, 1.0, -1.0).double()


def conv_reference(x, w, *rest):
    """``F.conv2d`` of the signs of both, float64; ``rest``: stride, padding, dilation, groups."""
    return F.conv2d(signs(x), signs(w), None, *rest)


def use(monkeypatch, variant):
    """Let the operators compute with this variant."""
    chosen = _backend.Fallback() if variant == "pytorch" else _backend.Native(native.load(), variant)
    monkeypatch.setattr(_backend, "backend", lambda: chosen)


@pytest.fixture(params=ALL)
def variant(request, monkeypatch):
    """Each variant that this CPU can run, and the operators without kernels; gives its name."""
    use(monkeypatch, request.param)
    return request.param


def randn(*shape, seed=0):
    """Normal numbers of this shape, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
