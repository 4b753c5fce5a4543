"""Save a trained net with 1 bit to a binary weight, and load it back: one safetensors file.

Every weight of a binary layer is stored as a sign bit (:mod:`bnnlib.packing`, rows along the output
channels), with its scale per channel; everything else as trained, or as bf16 or int8. The header's metadata
hold one JSON document under ``bnnlib``: format version, the model's name and options, and for each packed
layer its shape. Loading gives back the model with the same predictions.

``python -m bnnlib.deploy info FILE`` shows what a file holds; ``export FILE OUT --real int8`` writes it anew
with smaller real-valued parts.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import safetensors.torch
import torch
import typer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bnnlib import layers, models
from bnnlib.packing import pack_bits, unpack_bits
from bnnlib.recipes import Recipe
from bnnlib.records import ROOT, write_atomically

FOLDER = ROOT / "results" / "models"
FORMAT = 1
RealDtype = Literal["float32", "bfloat16", "int8"]


class DeployError(ValueError):
    """A packed file that cannot be read, with the file and what is wrong."""


def save(
    model: nn.Module,
    path: Path,
    *,
    recipe: Recipe,
    seed: int,
    top1: float,
    fingerprint: str,
    real: RealDtype = "float32",
) -> Path:
    """Write ``model``, which ``recipe.model`` builds, to ``path``; whole or not at all.

    ``real``: how real-valued weights of two and more dimensions are stored (int8: symmetric, a scale per
    output channel); vectors stay float32.
    """
    about = {
        "model": {"name": recipe.model.name, "options": recipe.model.options},
        "recipe": recipe.name,
        "recipe_hash": recipe.hash(),
        "seed": seed,
        "top1": top1,
        "dataset": recipe.dataset,
        "input": recipe.input,
        "fingerprint": fingerprint,
        "real": real,
    }
    return _save(model, path, real, about)


def _save(model: nn.Module, path: Path, real: str, about: dict[str, Any]) -> Path:
    packed: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    binary = layers.binary_layers(model)
    for name, layer in binary.items():
        weight = layer.binary_weight()
        packed[name] = {"shape": list(weight.shape), "scale": layer.scale_kind}
        tensors[f"{name}.weight.bits"] = pack_bits(weight.flatten(1))
        if layer.scale_kind == "mean":
            tensors[f"{name}.scale"] = layer.channel_scale().float()
    latent = {f"{name}.weight" for name in binary}
    for name, tensor in model.state_dict().items():
        if name not in latent and not name.endswith("num_batches_tracked"):
            tensors.update(_real(name, tensor, real))
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"bnnlib": json.dumps({**about, "format": FORMAT, "packed": packed}, sort_keys=True)}
    write_atomically(path, safetensors.torch.save(contiguous, metadata=metadata))
    return path


def info(path: Path) -> dict[str, Any]:
    """The metadata of a packed file. Raises :class:`DeployError` for a file that is absent, cut short, or
    not one of ours."""
    return _open(path)[0]


def load(path: Path) -> nn.Module:
    """The model in ``path``, in evaluation mode. Raises :class:`DeployError` for a file that is damaged or
    does not fit its model."""
    about, tensors = _open(path)
    try:
        model = models.build(about["model"]["name"], **about["model"]["options"])
        for name, layer in layers.binary_layers(model).items():
            row = about["packed"][name]
            shape = tuple(row["shape"])
            if shape != tuple(layer.weight.shape):
                raise DeployError(
                    f"{path}: layer {name} is of shape {shape}, its model has {tuple(layer.weight.shape)}"
                )
            tensors[f"{name}.weight"] = unpack_bits(
                tensors.pop(f"{name}.weight.bits"), layer.weight[0].numel()
            ).view(shape)
            _freeze_(layer)
            if layer.scale_kind == "learned":
                tensors[f"{name}.scale"] = tensors[f"{name}.scale"].view(layer.scale.shape)
        missing, unexpected = model.load_state_dict(
            {k: _restored(k, v, tensors) for k, v in tensors.items() if not k.endswith(".int8_scale")},
            strict=False,
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, DeployError):
            raise
        raise DeployError(
            f"{path} does not hold the model it names: {type(error).__name__}: {error}"
        ) from None
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise DeployError(
            f"{path} does not hold the model it names: missing {missing}, unexpected {list(unexpected)}"
        )
    return model.eval()


def _freeze_(layer: layers._Binary) -> None:
    """Turn a binary layer into one whose weight is +-1 already and whose scale is a stored number."""
    layer.transform, layer.latent = "none", "free"
    if layer.scale_kind == "mean":
        layer.scale_kind = "learned"
        shape = (
            (layer.weight.shape[0], 1, 1)
            if isinstance(layer, layers.BinaryConv2d)
            else (layer.weight.shape[0],)
        )
        layer.scale = nn.Parameter(torch.empty(shape))


def _real(name: str, tensor: Tensor, real: str) -> dict[str, Tensor]:
    if real not in get_args(RealDtype):
        raise ValueError(f"unknown real {real!r}: choose {', '.join(get_args(RealDtype))}")
    vector = tensor.numel() == max(
        tensor.shape, default=1
    )  # a convolution's scales, shaped (C, 1, 1), are one too
    if vector or not tensor.is_floating_point() or real == "float32":
        return {name: tensor}
    if real == "bfloat16":
        return {name: tensor.to(torch.bfloat16)}
    scale = tensor.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
    values = (tensor / scale.view(-1, *([1] * (tensor.dim() - 1)))).round().to(torch.int8)
    return {name: values, f"{name}.int8_scale": scale.float()}


def _restored(name: str, tensor: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    if tensor.dtype == torch.int8:
        return tensor.float() * tensors[f"{name}.int8_scale"].view(-1, *([1] * (tensor.dim() - 1)))
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("bnnlib")
            if text is None:
                raise DeployError(f"{path} is a safetensors file, but not one of bnnlib's")
            about = json.loads(text)
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise DeployError(
                    f"{path} is of format {about.get('format') if isinstance(about, dict) else about!r}, this version reads {FORMAT}"
                )
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError:
        raise DeployError(f"no packed model {path}") from None
    except OSError as error:
        raise DeployError(f"packed model {path} cannot be read: {error}") from None
    except (SafetensorError, json.JSONDecodeError, struct.error) as error:
        raise DeployError(f"packed model {path} is damaged: {error}") from None


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command("info")
def _info(path: Path) -> None:
    """Show what the packed model in PATH is, and its size."""
    about, tensors = _checked(lambda: _open(path))
    for key in ("recipe", "seed", "dataset", "top1", "model", "format"):
        print(f"{key}: {about.get(key)}")
    bits = sum(t.numel() for n, t in tensors.items() if n.endswith(".weight.bits"))
    print(
        f"size: {path.stat().st_size} bytes, {bits} of them binary weights; {len(about['packed'])} packed layers"
    )


@app.command("export")
def _export(
    path: Path,
    out: Path,
    real: Annotated[str, typer.Option(help="real-valued weights as float32, bfloat16 or int8")] = "float32",
) -> None:
    """Write the packed model in PATH to OUT, with its real-valued weights stored as REAL."""
    about, model = _checked(lambda: (info(path), load(path)))
    _checked(lambda: _save(model, out, real, {**about, "real": real}))
    print(f"{out}: {out.stat().st_size} bytes, was {path.stat().st_size}")


def _checked(call):
    try:
        return call()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
