"""bfloat16 on a CPU that cannot multiply it.

A recipe with ``precision: bf16-mixed`` has its convolutions and linear layers multiply bfloat16. On a CPU
without AVX-512 PyTorch has no fast code for that, and what it does instead takes many times as long as
float32. There they are computed in float32 and each result is rounded to bfloat16, as a unit for bfloat16
with sums in float32 would do, except that weights are not rounded; nor are their gradients. All else stays
in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

PRODUCTS = (F.conv2d, F.linear)


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether PyTorch has fast convolutions and matrix products of bfloat16 for this CPU."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def float32_where_slow(t: Tensor) -> Tensor:
    """``t``, in float32 if it is bfloat16 on a CPU that cannot multiply it."""
    return t.float() if t.is_cpu and t.dtype == torch.bfloat16 and not cpu_multiplies_bf16() else t


@contextmanager
def products(precision: str, device: torch.device) -> Iterator[None]:
    """Within, ``F.conv2d`` and ``F.linear`` under bfloat16 autocast, on a CPU that cannot multiply it, are
    computed in float32 and rounded. For the forward passes of a run with a recipe's ``precision`` on
    ``device``, compiled or not; the backward pass follows them. Changes nothing with another precision,
    another device or another CPU."""
    if precision != "bf16-mixed" or device.type != "cpu" or cpu_multiplies_bf16():
        yield
        return
    # a compiled net's backward pass is traced with its forward pass: by default under autocast too, which
    # would have the products of gradients in bfloat16 again
    with torch._functorch.config.patch(backward_pass_autocast="off"), _Float32Products():
        yield


class _Float32Products(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in PRODUCTS or not _in_bf16(args[0] if args else kwargs["input"]):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            y = func(*[_float32(a) for a in args], **{name: _float32(a) for name, a in kwargs.items()})
        return y.to(torch.bfloat16)


def _in_bf16(x: Tensor) -> bool:
    """Whether autocast computes a product with ``x`` in bfloat16; float64 stays float64."""
    asked = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return asked and x.is_cpu and x.dtype != torch.float64


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
