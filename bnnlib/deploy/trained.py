"""A trained model as tensors, and back: a bit to a weight of a binary layer, the rest as trained or smaller.

What a file of a trained model holds, for a binary layer ``L`` of weight ``(O, ...)`` with K weights to a channel:

* ``L.weight.bits``, U8 ``(O, ceil(K / 8))``: signs in the weight's order (:mod:`bnnlib.packing`);
* ``L.scale``, F32 ``(O,)``, where the scale is mean|W|: of the weights before the sign; learned scales are
  parameters and stored as such;

and every other entry of the model's ``state_dict`` under its name. A real-valued convolution's or linear layer's
weight may be BF16, or I8 with its scale per output channel beside it as ``NAME.int8_scale``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from bnnlib import layers, models
from bnnlib.deploy.container import DeployError
from bnnlib.deploy.files import RealDtype
from bnnlib.packing import pack_bits, round_to_int8, unpack_bits

_COUNTER = "num_batches_tracked"  # training's alone


def pack(model: nn.Module, real: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The fields ``packed`` of the document, and the tensors."""
    if real not in get_args(RealDtype):
        raise ValueError(f"unknown real {real!r}: choose {', '.join(get_args(RealDtype))}")
    packed: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    binary = layers.binary_layers(model)
    for name, layer in binary.items():
        weight = _signs(name, layer)
        packed[name] = {"shape": list(weight.shape), "scale": layer.scale_kind}
        tensors[f"{name}.weight.bits"] = pack_bits(weight.flatten(1))
        if layer.scale_kind == "mean":
            tensors[f"{name}.scale"] = layer.channel_scale().float()
    latent = {f"{name}.weight" for name in binary}
    shrinks = real_weights(model) if real != "float32" else set()
    for name, tensor in model.state_dict().items():
        if name in shrinks:
            tensors.update(_shrunk(name, tensor, real))
        elif name not in latent and not name.endswith(_COUNTER):
            tensors[name] = tensor
    return {"packed": packed}, {name: _array(tensor) for name, tensor in tensors.items()}


def _signs(name: str, layer: layers.BinaryLayer) -> Tensor:
    """The layer's weight as +-1. Raises ``ValueError`` where a file has no place for what the layer multiplies by."""
    weight, alpha = layer.split_weight()
    what = f"layer {name}: its weight quantizer {type(layer.weight_quantizer).__name__}"
    if not weight.is_meta and not bool((weight.abs() == 1).all()):
        raise ValueError(f"{what} gives values other than +-1, and a file of a trained model holds a bit to a weight")
    if alpha is not None and layer.scale_kind != "mean":
        raise ValueError(f"{what} has a scale, and so has its output: a file of a trained model holds one of them; save it converted (deploy.convert)")
    return weight


