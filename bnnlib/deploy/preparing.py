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
                for name in list(module.parametrizations):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for number, hook in list(hooks.items()):
                    if isinstance(hook, _RECOMPUTES):  # what it computes stays, as a plain tensor
                        hook(module, ())
                        del hooks[number]
    return made.requires_grad_(False)


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
