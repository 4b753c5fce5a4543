"""Layers that a model calls as functions, with weights that it holds or computes itself, as the modules that the converter knows."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn


def _linear(input: Any, weight: Any, bias: Any = None) -> nn.Module | None:
    return _with(nn.Linear(*weight.shape[::-1]), weight=weight, bias=bias) if weight.dim() == 2 else None


def _product(input: Any, other: Any) -> nn.Module | None:
    return _linear(input, other.t()) if isinstance(other, Tensor) and other.dim() == 2 and input.dim() > 1 else None


def _conv(kind: Any, rank: int) -> Callable[..., nn.Module | None]:
    def rule(input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> nn.Module | None:
        if input.dim() != rank + 2:
            return None
        made = kind(weight.shape[1] * groups, weight.shape[0], weight.shape[2:], stride, padding, dilation, groups)
        return _with(made, weight=weight, bias=bias)

    return rule


def _transposed(kind: Any, rank: int) -> Callable[..., nn.Module | None]:
    def rule(
        input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1
    ) -> nn.Module | None:
        if input.dim() != rank + 2:
            return None
        made = kind(weight.shape[0], weight.shape[1] * groups, weight.shape[2:], stride, padding, output_padding, groups, dilation=dilation)
        return _with(made, weight=weight, bias=bias)

    return rule


def _batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5
) -> nn.Module | None:
    if training or not isinstance(running_mean, Tensor) or not isinstance(running_var, Tensor) or input.dim() not in (2, 3, 4):
        return None
    made = (nn.BatchNorm2d if input.dim() == 4 else nn.BatchNorm1d)(len(running_mean), eps)
    return _with(made, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias, num_batches_tracked=None)


def _prelu(input: Any, weight: Any) -> nn.Module | None:
    return _with(nn.PReLU(weight.numel()), weight=weight.reshape(-1))


def _max_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False
) -> nn.Module:
    return nn.MaxPool1d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


def _with(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, value in tensors.items():
        if name in module._buffers:
            module._buffers[name] = value
        else:
            module.register_parameter(name, None if value is None else nn.Parameter(value, requires_grad=False))
    return module


_RULES: dict[Any, Callable[..., nn.Module | None]] = {
    F.linear: _linear,
    **dict.fromkeys((operator.matmul, torch.matmul, torch.mm, "matmul", "mm", "__matmul__"), _product),
    F.conv1d: _conv(nn.Conv1d, 1), F.conv2d: _conv(nn.Conv2d, 2),
    F.conv_transpose1d: _transposed(nn.ConvTranspose1d, 1), F.conv_transpose2d: _transposed(nn.ConvTranspose2d, 2),
    F.batch_norm: _batch_norm, F.prelu: _prelu, torch.prelu: _prelu, "prelu": _prelu,
    F.max_pool1d: _max_pool1d, torch.max_pool1d: _max_pool1d,
}  # fmt: skip


def layer_of(target: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[nn.Module, torch.fx.Proxy] | None:
    """(a module, what it takes) that computes a call of ``target`` on one value of a trace, all else being numbers and tensors of float32; None
    for any other call."""
    try:
        rule = _RULES.get(target)
    except TypeError:  # a target that cannot be hashed
        return None
    if rule is None:
        return None
    try:
        given = inspect.signature(rule).bind(*args, **kwargs).arguments
    except TypeError:
        return None
    x, *rest = given.values()
    values = [v for v in rest if isinstance(v, (Tensor, torch.fx.Proxy))]
    if next(iter(given)) != "input" or not isinstance(x, torch.fx.Proxy) or any(isinstance(v, torch.fx.Proxy) or v.dtype != torch.float32 for v in values):
        return None
    if not isinstance(trial := x.node.meta["value"], Tensor) or trial.dtype != torch.float32:
        return None
    with torch.device("meta"):  # whose parameters cost no memory until they are replaced
        made = rule(**{**given, "input": trial})
    return None if made is None else (made.eval(), x)
