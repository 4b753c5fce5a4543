"""What the converter knows of modules and functions: the kind of a traced node, the stages of an element-wise one, its direction,
PyTorch's own evaluation of it."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib import layers
from bnnlib.layers.quantizers import takes_signs

IDENTITY_MODULES = (nn.Identity, nn.Dropout, layers.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
ELEMENTWISE_MODULES = (
    *BATCH_NORMS, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.PReLU, nn.LeakyReLU, layers.RPReLU, layers.RSign,
)  # fmt: skip
LEAVES = (layers.BinaryConv1d, layers.BinaryConv2d, layers.BinaryLinear, layers.RSign, layers.RPReLU)
ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
RELUS = {F.relu, torch.relu, torch.relu_, "relu", "relu_"}


def pair(value: Any) -> list[int]:
    """A size for rows and columns: a number stands for both."""
    return [int(value), int(value)] if isinstance(value, int) else [int(v) for v in value]


_OF_A_ROW = (nn.Conv1d, nn.ConvTranspose1d, nn.MaxPool1d, nn.AvgPool1d)


def sized(module: nn.Module, name: str) -> list[int]:
    """A size of a layer for rows and for columns; a layer of one dimension works on one row."""
    value = getattr(module, name)
    if not isinstance(module, _OF_A_ROW):
        return pair(value)
    return [0 if "padding" in name else 1, int(value if isinstance(value, int) else value[0])]


def module_of(node: torch.fx.Node, model: nn.Module) -> nn.Module | None:
    """The module that a node calls; None where it calls none."""
    return model.get_submodule(node.target) if node.op == "call_module" else None


def kind(node: torch.fx.Node, model: nn.Module) -> str:
    """``identity``, ``elementwise``, ``max_pool``, ``avg_pool``, ``conv``, ``binary``, ``add``, ``repeat``, or ``torch``: none of these."""
    if node.op == "placeholder":
        return "input"
    module, shape = module_of(node, model), node.meta.get("shape")
    source = next((a for a in node.args if isinstance(a, torch.fx.Node)), None)
    before = source.meta.get("shape") if source is not None else None
    if shape is None or before is None or len(shape) not in (2, 3, 4) or len(before) not in (2, 3, 4):
        return "torch"
    if module is not None:
        return _module_kind(module, before)
    if node.op not in ("call_function", "call_method"):
        return "torch"
    target = node.target
    if target in RELUS:
        return "elementwise"
    if target in (F.dropout, F.dropout2d) and not arguments(node, F.dropout).get("training", True):
        return "identity"
    if target in ADDITIONS:
        nodes = [a for a in node.args if isinstance(a, torch.fx.Node)]
        plain = len(node.args) == 2 and not node.kwargs and len(nodes) == 2
        return "add" if plain and all(a.meta.get("shape") == shape for a in nodes) else "torch"
    if target == "repeat" and len(before) == 4:
        counts = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        whole = len(counts) == 4 and all(isinstance(c, int) for c in counts)
        return "repeat" if whole and (counts[0], counts[2], counts[3]) == (1, 1, 1) else "torch"
    if len(before) == 4 and target in (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, torch.max_pool2d):
        what = "max_pool" if target in (F.max_pool2d, torch.max_pool2d) else "avg_pool"
        return what if window(node, model) else "torch"
    return "torch"


def _module_kind(module: nn.Module, before: tuple[int, ...]) -> str:
    exact = type(module)  # a subclass may compute anything
    if exact in IDENTITY_MODULES:
        return "identity"
    if exact in ELEMENTWISE_MODULES:
        counted = isinstance(module, BATCH_NORMS)
        return "torch" if counted and module.running_mean is None else "elementwise"
    if exact in (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.MaxPool1d, nn.AvgPool1d):
        known = len(before) == (3 if exact in _OF_A_ROW else 4) and module_window(module, before) is not None
        return ("max_pool" if exact in (nn.MaxPool1d, nn.MaxPool2d) else "avg_pool") if known else "torch"
    if exact in (nn.Conv1d, nn.Conv2d):
        plain = module.padding_mode == "zeros" and len(before) == (4 if exact is nn.Conv2d else 3) and not isinstance(module.padding, str)
        return "conv" if plain else "torch"
    if exact is nn.Linear:
        return "conv" if len(before) == 2 else "torch"
    if exact in (layers.BinaryConv1d, layers.BinaryConv2d):
        if len(before) != (4 if exact is layers.BinaryConv2d else 3):
            return "torch"
        real_padding = not module.binary_input and module.padding_value and module.padding != (0, 0)
        return "torch" if module.input_scale or real_padding or own_quantizer(module) else "binary"
    if exact is layers.BinaryLinear:
        return "torch" if module.input_scale or len(before) != 2 or own_quantizer(module) else "binary"
    return "torch"


def own_quantizer(layer: layers.BinaryLayer) -> str | None:
    """Which of a layer's quantizers no bits stand for, in words; None where bits stand for both."""
    for name, part in layer.named_children():
        if part._forward_hooks or part._forward_pre_hooks:
            return f"its {name} has a forward hook"
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    if inputs is not None and not takes_signs(inputs):
        return f"its input quantizer {type(inputs).__name__} is not the sign of its input (to be packed, derive it from bnnlib.layers.Sign)"
    if not isinstance(weights, layers.Quantizer):
        return f"its weight quantizer {type(weights).__name__} does not give +-1 (to be packed, derive it from bnnlib.layers.Quantizer)"
    return None


