"""Whether a data set fits a recipe, asked before anything is trained: its images the model, its classes the outputs."""

from __future__ import annotations

import inspect
import warnings

import torch
from torch import Tensor, nn

from bnnlib import models
from bnnlib.data import Dataset, registry
from bnnlib.deploy import images
from bnnlib.recipes import Recipe, RecipeError


def check_names(recipe: Recipe) -> None:
    """Raises ``ValueError`` where there is no such data set or net, or where the net has no such option or value: asked of the
    recipe alone, before anything is read or made."""
    registry.check(recipe.dataset)
    try:
        with torch.device("meta"):  # nothing is allocated
            models.build(recipe.model.name, **recipe.model.options)
    except ValueError:  # a net of one's own may read numbers while it is built: ask again with numbers
        with torch.random.fork_rng(devices=[]):
            models.build(recipe.model.name, **recipe.model.options)


def check(recipe: Recipe, model: nn.Module, dataset: Dataset) -> None:
    """Raises :class:`RecipeError` unless ``model`` (on the CPU) takes the images of ``dataset`` and has an output for each class;
    warns of outputs that no class has."""
    shape, count = tuple(images.describe(dataset, recipe)["shape"]), len(dataset.classes)
    allowed = inspect.signature(models.BUILDERS[recipe.model.name]).parameters
    option = lambda name, value: f"--set model.{name}={value}" if name in allowed else "choose another model"  # noqa: E731
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    training = model.training
    try:
        with torch.no_grad():
            given = model.eval()(torch.zeros(1, *shape, dtype=kind))
    except (RuntimeError, ValueError, IndexError) as error:
        hint = option("in_channels", shape[0])
        if "image" in allowed:
            hint += f", for another size of image {option('image', shape[1])}"
        raise RecipeError(
            f"recipe {recipe.name}: the model {recipe.model.name} does not take images of {dataset.name}, {'x'.join(map(str, shape))} "
            f"({str(error).splitlines()[0][:200]}); for another number of channels {hint}, or give images of the size it was made for"
        ) from error
    finally:
        model.train(training)
    if not isinstance(given, Tensor) or given.dim() != 2:
        what = f"a tensor of shape {list(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise RecipeError(
            f"recipe {recipe.name}: the model {recipe.model.name} gives {what} for one image; a recipe trains classifiers, which give one "
            "tensor (images, classes)"
        )
    outputs = given.shape[1]
    if outputs < count:
        raise RecipeError(
            f"recipe {recipe.name}: the model {recipe.model.name} has {outputs} outputs, and {dataset.name} has {count} classes: {option('classes', count)}"
        )
    if outputs > count:
        warnings.warn(
            f"the model {recipe.model.name} has {outputs} outputs for {count} classes of {dataset.name}: {option('classes', count)} leaves none unused",
            stacklevel=2,
        )
