"""The networks that are timed: those of the recipes, and the same topologies in real numbers and in int8."""

from __future__ import annotations

import copy
import json
import warnings

import torch
from torch import nn

from bnnlib import data, deploy, layers, models, recipes
from bnnlib.deploy import images

# the topologies that the book compares, by a recipe that builds them; and whatever else comes with the book
NETS = ("s2-student", "s4-lenet5", "s4-nin", "tiny-s5-resnet18-xnorpp", "s1-vgg", "s3-mlp")
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "tiny-imagenet": (3, 64, 64), "imagenet": (3, 224, 224)}


def shape_of(name: str) -> tuple[int, int, int]:
    """(C, H, W) of the images of the recipe ``name``."""
    dataset = recipes.load(name).dataset
    return SHAPES[dataset] if dataset in SHAPES else images.describe(data.load(dataset))["shape"]


def model_of(name: str) -> tuple[nn.Module, bool]:
    """The packed file's model of the recipe ``name`` and True, or an untrained one and False."""
    path = deploy.path_of(name)
    if path.is_file():
        return deploy.load(path), True
    recipe = recipes.load(name)
    torch.manual_seed(0)
    return models.build(recipe.model.name, **recipe.model.options).eval(), False


def full_precision_twin(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with every binary layer replaced by the real-valued one of its shape, and every learned sign
    left out: the same topology in FP32. The weights mean nothing."""
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, layers.BinaryConv2d):
                sizes = child.kernel_size, child.stride, child.padding, child.dilation, child.groups
                real = nn.Conv2d(child.in_channels, child.out_channels, *sizes, bias=child.bias is not None)
            elif isinstance(child, layers.BinaryLinear):
                real = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)
            elif isinstance(child, layers.RSign):
                real = nn.Identity()
            else:
                continue
            setattr(module, name, real)
    return twin.eval()


def int8_twin(twin: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The real-valued twin in PyTorch's static quantisation, calibrated on random images. What is left of our layers (RPReLU) runs in
    float32."""
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
    from torch.ao.quantization.fx.custom_config import PrepareCustomConfig

    ours = sorted({type(m) for m in twin.modules() if type(m).__module__.startswith("bnnlib.layers")}, key=str)
    custom = PrepareCustomConfig().set_non_traceable_module_classes(ours)
    torch.backends.quantized.engine = "x86"
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed = quantize_fx.prepare_fx(copy.deepcopy(twin), get_default_qconfig_mapping("x86"), (x,), custom)
        observed(x)
        return quantize_fx.convert_fx(observed)


def shipped() -> list[str]:
    """The recipes of the packed files that come with the book and have binary layers."""
    paths = sorted(deploy.FOLDER.glob("*.safetensors"))
    return [path.stem for path in paths if deploy.info(path)["packed"] and path.stem in recipes.names()]


def nets() -> list[str]:
    """:data:`NETS`, and those that are shipped and of another topology."""
    found = list(NETS)
    for name in shipped():
        if topology(name) not in map(topology, found):
            found.append(name)
    return found


def topology(name: str) -> str:
    """What decides the speed of the recipe's network; recipes that agree in it are as fast as one another."""
    recipe = recipes.load(name)
    return json.dumps([recipe.model.name, recipe.model.options, recipe.dataset], sort_keys=True)