def by_rows(module: nn.Module) -> bool:
    """Whether a linear layer works on each row of a larger tensor as a convolution does."""
    if type(module) is layers.BinaryLinear:
        return not module.input_scale and own_quantizer(module) is None
    return type(module) is nn.Linear


MATRIX_PRODUCTS = {operator.matmul, torch.matmul, torch.bmm, torch.einsum, "matmul", "bmm", F.scaled_dot_product_attention}


def whole_of(node: torch.fx.Node) -> torch.fx.Node:
    """What a node takes its part of, where it takes one of several values that another gives: an LSTM, ``topk``."""
    while node.target in (operator.getitem, getattr) and isinstance(node.args[0], torch.fx.Node) and isinstance(node.args[0].meta.get("value"), (tuple, list)):
        node = node.args[0]
    return node


def why_not(node: torch.fx.Node, model: nn.Module) -> str:
    """Why a node is left to PyTorch, for the report."""
    node = whole_of(node)
    module = module_of(node, model)
    if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is None:
        return "it has no running statistics (track_running_stats=False) and takes those of the batch: an image's result hangs on the others"
    if node.target in MATRIX_PRODUCTS and sum(isinstance(a, torch.fx.Node) and a.op != "get_attr" for a in node.args) > 1:
        return "the executor has no matrix product of two activations"
    if isinstance(module, layers.BinaryLayer) and module.input_scale:
        return "its input scale needs the real-valued input"
    if isinstance(module, layers.BinaryLayer) and (own := own_quantizer(module)):
        return own
    if isinstance(module, layers.BinaryConv2d) and not module.binary_input and module.padding_value:
        return f"it pads real values by {module.padding_value:+d}: of these the executor pads by 0 alone"
    if type(module).__name__ == "PackedNetwork":
        return "it is a packed network already"
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    if module is not None and not type(module).__module__.startswith(("torch.nn", "bnnlib")):
        return "it stays whole"
    return f"the executor has no {what} of this form"


_PARAMETERS = {
    F.dropout: ("input", "p", "training", "inplace"),
    F.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    F.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    F.adaptive_avg_pool2d: ("input", "output_size"),
}


def arguments(node: torch.fx.Node, function: Any) -> dict[str, Any]:
    """The arguments of a traced call of ``function``, by name."""
    return {**dict(zip(_PARAMETERS[function], node.args, strict=False)), **node.kwargs}


def window(node: torch.fx.Node, model: nn.Module) -> dict[str, Any] | None:
    """The attributes of a pooling operation, or None if the executor lacks it."""
    module, before = module_of(node, model), node.args[0].meta["shape"]
    if module is not None:
        return module_window(module, before)
    target = node.target
    if target is F.adaptive_avg_pool2d:
        return module_window(nn.AdaptiveAvgPool2d(arguments(node, target)["output_size"]), before)
    function, pool = (F.avg_pool2d, nn.AvgPool2d) if target is F.avg_pool2d else (F.max_pool2d, nn.MaxPool2d)
    a = arguments(node, function)
    del a["input"]
    try:
        return module_window(pool(**a), before)
    except TypeError:
        return None


