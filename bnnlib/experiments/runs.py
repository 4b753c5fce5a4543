"""The runs that a chapter talks about, in each of its profiles; and the trained nets that come with the book.

found = runs.collect(["s1-vgg", "s2-student"], profile, seed)
found.records["s1-vgg"]         # its records: stored ones, or the one of the run just made
nets = runs.shipped(["s1-vgg"]) # packed files in results/models, and what they answer on the test set
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnlib import data, deploy, recipes, records
from bnnlib.data import evaluate
from bnnlib.data.excerpt import excerpt
from bnnlib.experiments import predictions
from bnnlib.experiments.predictions import Predictions
from bnnlib.records import Record
from bnnlib.training import loop

# A net of the size of S1's takes seconds for a step on a CPU: quick runs of chapters are a couple of steps.
SMALL = {"quick.train": 16, "quick.test": 16, "quick.batch_size": 8}
DEMO_CLASSES = 8  # of Tiny-ImageNet's 200


@dataclass(frozen=True)
class Runs:
    """``records``: by recipe, in the order asked for, an empty list where there is none. ``models``: of the
    runs just made. ``note``: what a reader must know of them, in Markdown; may be empty."""

    records: dict[str, list[Record]]
    models: dict[str, nn.Module] = field(default_factory=dict)
    note: str = ""

    def __getitem__(self, name: str) -> list[Record]:
        return self.records[name]

    def get(self, name: str) -> list[Record]:
        """The same, and an empty list for a recipe that was not asked for."""
        return self.records.get(name, [])

    def last(self, name: str) -> list[float]:
        """Top-1 % of the last epoch, a value a seed."""
        return [record.top1_last for record in self.records[name]]


def collect(
    names: Iterable[str],
    profile: str,
    seed: int = 0,
    *,
    folder: Path = records.FOLDER,
    small: dict[str, int] | None = None,
) -> Runs:
    """The runs of the recipes ``names`` as ``profile`` has them.

    ``stored``: every record in ``folder``. ``quick`` and ``demo``: each recipe trained as its part of that name says, with
    what ``SMALL`` and ``small`` change in it (``{"quick.train": 8, "demo.train": 2500}``), in a temporary folder,
    teachers first; on an excerpt of Tiny-ImageNet, and on the embedded digits in place of a set that is not here.
    ``full``: what has no record of ``seed`` yet is trained as its recipe says, teachers first (with seed 0), and its
    record kept in ``folder``; then every record.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        recipes.load(name)  # a name that is none is told, and does not merely lack records
    if profile in ("quick", "demo"):
        others = "demo." if profile == "quick" else "quick."
        changes = {key: n for key, n in (SMALL | (small or {})).items() if not key.startswith(others)}
        return _short(names, profile, seed, changes)
    if profile == "full":
        return _full(names, seed, folder)
    if profile != "stored":
        raise ValueError(f"unknown profile {profile!r}: choose stored, quick, demo or full")
    return Runs(_stored(names, folder))


def _stored(names: list[str], folder: Path) -> dict[str, list[Record]]:
    return {name: records.read_all(folder, name) for name in names}


def teachers_first(names: list[str]) -> list[str]:
    """``names`` with the recipes they distil from, each before the first that needs it."""
    ordered: list[str] = []
    for name in names:
        distill = recipes.load(name).distill
        if distill and distill.teacher not in ordered and not distill.teacher.endswith(".safetensors"):
            ordered += [t for t in teachers_first([distill.teacher]) if t not in ordered]
        if name not in ordered:
            ordered.append(name)
    return ordered


