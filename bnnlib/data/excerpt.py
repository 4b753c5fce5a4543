"""A few images of Tiny-ImageNet-200, without decoding the 110,000 of the whole set: for pictures, and for runs
of seconds that show that a recipe runs.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bnnlib.data import registry, tiny_imagenet
from bnnlib.data.folders import Tree, open_image


@contextmanager
def excerpt(root: Path | None = None, *, classes: int = 8, train: int = 8, test: int = 4) -> Iterator[str]:
    """A tree of ``train`` and ``test`` images (64x64) of each of ``classes`` classes, for as long as the context
    lasts: its name, as :func:`bnnlib.data.load` takes it. ``root``: as there; nothing is downloaded. Raises
    :class:`DataNotFound` where the set is not here."""
    if min(classes, train, test) < 1:
        raise ValueError(f"an excerpt of {classes} classes, {train} and {test} images has nothing in it")
    source = registry.find("tiny-imagenet", root)
    with tempfile.TemporaryDirectory(prefix="bnn-excerpt-") as folder:
        _copy(source, Path(folder), classes, {"train": train, "test": test})
        yield f"imagefolder:{folder}"


def photographs(count: int, root: Path | None = None, *, seed: int = 0) -> list[tuple[np.ndarray, str]]:
    """``count`` validation images, uint8 (64, 64, 3), of as many classes (classes repeat once all were used), each
    with what it shows in words. Raises :class:`DataNotFound` where the set is not here."""
    folder = registry.find("tiny-imagenet", root)
    tree, known = _validation(folder), tiny_imagenet.words(folder)
    by_class = _by_class(tree)
    draw = random.Random(seed)
    order = draw.sample(range(len(tree.classes)), len(tree.classes))
    chosen = [order[i % len(order)] for i in range(count)]
    found = []
    for label in chosen:
        image = open_image(tree.root / draw.choice(by_class[label])).convert("RGB")
        found.append((np.asarray(image), known.get(tree.classes[label], tree.classes[label])))
    return found


def _copy(source: Path, folder: Path, classes: int, wanted: dict[str, int]) -> None:
    trees = {"train": tiny_imagenet.list_train(source / "train"), "test": _validation(source)}
    draw = random.Random(0)
    chosen = draw.sample(range(len(trees["train"].classes)), min(classes, len(trees["train"].classes)))
    for part, tree in trees.items():
        by_class = _by_class(tree)
        for label in chosen:
            into = folder / part / tree.classes[label]
            into.mkdir(parents=True)
            for name in draw.sample(by_class[label], min(wanted[part], len(by_class[label]))):
                shutil.copyfile(tree.root / name, into / Path(name).name)


def _validation(folder: Path) -> Tree:
    classes = tuple(sorted(path.name for path in (folder / "train").iterdir() if path.is_dir()))
    return tiny_imagenet.list_validation(folder / "val", classes)


def _by_class(tree: Tree) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, label in zip(tree.names, tree.labels, strict=True):
        found.setdefault(label, []).append(name)
    return found