def module_window(module: nn.Module, before: tuple[int, ...]) -> dict[str, Any] | None:
    """The attributes of a pooling module for an input of shape ``before`` (with the batch), or None if the executor lacks it."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        size = module.output_size
        if size not in (1, (1, 1)):
            return None
        return {"kernel": list(before[2:]), "stride": [1, 1], "padding": [0, 0], "ceil": False, "count_padding": True}
    a = {
        "kernel": sized(module, "kernel_size"),
        "stride": sized(module, "kernel_size" if module.stride is None else "stride"),
        "padding": sized(module, "padding"),
        "ceil": bool(module.ceil_mode),
    }
    if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d)):
        return None if module.return_indices or sized(module, "dilation") != [1, 1] else a
    return None if getattr(module, "divisor_override", None) else {**a, "count_padding": bool(module.count_include_pad)}


def evaluate(node: torch.fx.Node, model: nn.Module, x: Tensor) -> Tensor:
    """What PyTorch makes of ``x`` at an element-wise node."""
    module = module_of(node, model)
    if module is not None:
        return module(x)
    if node.op == "call_method":
        return getattr(x, node.target)(*node.args[1:], **node.kwargs)
    return node.target(x, *node.args[1:], **{**node.kwargs, **({"inplace": False} if "inplace" in node.kwargs else {})})


def affine(bn: nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[Tensor, Tensor, bool]:
    """``(scale, bias, fused)`` of a batch norm in evaluation, float32 ``[C]``: of the formulas that PyTorch may compute it by (they
    differ between versions and processors in the last bit) the one that reproduces this PyTorch's results best."""
    var, mean = bn.running_var.float(), bn.running_mean.float()
    gamma = torch.ones_like(var) if bn.weight is None else bn.weight.detach().float()
    beta = torch.zeros_like(var) if bn.bias is None else bn.bias.detach().float()
    probe = torch.linspace(-3, 3, 61)[:, None] * (var.sqrt() + 0.1) + mean
    if isinstance(bn, nn.BatchNorm1d):
        want = bn(probe)
    else:
        want = bn(probe[:, :, None, None])[:, :, 0, 0]
    best: tuple[int, tuple[Tensor, Tensor, bool]] | None = None
    for inverse in (torch.rsqrt(var + bn.eps), 1 / torch.sqrt(var + bn.eps), (1 / (var.double() + bn.eps).sqrt()).float()):
        scale = inverse * gamma
        for fused_bias in (True, False):
            bias = (
                (beta.double() - mean.double() * scale.double()).float() if fused_bias else beta - mean * scale
            )
            for fused in (True, False):
                got = (probe.double() * scale + bias).float() if fused else probe * scale + bias
                wrong = int((got != want).sum())
                if best is None or wrong < best[0]:
                    best = wrong, (scale, bias, fused)
    return best[1]


def stages(node: torch.fx.Node, model: nn.Module, channels: int) -> list[tuple[str, dict[str, Any]]]:
    """An element-wise node as stages of the executor: (name, fields), constants as tensors ``[channels]``."""
    module = module_of(node, model)
    if module is None or isinstance(module, nn.ReLU):
        return [("relu", {})]
    if isinstance(module, BATCH_NORMS):
        scale, bias, fused = affine(module)
        return [("affine", {"scale": scale, "bias": bias, "fused": fused})]
    if isinstance(module, (nn.Hardtanh, nn.ReLU6)):
        return [("clamp", {"low": float(module.min_val), "high": float(module.max_val)})]
    if isinstance(module, nn.LeakyReLU):
        return [("prelu", {"slope": torch.full((channels,), float(module.negative_slope))})]
    if isinstance(module, nn.PReLU):
        return [("prelu", {"slope": module.weight.detach().expand(channels)})]
    if isinstance(module, layers.RPReLU):
        return [
            ("bias", {"by": -module.before.detach()}),
            ("prelu", {"slope": module.slope.detach()}),
            ("bias", {"by": module.after.detach()}),
        ]
    zero, inf = torch.zeros(channels), torch.full((channels,), float("inf"))
    shifted = [("bias", {"by": module.shift.detach()})]  # RSign
    return [*shifted, ("step", {"low": zero, "high": inf})] if module.signs else shifted


def direction(node: torch.fx.Node, model: nn.Module, channels: int) -> Tensor | None:
    """+1, -1 or 0 for each channel whose result rises, falls, or stays as the input rises; None where one does neither."""
    result = torch.ones(channels)
    for name, fields in stages(node, model, channels):
        if name == "affine":
            result = result * _sign(fields["scale"])
        elif name == "prelu" and not bool((fields["slope"] >= 0).all()):
            return None
    return result


def _sign(x: Tensor) -> Tensor:
    return (x > 0).float() - (x < 0).float()


def array(t: Tensor) -> np.ndarray:
    """``t`` as a NumPy array of float32, in one piece of memory."""
    return np.ascontiguousarray(t.detach().float().cpu().numpy())