def _short(names: list[str], profile: str, seed: int, changes: dict[str, int]) -> Runs:
    found: dict[str, list[Record]] = {}
    nets: dict[str, nn.Module] = {}
    files: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=f"bnn-{profile}-") as scratch, ExitStack() as held:
        excerpts: dict[tuple[int, int], str] = {}
        for name in teachers_first(names):
            recipe, asked = recipes.load(name, changes), dict(changes)
            few = recipe.quick if profile == "quick" else recipe.demo
            if not data.here(recipe.dataset):
                asked["dataset"] = data.STAND_INS[recipe.dataset]
                if recipe.dataset == "tiny-imagenet":  # its 200 classes are ten digits there
                    asked["model.classes"] = len(data.load(asked["dataset"]).classes)
            elif recipe.dataset == "tiny-imagenet":  # to decode all of it takes minutes
                size = (few.train // DEMO_CLASSES or 1, few.test // DEMO_CLASSES or 1)
                if size not in excerpts:
                    excerpts[size] = held.enter_context(
                        excerpt(classes=DEMO_CLASSES, train=size[0], test=size[1])
                    )
                asked |= {"dataset": excerpts[size], "model.classes": DEMO_CLASSES}
            if recipe.distill:
                asked["distill.teacher"] = files.get(recipe.distill.teacher, recipe.distill.teacher)
            run = loop.train(
                name, seed=seed, profile=profile, runs=Path(scratch), overrides=asked or None, progress=None
            )
            files[name] = str(run.run_dir / "model.safetensors")
            found[name], nets[name] = [run.record], run.model
    shown = {name: found[name] for name in names}
    return Runs(shown, {name: nets[name] for name in names}, _note(profile, shown))


def _note(profile: str, found: dict[str, list[Record]]) -> str:
    """What a reader must know of short runs, in Markdown."""
    if not found:
        return ""
    made = [record for runs in found.values() for record in runs]
    images = " or ".join(f"{n:,}" for n in sorted({record.dataset.train for record in made}))
    lengths = sorted({len(record.curve) for record in made})
    epochs = f"{' or '.join(map(str, lengths))} epoch{'s' * (lengths != [1])}"
    means = (
        "they show that everything runs, and their numbers mean nothing"
        if profile == "quick"
        else "they show how the nets learn, in smaller nets and on fewer images; no number here is a result"
    )
    digits = {record.dataset.name for record in made} & set(data.STAND_INS.values())
    on = " of scikit-learn's digits" if digits else ""
    if any(record.dataset.name.startswith("imagefolder:") for record in made):
        on += f" of {DEMO_CLASSES} classes of Tiny-ImageNet-200 (chance gives {100 / DEMO_CLASSES:g} %)"
    return f"**These are {profile} runs, of {images} images{on} and {epochs}: {means}.**"


def _full(names: list[str], seed: int, folder: Path) -> Runs:
    nets: dict[str, nn.Module] = {}
    for name in teachers_first(names):
        one = seed if name in names else 0
        if not records.path_of(name, one, folder).is_file():
            nets[name] = loop.train(name, seed=one, profile="full", out=folder, progress=None).model
    made = ", ".join(f"`{name}`" for name in nets) or "nothing: every run of this seed is recorded"
    return Runs(_stored(names, folder), nets, f"*Trained just now: {made}.*")


def some_inputs(count: int = 32, seed: int = 0) -> tuple[Tensor, str]:
    """Inputs ``(count, 3, 32, 32)`` for a look into a net, normalised, and what they are: test images of
    CIFAR-10, or, where it is not on this machine, smooth noise. Raises ``ValueError`` below 2, too few for a
    batch norm in training."""
    if count < 2:
        raise ValueError(f"{count} images are too few: take 2 or more, batch norm in training needs them")
    draw = torch.Generator().manual_seed(seed)
    try:
        cifar = data.load("cifar10", download=False)
    except data.DataNotFound:
        coarse = torch.randn(count, 3, 8, 8, generator=draw)
        smooth = nn.functional.interpolate(coarse, size=32, mode="bicubic")
        return smooth / smooth.std(), "images of smooth noise, in place of CIFAR-10"
    chosen = torch.randperm(len(cifar.test), generator=draw)[:count]
    normalise = evaluate.input_transform("normalized", cifar)
    return normalise(cifar.test.images[chosen]), "test images of CIFAR-10"


# ------------------------------------------------------------------------------------------- shipped nets


@dataclass(frozen=True)
class Shipped:
    """A packed net that comes with the book. ``recorded``: top-1 % of its run in training; ``predictions``: what the packed
    file itself answers on the whole test set (:mod:`bnnlib.experiments.predictions`), None where there is no record."""

    name: str
    path: Path
    recorded: float
    real: str
    predictions: Predictions | None = None

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def top1(self) -> float:
        """Top-1 % of the packed file; of its run in training where the file's own is not recorded."""
        return self.recorded if self.predictions is None else self.predictions.top1

    def __str__(self) -> str:
        """In Markdown: what the file gives, and its size."""
        size = f"{self.bytes / 1e6:.2f} MB, real-valued weights as {self.real}"
        if self.predictions is None:
            return f"`{self.name}`: {self.recorded:.2f} % **in training** (of the packed file there is no record); {size}."
        text = f"`{self.name}`: {self.top1:.2f} % of {len(self.predictions.labels):,} test images"
        if abs(self.top1 - self.recorded) >= 0.005:
            text += f" ({self.recorded:.2f} % at the end of its training, in its arithmetic)"
        return f"{text}; {size}."


def shipped(names: Iterable[str], *, folder: Path = deploy.FOLDER, records_in: Path = predictions.FOLDER) -> dict[str, Shipped]:
    """Those of ``names`` that have a packed file in ``folder``, with their recorded predictions, which need no images."""
    found = {}
    for name in names:
        path = Path(folder) / f"{name}.safetensors"
        if path.is_file():
            about = deploy.info(path)
            found[name] = Shipped(name, path, about["top1"], about["real"], predictions.read(name, path, records_in))
    return found
