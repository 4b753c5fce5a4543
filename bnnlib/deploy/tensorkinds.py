"""What the converter knows of operations on whole tensors: functions of one value, arithmetic of two, what moves values, joins,
sums, resizes and normalises them. :data:`SUPPORTED` is the table of it."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib.deploy.layerkinds import ADDITIONS
from bnnlib.deploy.rewriting import within

Stages = list[tuple[str, dict[str, Any]]]
INF = 3.4028234663852886e38  # float32's largest: JSON holds no infinity


def _named(*names: str) -> set[Any]:
    """The functions of torch and torch.nn.functional, and the methods, of these names; in place, too."""
    found: set[Any] = set()
    for name in names:
        found |= {name, f"{name}_"}
        for home in (torch, F):
            found |= {f for n in (name, f"{name}_") if (f := getattr(home, n, None)) is not None}
    return found


# ------------------------------------------------------------------------------------------------ functions of one value

_SIMPLE: dict[str, Stages] = {
    "sigmoid": [("sigmoid", {})],
    "tanh": [("tanh", {})],
    "silu": [("silu", {})],
    "hardsigmoid": [("hard_sigmoid", {})],
    "hardswish": [("hard_swish", {})],
    "relu6": [("clamp", {"low": 0.0, "high": 6.0})],
    "logsigmoid": [("scale", {"by": torch.tensor(-1.0)}), ("softplus", {}), ("scale", {"by": torch.tensor(-1.0)})],
    "exp": [("exp", {})],
    "log": [("log", {})],
    "sqrt": [("sqrt", {})],
    "rsqrt": [("sqrt", {}), ("reciprocal", {})],
    "reciprocal": [("reciprocal", {})],
    "abs": [("abs", {})],
    "square": [("square", {})],
    "neg": [("scale", {"by": torch.tensor(-1.0)})],
    "relu": [("relu", {})],
    "selu": [("elu", {"alpha": 1.6732632423543772}), ("scale", {"by": torch.tensor(1.0507009873554805)})],
}
_FUNCTIONS = {target: stages for name, stages in _SIMPLE.items() for target in _named(name)}
_FUNCTIONS |= {operator.neg: _SIMPLE["neg"], operator.abs: _SIMPLE["abs"], F.logsigmoid: _SIMPLE["logsigmoid"]}
_MODULES = {
    nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.SiLU: "silu", nn.Hardsigmoid: "hardsigmoid", nn.Hardswish: "hardswish", nn.ReLU: "relu",
    nn.ReLU6: "relu6", nn.LogSigmoid: "logsigmoid", nn.SELU: "selu",
}  # fmt: skip
_CLAMPS = _named("clamp", "clip", "hardtanh")
_POWERS = {2: "square", 0.5: "sqrt", -1: "reciprocal", -0.5: "rsqrt"}


def one_value(node: torch.fx.Node, module: nn.Module | None) -> Stages | None:
    """A function of one value as stages of the executor, parameters as numbers; None for any other node."""
    if module is not None:
        kind = type(module)
        if kind in _MODULES:
            return _SIMPLE[_MODULES[kind]]
        if kind is nn.Hardtanh:
            return [("clamp", {"low": float(module.min_val), "high": float(module.max_val)})]
        if kind is nn.LeakyReLU:
            return [("prelu", {"slope": torch.tensor(module.negative_slope)})]
        if kind is nn.GELU:
            return [("gelu_tanh" if module.approximate == "tanh" else "gelu", {})]
        if kind is nn.ELU or kind is nn.CELU and module.alpha == 1:
            return [("elu", {"alpha": float(module.alpha)})]
        if kind is nn.Softplus and (module.beta, module.threshold) == (1, 20):
            return [("softplus", {})]
        if kind is nn.PReLU and module.weight.numel() == 1:
            return [("prelu", {"slope": module.weight.detach().reshape(())})]
        return None
    if node.op not in ("call_function", "call_method"):
        return None
    target, args, kwargs = node.target, list(node.args[1:]), dict(node.kwargs)
    kwargs.pop("inplace", None)
    given = lambda name, place, default: kwargs.get(name, args[place] if len(args) > place else default)  # noqa: E731
    if any(isinstance(a, torch.fx.Node) for a in (*args, *kwargs.values())):
        return None
    if target is within:
        return [("step", {"low": torch.tensor(float(args[0])), "high": torch.tensor(float(args[1]))})]
    if target in _FUNCTIONS:
        return _FUNCTIONS[target] if not kwargs and all(a in (True, False) for a in args) else None
    if target in _CLAMPS:
        hard = getattr(target, "__name__", target).startswith("hardtanh")
        names, defaults = (("min_val", "max_val"), (-1.0, 1.0)) if hard else (("min", "max"), (None, None))
        low, high = (given(name, i, default) for i, (name, default) in enumerate(zip(names, defaults, strict=True)))
        return [("clamp", {"low": -INF if low is None else float(low), "high": INF if high is None else float(high)})]
    if target is F.leaky_relu:
        return [("prelu", {"slope": torch.tensor(float(given("negative_slope", 0, 0.01)))})]
    if target is F.gelu:
        return [("gelu_tanh" if given("approximate", 0, "none") == "tanh" else "gelu", {})]
    if target is F.elu:
        return [("elu", {"alpha": float(given("alpha", 0, 1.0))})]
    if target is F.softplus and not args and not kwargs:
        return [("softplus", {})]
    if target in (operator.pow, torch.pow, "pow") and given("exponent", 0, None) in _POWERS:
        return _SIMPLE[_POWERS[given("exponent", 0, None)]]
    return None


# ------------------------------------------------------------------------------------------------ arithmetic of two

_MINUS = {operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_"}
_TIMES = {operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_"}
_OVER = {operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, "div", "div_", "true_divide"}
_PAIRS = {
    **dict.fromkeys(ADDITIONS, ("plus", "plus")), **dict.fromkeys(_MINUS, ("minus", "minus_from")), **dict.fromkeys(_TIMES, ("times", "times")),
    **dict.fromkeys(_OVER, ("over", "over_from")), **dict.fromkeys({torch.maximum, "maximum"}, ("larger", "larger")),
    **dict.fromkeys({torch.minimum, "minimum"}, ("smaller", "smaller")),
}  # fmt: skip


def two_values(node: torch.fx.Node) -> tuple[str, str] | None:
    """The stage of an arithmetic operation of its first argument with its second, and the same the other way round."""
    if node.op not in ("call_function", "call_method") or len(node.args) != 2 or node.kwargs:
        return None
    return _PAIRS.get(node.target)


def with_constant(stage: str, value: Tensor) -> Stages | None:
    """Such a stage with a constant in place of the slot."""
    negative = ("scale", {"by": torch.tensor(-1.0)})
    if stage == "plus":
        return [("bias", {"by": value})]
    if stage == "minus":
        return [("bias", {"by": -value})]
    if stage == "minus_from":
        return [negative, ("bias", {"by": value})]
    if stage == "times":
        return [("scale", {"by": value})]
    if stage == "over":
        return [("divide", {"by": value})]
    if stage == "over_from":
        return [("reciprocal", {}), ("scale", {"by": value})]
    if value.numel() == 1:
        return [("clamp", {"low": float(value), "high": INF} if stage == "larger" else {"low": -INF, "high": float(value)})]
    return None


# ------------------------------------------------------------------------------------------------ what moves values

_MOVES = _named(
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "swapaxes", "movedim", "moveaxis", "contiguous", "clone",
    "detach", "flip", "roll", "expand", "repeat", "tile", "repeat_interleave", "narrow", "select", "index_select", "pixel_shuffle", "t",
    "pixel_unshuffle", "channel_shuffle", "unflatten", "broadcast_to", "rot90", "float", "chunk", "split", "tensor_split", "unbind",
) | {operator.getitem, F.pad, "expand_as", "view_as", "reshape_as", "T", "fliplr", "flipud"}  # fmt: skip
CASTS = ("to", "type_as", "cpu")
"""They give a value as it is where that is of float32, on whatever device."""
_MOVE_MODULES = (
    nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d,
    nn.ConstantPad2d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d, nn.CircularPad2d,
)  # fmt: skip
_NEAREST = ("nearest", "nearest-exact")


def moves(node: torch.fx.Node, module: nn.Module | None) -> bool:
    """Whether the node gives values of its first argument, in other places, and constants."""
    if module is not None:
        return type(module) in _MOVE_MODULES or _resizes(module) and module.mode in _NEAREST
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in CASTS:
        return isinstance(value := node.meta.get("value"), Tensor) and value.dtype == torch.float32
    if node.target is F.interpolate:
        return (node.args[3] if len(node.args) > 3 else node.kwargs.get("mode", "nearest")) in _NEAREST
    return node.target in _MOVES


def _resizes(module: nn.Module) -> bool:
    return type(module) in (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)


_ADAPTIVE = {F.adaptive_avg_pool2d, F.adaptive_avg_pool1d}


def resamples(node: torch.fx.Node, module: nn.Module | None) -> bool:
    """Whether every row and column of the result may be a sum of rows and columns with fixed weights."""
    if module is not None:
        return _resizes(module) or type(module) in (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
    return node.op == "call_function" and (node.target is F.interpolate or node.target in _ADAPTIVE)


_JOINS = {torch.cat: False, torch.concat: False, torch.concatenate: False, torch.stack: True}


def join(node: torch.fx.Node) -> tuple[list[Any], int] | None:
    """(values, dimension) of a concatenation or, with a new dimension, of a stack."""
    if node.op != "call_function" or node.target not in _JOINS:
        return None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    rank = node.meta["value"].dim()
    return list(node.args[0]), dim % rank


# ------------------------------------------------------------------------------------------------ sums, norms

_SUMS = {target: name for name in ("sum", "mean", "amax", "amin") for target in _named(name)}
_SOFTMAX = {target: name for name in ("softmax", "log_softmax") for target in _named(name)}


def reduction(node: torch.fx.Node, module: nn.Module | None, rank: int) -> tuple[str, list[int]] | None:
    """(function, dimensions) of a sum, mean, maximum or minimum."""
    if module is not None:
        single = type(module) is nn.AdaptiveMaxPool2d and module.output_size in (1, (1, 1)) and not module.return_indices
        return ("max", [rank - 2, rank - 1]) if single else None
    if node.op in ("call_function", "call_method") and node.target in _SUMS:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if dims is None or "dtype" in node.kwargs or not set(node.kwargs) <= {"dim", "keepdim"}:
            return None
        found = [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
        return {"amax": "max", "amin": "min"}.get(_SUMS[node.target], _SUMS[node.target]), found
    # x.max(dim)[0] and x.max(dim).values
    inner = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
    first = node.target in (operator.getitem, getattr) and len(node.args) == 2 and node.args[1] in (0, "values")
    if first and inner is not None and inner.target in (torch.max, torch.min, "max", "min") and len(inner.args) + len(inner.kwargs) >= 2:
        dim = inner.args[1] if len(inner.args) > 1 else inner.kwargs.get("dim")
        if type(dim) is int:
            return getattr(inner.target, "__name__", inner.target), [dim % rank]
    return None


def softmax(node: torch.fx.Node, module: nn.Module | None, rank: int) -> tuple[bool, int] | None:
    """(whether its logarithm, dimension)."""
    if type(module) in (nn.Softmax, nn.LogSoftmax, nn.Softmax2d):
        dim = 1 if type(module) is nn.Softmax2d else module.dim
        return None if dim is None else (type(module) is nn.LogSoftmax, dim % rank)
    if module is None and node.op in ("call_function", "call_method") and node.target in _SOFTMAX:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return None if type(dim) is not int or node.kwargs.get("dtype") else (_SOFTMAX[node.target] == "log_softmax", dim % rank)
    return None


def norm(node: torch.fx.Node, module: nn.Module | None) -> dict[str, Any] | None:
    """``groups`` (of the first dimension) or ``dims`` (the last so many), ``eps``, ``weight``, ``bias``."""
    if type(module) is nn.GroupNorm:
        return {"groups": module.num_groups, "eps": module.eps, "weight": module.weight, "bias": module.bias}
    if type(module) in (nn.InstanceNorm1d, nn.InstanceNorm2d) and not module.track_running_stats and node.meta["value"].dim() == (
        4 if type(module) is nn.InstanceNorm2d else 3
    ):
        return {"groups": module.num_features, "eps": module.eps, "weight": module.weight, "bias": module.bias}
    if type(module) is nn.LayerNorm:
        return {"dims": len(module.normalized_shape), "eps": module.eps, "weight": module.weight, "bias": module.bias}
    if module is None and node.target in (F.layer_norm, F.group_norm):
        names = ("input", "normalized_shape" if node.target is F.layer_norm else "num_groups", "weight", "bias", "eps")
        a = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        constant = lambda v: v.meta["value"] if isinstance(v, torch.fx.Node) else v  # noqa: E731
        made = {"eps": a.get("eps", 1e-5), "weight": constant(a.get("weight")), "bias": constant(a.get("bias"))}
        return made | ({"dims": len(a[names[1]])} if node.target is F.layer_norm else {"groups": a[names[1]]})
    return None


# What is supported, for the reference (book/your-own-net.md); tests/test_deploy_supported.py converts an example of each.
SUPPORTED: tuple[tuple[str, str, str], ...] = (
    ("binary layers", "`BinaryConv2d`, `BinaryConv1d`, `BinaryLinear`: any kernel, stride, padding, dilation, groups (depthwise, pointwise)", "exact"),
    ("real layers", "`Conv1d`, `Conv2d` with any padding mode, `ConvTranspose1d`, `ConvTranspose2d`, `Linear`; `F.conv2d` and its like, `F.linear`, "
     "`x @ weight`, with weights that the model holds or computes from them", "sums in another order"),
    ("batch norms and activations",
     "`BatchNorm1d`, `BatchNorm2d`, `SyncBatchNorm`, `ReLU`, `ReLU6`, `Hardtanh`, `clamp`, `PReLU`, `LeakyReLU`, `RPReLU`, `RSign`", "exact"),
    ("smooth activations", "`Sigmoid`, `Tanh`, `SiLU`, `GELU`, `ELU`, `SELU`, `Softplus`, `LogSigmoid`, `Mish`, `GLU`, `exp`, `log`",
     "1e-6 and 1e-5 of the value"),
    ("piecewise activations", "`Hardsigmoid`, `Hardswish`, `abs`, `square`, `sqrt`, `rsqrt`, `reciprocal`, `torch.sign`; `where`, "
     "`masked_fill` and `(x > c).float()` where the condition compares a value with a number and no choice can be infinite or NaN", "1e-6"),
    ("arithmetic", "`+ - * /`, `maximum`, `minimum` of two values (with broadcasting), with numbers, parameters and buffers", "exact; `c / x` 10⁻⁶"),
    ("moving values", "`view`, `reshape`, `flatten`, `permute`, `transpose`, slices, `chunk`, `split`, `flip`, `roll`, `expand`, `repeat`, "
     "`pad` in every mode, `PixelShuffle`, channel shuffle, nearest resizing", "exact"),
    ("joining", "`cat`, `stack`, also with a parameter or a constant for every image "
     "(a class token: `self.token.expand(x.shape[0], -1, -1)`)", "exact"),
    ("pools", "`MaxPool1d`, `MaxPool2d`, `AvgPool1d`, `AvgPool2d`, adaptive averages and maxima of any size", "exact; averages 1e-6"),
    ("sums", "`sum`, `mean`, `amax`, `amin`, `max(dim)`, `min(dim)`, `std`, `var`, `norm` over any dimensions but the batch", "1e-6 of the largest"),
    ("resizing", "`interpolate`, `Upsample`: bilinear, bicubic, area", "1e-5 of the largest"),
    ("norms", "`LayerNorm`, `GroupNorm`, `InstanceNorm1d`, `InstanceNorm2d`, `RMSNorm`, `F.normalize`, `softmax`, `log_softmax`", "1e-5"),
    ("form", "several inputs; a tuple, list or dictionary as the result; a module used more than once; in-place operations", "exact"),
)  # fmt: skip
