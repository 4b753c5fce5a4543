"""What a recipe names, built: the model with its initial weights, the optimizer with its parameter groups,
the teacher of a distillation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from bnnlib import deploy, layers, models, records
from bnnlib.recipes import Recipe, RecipeError


def model(recipe: Recipe) -> nn.Module:
    """The model of ``recipe``, with the initial weights that its ``init`` names drawn from PyTorch's
    generator."""
    built = models.build(recipe.model.name, **recipe.model.options)
    if recipe.init != "default":
        for module in built.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, layers.BinaryConv2d, layers.BinaryLinear)):
                _initialise(recipe.init, module)
    return built


def _initialise(kind: str, module: nn.Module) -> None:
    w = module.weight
    if kind == "normal-0.05":
        nn.init.normal_(w, 0, 0.05)
    elif kind == "normal-fan-in":
        # S4's deviation is 2 / n, no root; its biases stay as PyTorch draws them
        nn.init.normal_(w, 0, 2 / w[0].numel())
    else:
        nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")
    if module.bias is not None and kind != "normal-fan-in":
        nn.init.zeros_(module.bias)
    if isinstance(module, layers.BinaryLayer):
        module.reset_scale()


def parameter_count(model: nn.Module) -> dict[str, int]:
    """Parameters in all, of binary layers' weights, and the others; bits that all of the state takes with
    those weights at 1 bit each."""
    binary = sum(m.weight.numel() for m in layers.binary_layers(model).values())
    total = sum(p.numel() for p in model.parameters())
    stored = 0
    latent = {f"{name}.weight" for name in layers.binary_layers(model)}
    for name, tensor in model.state_dict().items():
        stored += tensor.numel() * (1 if name in latent else 8 * tensor.element_size())
    return {"total": total, "binary": binary, "real": total - binary, "bits": stored}


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of ``recipe`` over ``model``'s parameters, those that ``no_decay`` names in a group
    without weight decay."""
    o = recipe.optimizer
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            (spared if _group(module, name) in o.no_decay else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if o.name == "sgd":
        return torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, fused=True)
    kind = torch.optim.Adam if o.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=o.lr, betas=o.betas, eps=o.eps, fused=True)


def _group(module: nn.Module, name: str) -> str:
    """The parameter group that ``no_decay`` names: binary, scale, norm, bias, or weight."""
    if name.startswith("scale"):
        return "scale"
    if isinstance(module, (layers.RSign, layers.RPReLU, nn.PReLU)):
        return "scale"
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "norm"
    if name == "bias":
        return "bias"
    return "binary" if isinstance(module, (layers.BinaryConv2d, layers.BinaryLinear)) else "weight"


def teacher(
    recipe: Recipe, profile: str, runs: Path, device: torch.device
) -> tuple[nn.Module, records.Teacher]:
    """The teacher that ``distill`` names and what is known of it: a path, or a recipe's model in the
    folder of its seed 0 under ``runs`` (a quick run's for a quick run), else among the shipped ones. Raises
    :class:`RecipeError` where there is none or it was trained on other images."""
    name = recipe.distill.teacher
    if name.endswith(".safetensors"):
        tried = [Path(name)]
    else:
        tried = [runs / name / profile / "seed0" / "model.safetensors", deploy.FOLDER / f"{name}.safetensors"]
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        raise RecipeError(
            f"{recipe.name} distils from {name!r}, found in none of {', '.join(map(str, tried))}: train it first "
            f"(python -m bnnlib.train {name} --profile {profile})"
        )
    about = deploy.info(path)
    if "graph" in about:
        raise RecipeError(f"the teacher {path} is a packed network: name the trained model that it was made from")
    for field in ("dataset", "input"):
        if about.get(field) != getattr(recipe, field):
            raise RecipeError(
                f"the teacher {path} was trained with {field} {about.get(field)!s:.100}, {recipe.name} has "
                f"{getattr(recipe, field)}: name a teacher trained alike"
            )
    try:
        known = records.Teacher(
            recipe=about["recipe"],
            seed=about["seed"],
            top1=about["top1"],
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
    except (KeyError, ValidationError) as error:
        raise RecipeError(
            f"the teacher {path} does not say which recipe and seed it is of and how good it is (recipe, seed, top1): "
            f"name one that training has written [{str(error).splitlines()[0]}]"
        ) from None
    net = deploy.load(path).to(device).eval().requires_grad_(False)
    return net.double() if recipe.precision == "64-true" else net, known
