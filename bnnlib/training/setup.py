"""What a recipe names, set up to be trained: data, model, optimizer, teacher."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnnlib import data, layers, recipes, records
from bnnlib.data import evaluate
from bnnlib.recipes import Recipe
from bnnlib.training import building, fits
from bnnlib.training.meters import Meter

DECODERS = 16  # at most so many processes decode images for one training process
EVALUATION_BATCH = 500


@dataclass
class Net:
    """A recipe's net and all that a training step takes. ``forward``: the model as Fabric and the compiler made it;
    ``average``: its moving average, which is evaluated instead. ``steps``: batches an epoch."""

    fabric: Any
    recipe: Recipe
    seed: int
    dataset: data.Dataset
    train: data.Batches
    validation: data.Batches | None
    test: data.Batches
    steps: int
    model: nn.Module
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None
    teacher: nn.Module | None
    known: records.Teacher | None
    parameters: dict[str, int]
    meter: Meter

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy counts, and that is saved."""
        return self.model if self.average is None else self.average.module


def start_fabric(precision: str):
    """Fabric for one process, on the GPU where there is one; under torchrun, which sets WORLD_SIZE, for as
    many as it starts."""
    try:  # imported here: it takes longer than the rest of this module, and a misspelt recipe should not wait for it
        from lightning_fabric import Fabric
    except ImportError:  # the `lightning` package carries Fabric under another name
        from lightning.fabric import Fabric
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    # Fabric's 64-true gives logits back as float32: model and images are made float64 here
    precision = "32-true" if precision == "64-true" else precision
    strategy = "ddp" if world > 1 else "auto"
    fabric = Fabric(devices=local, num_nodes=world // local, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def on_rank_zero(fabric, call: Callable[[], Any]) -> Any:
    """``call()`` by the first process alone; what it gives, or the error it raises, is every process's. So
    none waits for one that gave up."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if fabric.is_global_zero:
        try:
            outcome = call(), None
        except Exception as error:  # noqa: BLE001  (raised again, everywhere)
            outcome = None, error
    value, error = fabric.broadcast(outcome)
    if error is not None:
        raise error
    return value


def load_data(fabric, recipe: Recipe, profile: str, root: Path | None) -> data.Dataset:
    """The recipe's data set, or the part of it that ``profile`` trains on."""
    with fabric.rank_zero_first(local=True):  # what has to be fetched, unpacked or decoded is, once
        dataset = data.load(recipe.dataset, root)
    if profile == "full":
        return dataset
    few = recipe.quick if profile == "quick" else recipe.demo
    return dataset.subset(train=min(few.train, len(dataset.train)), test=min(few.test, len(dataset.test)))


def setup(
    fabric, recipe: Recipe, dataset: data.Dataset, seed: int, *, profile: str = "full", runs: Path | None = None
) -> Net:
    """The net of ``recipe`` with its initial weights, ready for :func:`bnnlib.training.steps.train_step`. ``runs``: where
    the run folders of teachers lie."""
    train, validation, test = batches(fabric, recipe, dataset, seed)
    torch.manual_seed(seed)
    model = building.model(recipe)
    fits.check(recipe, model, dataset)
    layers.project_(model)
    parameters = building.parameter_count(model)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.precision == "64-true":
        model = model.double()
    model = model.to(fabric.device)
    teacher = known = None
    if recipe.distill:
        teacher, known = building.teacher(recipe, profile, runs, fabric.device)
    average = None
    if recipe.ema:
        decay = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema)
        average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=decay, use_buffers=True)
    optimizer = building.optimizer(recipe, model)
    if fabric.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the sizes of a recipe never change
    wanted = recipe.compile is True or (recipe.compile == "gpu" and fabric.device.type == "cuda")
    forward = model
    if wanted:
        from bnnlib.training import compiling  # which loads the compiler, in a second

        forward = compiling.compiled(model, fabric.device)
    forward, optimizer = fabric.setup(forward, optimizer)
    # where several processes would find fewer than two images each in the last batch of an epoch, it is left out
    steps = len(train)
    if fabric.world_size > 1 and train.count(steps - 1) < 2 * fabric.world_size:
        steps -= 1
    return Net(
        fabric=fabric,
        recipe=recipe,
        seed=seed,
        dataset=dataset,
        train=train,
        validation=validation,
        test=test,
        steps=steps,
        model=model,
        forward=forward,
        optimizer=optimizer,
        average=average,
        teacher=teacher,
        known=known,
        parameters=parameters,
        meter=Meter(fabric.device),
    )


def batches(
    fabric, recipe: Recipe, dataset: data.Dataset, seed: int
) -> tuple[data.Batches, data.Batches | None, data.Batches]:
    """Batches of the training, validation (where the recipe holds one out) and test images."""
    device, world = fabric.device, fabric.world_size
    if recipe.batch_size < 2 * world:
        raise recipes.RecipeError(
            f"recipe {recipe.name}: batch_size = {recipe.batch_size} is shared by {world} processes: batch norm needs "
            "at least 2 images each"
        )
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    workers = max(1, min(DECODERS, cores))
    common = {"seed": seed, "device": device, "rank": fabric.global_rank, "world": world, "workers": workers}
    train, test, validation = dataset.train, dataset.test, None
    if recipe.validation:
        train, validation = data.split_validation(train, recipe.validation, seed)
    transform = evaluate.input_transform(recipe.input, dataclasses.replace(dataset, train=train))
    if isinstance(transform, data.ZCAWhitening):  # a product of 3072 x 3072 an image: once, not once an epoch
        transform = transform.to(device)
        train, test = train.to(device).map(transform), test.to(device).map(transform)
        validation = validation.to(device).map(transform) if validation is not None else None
        transform = None
    augment = augmentation(recipe, train)
    if recipe.augment and recipe.augment.view:
        shown = data.view(recipe.augment.view, train=False)
        test, validation = (split and dataclasses.replace(split, view=shown) for split in (test, validation))
    held = {**common, "transform": transform, "shuffle": False}
    return (
        data.Batches(train, recipe.batch_size, augment=augment, transform=transform, **common),
        data.Batches(validation, EVALUATION_BATCH, **held) if validation is not None else None,
        data.Batches(test, EVALUATION_BATCH, **held),
    )


def augmentation(recipe: Recipe, train: data.Split | data.LazySplit) -> Any:
    """What a recipe's ``augment`` names, for :class:`bnnlib.data.Batches`."""
    a, lazy = recipe.augment, isinstance(train, data.LazySplit)
    if a is None:
        return None
    if bool(a.view) != lazy:
        what = (
            "decoded as they are needed: augment them by a view (augment: {view: s5})"
            if lazy
            else "held in memory: leave augment.view out"
        )
        raise recipes.RecipeError(f"recipe {recipe.name}: images of {recipe.dataset} are {what}")
    return data.view(a.view, train=True) if lazy else data.Augment(**a.model_dump(exclude={"view"}))
