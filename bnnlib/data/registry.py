"""From a name to a data set."""

from __future__ import annotations

import os
from pathlib import Path

from bnnlib.data import cache, cifar10, digits, folders, mnist
from bnnlib.data.errors import DataError, DataNotFound
from bnnlib.data.splits import Dataset, Split
from bnnlib.data.transforms import STATISTICS

NAMES = ("mnist", "cifar10", "tiny-imagenet", "imagenet", "imagenette", "digits", "imagefolder:PATH")


def load(name: str, root: str | Path | None = None, *, download: bool = True) -> Dataset:
    """Load a data set by name.

    name: "mnist", "cifar10", "tiny-imagenet", "imagenet", "imagenette", "digits" or "imagefolder:PATH".
    root: folder that holds the sets; else $BNN_DATA; else the cache folder (`bnnlib.data.cache.folder()`).
    download: fetch a set that is not there, if it can be fetched and there is a network.

    Raises ValueError for an unknown name, DataNotFound if the set is nowhere to be had, DataError if its files
    are damaged. Never gives another set instead.
    """
    if name == "digits":
        parts = digits.read()
        return _resident("digits", parts["train"], parts["test"], digits.CLASSES, STATISTICS["mnist"])
    if name.startswith("imagefolder:"):
        return _image_folder(name, Path(name.partition(":")[2]).expanduser())
    if name in ("mnist", "cifar10"):
        module = {"mnist": mnist, "cifar10": cifar10}[name]
        where = data_root(root)
        found = module.find(where)
        if found is None:
            raise DataNotFound(f"{name} is not in {where}")
        return _resident(name, module.read(found, "train"), module.read(found, "test"), module.CLASSES, STATISTICS[name])
    raise ValueError(f"no data set {name!r}: choose one of {', '.join(NAMES)}")


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets are looked for: `root`, else $BNN_DATA, else the cache folder."""
    if root is not None:
        return Path(root).expanduser()
    if os.environ.get("BNN_DATA"):
        return Path(os.environ["BNN_DATA"]).expanduser()
    return cache.folder()


def _resident(name, train, test, classes, statistics) -> Dataset:
    mean, std = statistics
    return Dataset(name, Split(*train, mean, std), Split(*test, mean, std), tuple(classes), mean, std)


def _image_folder(name: str, path: Path) -> Dataset:
    if not path.is_dir():
        raise DataNotFound(f"{path} is no folder: imagefolder:PATH wants one with train/ and test/ (or val/) in it")
    test = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if not (path / "train").is_dir() or test is None:
        raise DataError(f"{path}: imagefolder:PATH wants the folders train/ and test/ (or val/) in it")
    tree = folders.list_tree(path / "train")
    train, test = folders.read(tree), folders.read(folders.list_tree(test, tree.classes))
    channels = train[0].shape[1]
    statistics = ((0.5,) * channels, (0.5,) * channels)
    return _resident(name, train, test, tree.classes, statistics)
