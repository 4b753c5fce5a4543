"""A copy of a model to be converted: on the CPU, in evaluation mode, without what recomputes its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_RECOMPUTES = (WeightNorm, SpectralNorm, prune.BasePruningMethod)


class ConvertError(ValueError):
    """A model that cannot be converted; the message says why and what to do."""


def prepared(model: Any) -> nn.Module:
    """A copy of ``model`` in evaluation mode on the CPU in float32, out of its wrappers, its weights as plain tensors."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ConvertError("the model is a TorchScript module: convert the model that it was scripted or traced from")
    if isinstance(model, torch.export.ExportedProgram):
        raise ConvertError("the model is an exported program: convert the model that it was exported from")
    if not isinstance(model, nn.Module):
        raise ConvertError(f"the model is a {type(model).__name__}, expected an nn.Module")
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # what torch.compile gives
            model = model._orig_mod
        else:
            break
    with torch.no_grad():
        made = copy.deepcopy(model, _leaves(model))
        made.eval().float().cpu().requires_grad_(False)
        for module in list(made.modules()):
            if parametrize.is_parametrized(module):
                _own_class(module)
                for name in list(module.parametrizations):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for number, hook in list(hooks.items()):
                    if isinstance(hook, _RECOMPUTES):  # what it computes stays, as a plain tensor
                        hook(module, ())
                        del hooks[number]
    return made.requires_grad_(False)


def _own_class(module: nn.Module) -> None:
    """A parametrized module's class holds the computed tensors as properties, and its copies share it: this one gets a class of its own,
    from which they can be taken."""
    shared = type(module)
    held = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, held)


def finite(model: nn.Module) -> None:
    """Raises :class:`ConvertError` for a parameter, or a statistic of a batch norm, that is NaN or infinite."""
    for place, module in model.named_modules():
        values: dict[str, Tensor | None] = dict(module._parameters)
        if isinstance(module, nn.modules.batchnorm._NormBase):
            values |= {"running_mean": module.running_mean, "running_var": module.running_var}
        for name, value in values.items():
            # a sum is finite where all of it is, mostly
            if value is not None and value.is_floating_point() and not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
                where = f"{place}.{name}".lstrip(".")
                raise ConvertError(f"{where} {not_finite(value)}: no sign can be taken of what it gives. Look where the training diverged")


def not_finite(value: Tensor) -> str:
    """How many values are no numbers, in words."""
    what = "NaN" if value.isnan().any() else "infinite values"
    return f"holds {what} ({int((~value.isfinite()).sum())} of {value.numel()} values)"


class State:
    """What modules hold beside their parameters, as it was: a ``forward`` may count its calls."""

    def __init__(self, model: nn.Module) -> None:
        self.held = [(m, dict(vars(m)), [(d, dict(d)) for d in (m._buffers, m._parameters)]) for m in model.modules()]
        self.values = [(b, b.clone()) for b in model.buffers()]

    def restore(self) -> None:
        with torch.no_grad():
            for module, before, inside in self.held:
                vars(module).clear()
                vars(module).update(before)
                for now, old in inside:
                    now.clear()
                    now.update(old)
            for buffer, old in self.values:
                if not same_values(buffer, old):
                    buffer.copy_(old)


def same_values(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b) or a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _leaves(model: nn.Module) -> dict[int, Tensor]:
    """Copies of the tensors that deepcopy refuses, since a gradient leads to them: a kept activation, a pruned weight."""
    found: dict[int, Tensor] = {}

    def visit(value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if value.requires_grad and not value.is_leaf:
                found[id(value)] = value.detach().clone()
        elif isinstance(value, dict) and depth < 4:
            for one in value.values():
                visit(one, depth + 1)
        elif isinstance(value, (list, tuple)) and depth < 4:
            for one in value:
                visit(one, depth + 1)

    for module in model.modules():
        visit({k: v for k, v in vars(module).items() if k != "_modules"}, 0)
    return found


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its ``forward``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
