"""Binary layers in the place of a net's convolutions and linear layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from bnnlib.layers.binary import BinaryLayer
from bnnlib.layers.conv import BinaryConv1d, BinaryConv2d
from bnnlib.layers.linear import BinaryLinear

_KINDS: dict[type[nn.Module], type[BinaryLayer]] = {
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.Linear: BinaryLinear,
}


def binarize_(
    model: nn.Module,
    *,
    keep: Collection[str] = ("first", "last"),
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    **options: Any,
) -> list[str]:
    """Replace the convolutions and linear layers of ``model`` by binary ones, in place. Returns the names of
    those replaced.

    Args:
        model: any net. Its ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Linear`` are replaced. Subclasses of these,
            transposed and 3-d convolutions, and layers that are binary already stay as they are.
        keep: layers that stay real-valued: ``"first"`` and ``"last"`` of those above, in the order of
            ``model.named_modules()``, and others by their names there, such as ``"head.fc"``.
        filter_fn: called with each further layer and its name; where it gives False, the layer stays.
        options: of the binary layers, see :class:`bnnlib.layers.Options`; ``padding_value`` of the
            convolutions. Modules among them are copied for each layer.

    A binary layer takes over its predecessor's parameters, so that trained weights become latent weights and an
    optimizer keeps what it holds (of ``nn.Conv1d`` the weights are copied), its geometry, bias, type, device and
    mode. A layer that stands in several places stays one layer. Where an error is raised, the model is unchanged.

    What stands around the layers stays, too, and may not suit them. Behind a ReLU all signs are +1: give
    ``sign_of_zero=-1``, with which a sign tells zeros from positive values, or replace the ReLU. The net must be
    trained again: signs alone do not compute what its real values did.

    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.PReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2))
    >>> binarize_(net, scale="learned")
    ['2']

    Raises ``ValueError`` for a name that is none of the model's, for a layer that cannot be binary, naming it, and
    where no layer would be replaced.
    """
    layers = {name: module for name, module in model.named_modules() if type(module) in _KINDS}
    kept = _kept(model, layers, keep)
    chosen = {
        name: module
        for name, module in layers.items()
        if name not in kept and (filter_fn is None or filter_fn(module, name))
    }
    if "" in layers:
        raise ValueError(f"the model itself is a {type(model).__name__}, which cannot be replaced in place: build a binary layer")
    if not chosen:
        found = ", ".join(layers) or "none"
        raise ValueError(
            f"no layer would be replaced: the model's nn.Conv1d, nn.Conv2d and nn.Linear are {found}; keep is {keep!r}{_others(model, layers)}"
        )
    _refuse_fast_paths(model, chosen)
    # made before the first is replaced, so that an error leaves the model as it was
    made = {id(module): _binary(name, module, options) for name, module in chosen.items()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # a child may have two names
            if id(child) in made:
                setattr(parent, name, made[id(child)])
    return list(chosen)


def _others(model: nn.Module, layers: dict[str, nn.Module]) -> str:
    """What else has weights and a name like theirs, in words."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    found = {n: type(m).__name__ for n, m in model.named_modules() if isinstance(m, kinds) and n not in layers and not isinstance(m, BinaryLayer)}
    if not found:
        return ""
    lazy = any(isinstance(m, nn.modules.lazy.LazyModuleMixin) for m in model.modules())
    named = ", ".join(f"{name} ({kind})" for name, kind in list(found.items())[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return f". Of other types, which stay: {named}" + ("; lazy layers have types of their own once the model has seen an image" if lazy else "")


def _kept(model: nn.Module, layers: dict[str, nn.Module], keep: Collection[str]) -> set[str]:
    if isinstance(keep, str):
        raise ValueError(f"keep is {keep!r}: give a list of names, such as [{keep!r}]")
    places = list(layers)
    kept = {places[at] for word, at in (("first", 0), ("last", -1)) if word in keep and places}
    everywhere = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    for name in set(keep) - {"first", "last"}:
        if name not in everywhere:
            raise ValueError(f"keep names {name!r}, which is no module of the model; its convolutions and linear layers: {', '.join(layers)}")
        inside = set(map(id, everywhere[name].modules()))
        kept |= {place for place, layer in layers.items() if id(layer) in inside}
    return kept


def _refuse_fast_paths(model: nn.Module, chosen: dict[str, nn.Module]) -> None:
    """Raises ``ValueError`` for layers of which PyTorch reads the weights past the layer."""
    for parent_name, parent in model.named_modules():
        if isinstance(parent, nn.TransformerEncoderLayer):
            inside = set(map(id, parent.modules()))
            for name, module in chosen.items():
                if id(module) in inside:
                    raise ValueError(
                        f"{name} is part of {parent_name or 'the model'}, an nn.TransformerEncoderLayer, which in evaluation reads "
                        f"its weights and not the layer: keep it by filter_fn or keep=[..., {name!r}]"
                    )


def _binary(name: str, module: nn.Module, options: dict[str, Any]) -> BinaryLayer:
    """A binary layer with the parameters of ``module``. Raises ``ValueError``, naming the layer."""
    way_out = f"leave it out by filter_fn or keep=[..., {name!r}]"
    parameters = set(dict(module.named_parameters(recurse=False)))
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    if hooks or parameters - {"weight", "bias"} or "weight" not in parameters:
        raise ValueError(f"{name} has hooks or parameters of its own, such as weight norm, which a binary layer would lose: {way_out}")
    given = {key: copy.deepcopy(value) if isinstance(value, nn.Module) else value for key, value in options.items()}
    weight, bias = module.weight, module.bias
    common = {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
    try:
        if isinstance(module, nn.Linear):
            given.pop("padding_value", None)
            made: BinaryLayer = BinaryLinear(module.in_features, module.out_features, **common, **given)
        else:
            made = _KINDS[type(module)](
                module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, module.dilation,
                module.groups, padding_mode=module.padding_mode, **common, **given,
            )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{name}, {module}: {error}; {way_out}") from None
    made.bias = bias
    made.weight = weight if weight.shape == made.weight.shape else nn.Parameter(weight.detach().unsqueeze(2).clone(), weight.requires_grad)
    made.reset_scale()
    return made.train(module.training)
