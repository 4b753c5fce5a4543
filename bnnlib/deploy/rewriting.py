"""Operations that the executor lacks, written with those that it has while a model is traced: GLU, Mish, norms, deviations, masks.

Each rule takes what the operation takes, values of a trace among it, and gives the result, or None where it says nothing.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

INF = math.inf


def within(x: Tensor, low: float, high: float) -> Tensor:
    """+1 where low <= x <= high, else -1: the stage ``step``."""
    return torch.where((low <= x) & (x <= high), 1.0, -1.0)


def _within(x: torch.fx.Proxy, low: float, high: float) -> Any:
    return x.tracer.create_proxy("call_function", within, (x, low, high), {})


def _dims(x: Any, dim: Any) -> list[int] | None:
    """The dimensions without the batch; None where there are others, or none."""
    dims = [dim] if type(dim) is int else dim
    if not isinstance(dims, (tuple, list)) or not dims or not all(type(d) is int for d in dims):
        return None
    found = [d % x.dim() for d in dims]
    return None if 0 in found else found


def _glu(x: Any, dim: int = -1) -> Any:
    if x.shape[dim] % 2:
        return None
    one, two = x.chunk(2, dim)
    return one * two.sigmoid()


def _mish(x: Any, inplace: bool = False) -> Any:
    gate = torch.tanh(F.softplus(x))
    return x.mul_(gate) if inplace else x * gate


def _sign(x: Any) -> Any:
    return (_within(x, 0.0, INF) - _within(x, -INF, 0.0)) * 0.5  # 0 of 0


def _norm(x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None, dtype: Any = None) -> Any:
    if (dims := _dims(x, dim)) is None or out is not None or dtype is not None or p not in (1, 2, INF, "fro"):
        return None
    if p == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    return x.abs().amax(dims, keepdim=keepdim) if p == INF else x.square().sum(dims, keepdim=keepdim).sqrt()


def _vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    return _norm(x, ord, dim, keepdim, dtype=dtype)


def _normalize(input: Any, p: Any = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Any:
    size = None if out is not None else _norm(input, p, dim, True)
    return None if size is None else input / size.clamp(min=eps)


def _rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    if count >= input.dim() or input.dim() > 4:
        return None
    mean = input.square().mean(list(range(input.dim() - count, input.dim())), keepdim=True)
    y = input * (mean + (torch.finfo(torch.float32).eps if eps is None else eps)).rsqrt()
    return y if weight is None else y * weight


def _var(x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None) -> Any:
    if (dims := _dims(x, dim)) is None:
        return None
    count = math.prod(x.shape[d] for d in dims) - (int(unbiased) if correction is None else correction)
    if count <= 0:
        return None
    mean = x.mean(dims, keepdim=True)
    return (x - mean).square().sum(dims, keepdim=keepdim) / float(count)


def _std(x: Any, *args: Any, **kwargs: Any) -> Any:
    return None if (found := _var(x, *args, **kwargs)) is None else found.sqrt()


def _with_mean(rule: Callable[..., Any]) -> Callable[..., Any]:
    def both(x: Any, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None) -> Any:
        found = rule(x, dim, unbiased, keepdim, correction)
        return None if found is None else (found, x.mean(_dims(x, dim), keepdim=keepdim))

    return both


def _adaptive_max(rank: int) -> Callable[..., Any]:
    """Maxima of windows of several sizes, rows and then columns. A maximum over all is a sum's kin, which the converter knows."""

    def rule(input: Any, output_size: Any, return_indices: bool = False) -> Any:
        sizes = [output_size] * rank if isinstance(output_size, int) or output_size is None else list(output_size)
        before = list(input.shape[2:])
        sizes = [s if wanted is None else wanted for s, wanted in zip(before, sizes, strict=False)]
        if input.dim() != rank + 2 or return_indices or len(sizes) != rank or sum(sizes) > 64:
            return None
        if rank == 2 and all(b % s == 0 for b, s in zip(before, sizes, strict=True)) and max(sizes) > 1:
            return F.max_pool2d(input, [b // s for b, s in zip(before, sizes, strict=True)])
        for dim, (size, old) in enumerate(zip(sizes, before, strict=True), 2):
            parts = [input.narrow(dim, a := i * old // size, -(-(i + 1) * old // size) - a).amax(dim, keepdim=True) for i in range(size)]
            input = parts[0] if size == 1 else torch.cat(parts, dim)
        return input

    return rule


def _larger(input: Any, other: Any) -> Any:
    return torch.maximum(input, other) if _tensor(other) else None


def _smaller(input: Any, other: Any) -> Any:
    return torch.minimum(input, other) if _tensor(other) else None


def _clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    if not (_tensor(min) or _tensor(max)):
        return None
    input = input if min is None else torch.maximum(input, min)
    return input if max is None else torch.minimum(input, max)


def _clamp_min(input: Any, min: Any) -> Any:
    return torch.maximum(input, min) if _tensor(min) else input.clamp(min=min)


def _clamp_max(input: Any, max: Any) -> Any:
    return torch.minimum(input, max) if _tensor(max) else input.clamp(max=max)


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or isinstance(value, torch.fx.Proxy) and isinstance(value.node.meta["value"], Tensor)


def _dropout(trained: bool) -> Callable[..., Any]:
    """``trained``: what the function takes ``training`` for by default."""

    def rule(input: Any, p: float = 0.5, training: bool = trained, inplace: bool = False) -> Any:
        return None if training else input

    return rule


def _stochastic_depth(input: Any, p: float, mode: str, training: bool = True) -> Any:
    return None if training else input


# ------------------------------------------------------------------------------------------------ masks

_COMPARED = {
    name: sign
    for sign, found in {
        ">": (operator.gt, torch.gt, torch.greater, "gt"), ">=": (operator.ge, torch.ge, torch.greater_equal, "ge"),
        "<": (operator.lt, torch.lt, torch.less, "lt"), "<=": (operator.le, torch.le, torch.less_equal, "le"),
    }.items() for name in found
}  # fmt: skip
_QUOTIENTS = {"div", "divide", "true_divide", "truediv", "itruediv"}
_NOT_FINITE = {*_QUOTIENTS, "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal",
               "pow", "ipow", "exp", "expm1", "exp2", "sinh", "cosh", "tan", "logit", "lgamma", "atanh", "acosh"}  # fmt: skip

_FARTHEST = 2000  # nodes before a value that are looked at


def _sides(condition: Any) -> Any:
    """+1 where a comparison of a value with a number holds, else -1; None for any other condition."""
    if not isinstance(condition, torch.fx.Proxy) or condition.node.target not in _COMPARED or len(condition.node.args) != 2:
        return None
    read, limit = condition.node.args
    if not isinstance(read, torch.fx.Node) or isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
        return None
    if not _float(read.meta["value"]) or read in condition.tracer.buried:
        return None
    limit = float(torch.tensor(float(limit)))  # PyTorch rounds it, too
    sign, x = _COMPARED[condition.node.target], condition.tracer.proxy(read)
    if sign in (">=", "<="):
        return _within(x, limit, INF) if sign == ">=" else _within(x, -INF, limit)
    return -(_within(x, -INF, limit) if sign == ">" else _within(x, limit, INF))


def _float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _stays_finite(value: Any) -> bool:
    """Whether a product of the value with 0 is 0: nothing before it makes infinite values or NaN."""
    if isinstance(value, (int, float)):
        return math.isfinite(value)
    if isinstance(value, Tensor):
        return _float(value) and bool(value.isfinite().all())
    if not isinstance(value, torch.fx.Proxy) or not _float(value.node.meta["value"]):
        return False
    seen, left = set(), [value.node]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        name = str(getattr(node.target, "__name__", node.target)).strip("_")
        unsafe = node.op in ("call_function", "call_method") and name in _NOT_FINITE or node.op == "call_module" and node.meta.get("whole")
        if (len(seen) > _FARTHEST or unsafe) and not (name in _QUOTIENTS and _divides_by_a_constant(node)):
            return False
        left += node.all_input_nodes
    return True


def _divides_by_a_constant(node: torch.fx.Node) -> bool:
    by = node.args[1] if len(node.args) == 2 and not node.kwargs else 0
    by = by.meta["value"] if isinstance(by, torch.fx.Node) and by.op == "get_attr" else by
    return bool((by != 0).all()) if isinstance(by, Tensor) else isinstance(by, (int, float)) and by != 0


def _where(condition: Any, input: Any, other: Any) -> Any:
    if not (_stays_finite(input) and _stays_finite(other)) or (sides := _sides(condition)) is None:
        return None
    if isinstance(input, (int, float)) and isinstance(other, (int, float)):
        return sides * ((input - other) / 2) + (input + other) / 2
    yes = sides * 0.5 + 0.5
    return yes * input + (1 - yes) * other


def _where_of(input: Any, condition: Any, other: Any) -> Any:  # input.where(condition, other)
    return _where(condition, input, other)


def _masked_fill(input: Any, mask: Any, value: Any) -> Any:
    return _where(mask, value, input)


def _as_number(condition: Any, dtype: Any = torch.float32) -> Any:
    if dtype is not torch.float32 or (sides := _sides(condition)) is None:
        return None
    return sides * 0.5 + 0.5


def _joined(tensors: Any, dim: int = 0) -> Any:
    """Of one value with itself along the channels: the value, repeated."""
    first, *others = tensors
    same = others and all(other is first for other in others)
    return first.repeat(1, len(tensors), 1, 1) if same and first.dim() == 4 and dim % 4 == 1 else None


# By name, since nothing of this library takes a sign that is 0 at 0 (tests/test_quantizers.py looks for it).
_SIGNS = (*(getattr(torch, name) for name in ("sign", "sgn")), "sign", "sgn")
_RULES: dict[Any, Callable[..., Any]] = {
    F.glu: _glu, F.mish: _mish, F.normalize: _normalize, F.rms_norm: _rms_norm, torch.rms_norm: _rms_norm,
    **dict.fromkeys(_SIGNS, _sign),
    torch.norm: _norm, "norm": _norm, torch.linalg.vector_norm: _vector_norm,
    torch.var: _var, "var": _var, torch.std: _std, "std": _std, torch.var_mean: _with_mean(_var), torch.std_mean: _with_mean(_std),
    F.adaptive_max_pool1d: _adaptive_max(1), F.adaptive_max_pool2d: _adaptive_max(2),
    torch.where: _where, "where": _where_of, torch.masked_fill: _masked_fill, "masked_fill": _masked_fill,
    "float": _as_number, "to": _as_number,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _joined),
    torch.max: _larger, "max": _larger, torch.min: _smaller, "min": _smaller,
    torch.clamp: _clamp, torch.clip: _clamp, "clamp": _clamp, "clip": _clamp,
    torch.clamp_min: _clamp_min, "clamp_min": _clamp_min, torch.clamp_max: _clamp_max, "clamp_max": _clamp_max,
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), _dropout(False)),
    **dict.fromkeys((F.dropout1d, F.dropout3d, torch.dropout, torch.alpha_dropout, torch.feature_dropout), _dropout(True)),
}  # fmt: skip
# functions of libraries that need not be here; torch.fx takes them for one operation each
_RULES_BY_NAME = {"torchvision.ops.stochastic_depth.stochastic_depth": _stochastic_depth}
_MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.GLU: lambda m, x: _glu(x, m.dim),
    nn.Mish: lambda m, x: _mish(x, m.inplace),
    nn.RMSNorm: lambda m, x: _rms_norm(x, m.normalized_shape, m.weight, m.eps),
    nn.AdaptiveMaxPool1d: lambda m, x: _adaptive_max(1)(x, m.output_size, m.return_indices),
    nn.AdaptiveMaxPool2d: lambda m, x: None if m.output_size in (1, (1, 1)) else _adaptive_max(2)(x, m.output_size, m.return_indices),
}


def rewritten(target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a call of ``target`` gives, of operations that the executor has; None where no rule says so."""
    try:
        rule = _RULES.get(target) or _RULES_BY_NAME.get(f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}")
    except TypeError:  # a target that cannot be hashed
        return None
    return None if rule is None else _applied(rule, args, kwargs)


def module_rewritten(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The same of a module."""
    rule = _MODULES.get(type(module))
    return None if rule is None or kwargs or len(args) != 1 else _applied(rule, (module, *args), {})


def _applied(rule: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    given = [v for a in (*args, *kwargs.values()) for v in (a if isinstance(a, (list, tuple)) else [a])]
    values = [v for v in given if isinstance(v, torch.fx.Proxy)]
    if not values or not all(isinstance(v.node.meta["value"], Tensor) for v in values):
        return None
    try:
        inspect.signature(rule).bind(*args, **kwargs)
    except TypeError:
        return None
    return rule(*args, **kwargs)