def unpack(path: Path, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """The module, in evaluation mode, with a binary layer's weights +-1 and its scale a parameter. Raises
    :class:`DeployError`, before memory is taken, where the tensors are not those of the model that ``about`` names."""
    try:
        _fit(path, _plan(about, tensors), about, tensors)
        model = models.build(about["model"]["name"], **about["model"]["options"])
        state = {}
        for key, layer in layers.binary_layers(model).items():
            bits = torch.from_numpy(tensors[f"{key}.weight.bits"])
            state[f"{key}.weight"] = unpack_bits(bits, layer.weight[0].numel()).view(layer.weight.shape)
            _freeze_(layer)
        expected = model.state_dict()
        for key, array in tensors.items():
            if not key.endswith((".weight.bits", ".int8_scale")):
                state[key] = _restored(key, array, tensors).view(expected[key].shape)
        model.load_state_dict(state, strict=False)
    except DeployError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise DeployError(
            f"{path} does not hold the model it names: {type(error).__name__}: {str(error)[:500]}"
        ) from None
    return model.eval()


def check(path: Path, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Raises ``ValueError`` unless a file of these tensors can be read: the model that ``about`` names must have them."""
    said = about["model"]
    if not isinstance(said, Mapping) or set(said) != {"name", "options"} or not isinstance(said["options"], Mapping):
        raise ValueError(f"the model is described as {said!r:.100}, expected {{'name': ..., 'options': {{...}}}}")
    try:
        _fit(path, _plan(about, tensors), about, tensors)
    except (DeployError, KeyError) as error:
        what = f"no binary layer {error}" if isinstance(error, KeyError) else str(error).removeprefix(str(path)).strip(": ")
        raise ValueError(f"{path} was not written: the model to save is not what {dict(said)!r:.200} builds ({what:.300})") from None
    except ValueError as error:
        raise ValueError(f"{path} was not written: {error}; a module of your own is saved converted (deploy.convert)") from None


def _plan(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """The model that ``about`` names, shapes alone: one of terabytes, or of a billion layers, is refused here."""
    with torch.device("meta"), _at_most(4 * len(tensors) + 100):
        return models.build(about["model"]["name"], **about["model"]["options"])


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Modules are not given more than ``count`` parameters, or ``ValueError`` is raised: a file that holds few tensors
    may name a model of many."""
    left, thread = count, threading.get_ident()

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        left -= threading.get_ident() == thread
        if left < 0:
            raise ValueError(f"its options make a model of more than {count} parameters, and it has far fewer tensors")

    hook = nn.modules.module.register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


def real_weights(model: nn.Module) -> set[str]:
    """The names of the weights of real-valued convolutions and linear layers: what may be stored in fewer bits. Scales,
    shifts and norms are not among them, whatever their shape."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return {f"{name}.weight".lstrip(".") for name, m in model.named_modules() if isinstance(m, kinds)}


def _fit(path: Path, plan: nn.Module, about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Raises unless ``tensors`` are exactly those of the model ``plan``, whose own tensors hold no memory."""
    binary = layers.binary_layers(plan)
    shapes = {name: tuple(tensor.shape) for name, tensor in plan.state_dict().items()}
    expected: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    for name, layer in binary.items():
        said, real = tuple(about["packed"][name]["shape"]), tuple(layer.weight.shape)
        if said != real:
            raise DeployError(f"{path}: layer {name} is of shape {said}, its model has {real}")
        del shapes[f"{name}.weight"]
        expected[f"{name}.weight.bits"] = (real[0], -(-layer.weight[0].numel() // 8)), ("uint8",)
        if layer.scale_kind == "mean":
            expected[f"{name}.scale"] = (real[0],), ("float32",)
    for name, shape in shapes.items():
        if not name.endswith(_COUNTER):
            kinds = ("float32", "float64", "float16", "int64", "bool")
            stored = tensors.get(name)
            if stored is not None and stored.dtype == np.int8:
                expected[f"{name}.int8_scale"] = shape[:1], ("float32",)
            expected[name] = shape, (*kinds, "uint16", "int8")  # uint16: bf16
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    strangers = sorted(set(about["packed"]) - set(binary))
    if missing or unexpected or strangers:
        raise DeployError(
            f"{path} does not hold the model it names: missing {missing}, unexpected {unexpected + strangers}"
        )
    for name, (shape, kinds) in expected.items():
        there = tensors[name]
        learned = name.endswith(".scale") and there.size == np.prod(shape)  # (O,) for (O, 1, 1), from a mean scale
        if str(there.dtype) not in kinds or not (there.shape == shape or learned):
            raise DeployError(
                f"{path} does not hold the model it names: {name} is {there.dtype} {list(there.shape)}, "
                f"not {kinds[0]} {list(shape)}"
            )


def _freeze_(layer: layers.BinaryLayer) -> None:
    """Turn a binary layer into one whose weight is +-1 already and whose scale is a stored number."""
    if layer.scale_kind == "mean":
        layer.set_output_scale(layers.LearnedScale(layer.weight.shape[0], layer.scale_dims))
    layer.transform = layer.constraint = None
    layer.weight_quantizer = layers.ClippedSTE()


def _shrunk(name: str, tensor: Tensor, real: str) -> dict[str, Tensor]:
    if real == "bfloat16":
        return {name: tensor.to(torch.bfloat16)}
    values, scale = round_to_int8(tensor)
    return {name: values, f"{name}.int8_scale": scale}


def _restored(name: str, array: np.ndarray, tensors: Mapping[str, np.ndarray]) -> Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    tensor = torch.from_numpy(array)
    if array.dtype == np.int8:
        scale = torch.from_numpy(tensors[f"{name}.int8_scale"])
        return tensor.float() * scale.view(-1, *([1] * (tensor.dim() - 1)))
    return tensor


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.is_meta:  # a size without values: takes no memory here either
        like = np.uint16 if tensor.dtype == torch.bfloat16 else torch.zeros(0, dtype=tensor.dtype).numpy().dtype
        return np.broadcast_to(np.zeros((), like), tuple(tensor.shape))
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.int16).numpy().view(np.uint16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
