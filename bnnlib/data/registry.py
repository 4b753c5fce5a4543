"""From a name to a data set: where it is looked for, how it is read, what to do when it is not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bnnlib.data import cache, cifar10, digits, download, folders, imagenet, mnist, tiny_imagenet
from bnnlib.data.errors import DataError, DataNotFound
from bnnlib.data.lazy import LazySplit
from bnnlib.data.splits import Dataset, Split
from bnnlib.data.transforms import STATISTICS

Parts = tuple  # (train, test, classes), a part being (images, labels) or a LazySplit


@dataclass(frozen=True)
class Source:
    """find: root -> folder or None. read: folder -> (train, test, classes). layout: what find looks for."""

    find: Callable[[Path], Path | None]
    read: Callable[[Path], Parts]
    statistics: str
    layout: str
    by_hand: str = ""  # how to get a set that cannot be downloaded


SOURCES = {
    "mnist": Source(
        mnist.find,
        lambda folder: (mnist.read(folder, "train"), mnist.read(folder, "test"), mnist.CLASSES),
        "mnist",
        "MNIST/raw/*-ubyte[.gz]",
    ),
    "cifar10": Source(
        cifar10.find,
        lambda folder: (cifar10.read(folder, "train"), cifar10.read(folder, "test"), cifar10.CLASSES),
        "cifar10",
        "cifar-10-batches-py/ or cifar10/{train,test}/CLASS/*.png",
    ),
    "tiny-imagenet": Source(
        tiny_imagenet.find,
        tiny_imagenet.read,
        "imagenet",
        "tiny-imagenet-200/{train,val}/, official or class folders",
    ),
    "imagenet": Source(
        imagenet.find,
        imagenet.read,
        "imagenet",
        "imagenet/{train,val}/WNID/*.JPEG or imagenet/ILSVRC2012_*.tar",
        by_hand="register at image-net.org and put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz into imagenet/ there (they are unpacked when first loaded)",
    ),
    "imagenette": Source(
        imagenet.find_imagenette,
        lambda folder: imagenet.read_tree(folder / "train", folder / "val"),
        "imagenet",
        "imagenette2-320/{train,val}/WNID/*.JPEG",
    ),
}
NAMES = (*SOURCES, *digits.SHAPES, "imagefolder:PATH", "lazyfolder:PATH")
# What short runs take in the place of a set that is not here: the embedded digits, in its images' size.
STAND_INS = {"mnist": "digits", "cifar10": "digits-32", "tiny-imagenet": "digits-64"}


def load(name: str, root: str | Path | None = None, *, download: bool = True) -> Dataset:
    """Load a data set by name.

    name: one of `NAMES`. "digits", "digits-32" and "digits-64" are embedded in scikit-learn and always there. "imagefolder:PATH" is a tree
    PATH/{train,test or val}/CLASS/* of images of one size, held in memory; "lazyfolder:PATH" the same of
    images of any size, decoded as they are needed.
    root: folder that holds the sets; else $BNN_DATA; else the cache folder (`bnnlib.data.cache.folder()`).
    download: fetch a set that is not there, if it can be fetched and there is a network.

    Raises ValueError for an unknown name, DataNotFound if the set is nowhere to be had, DataError if its
    files are damaged or incomplete. Never gives another set instead.
    """
    check(name)
    if name in digits.SHAPES:
        return _dataset(name, digits.read(name), "mnist" if name == "digits" else None)
    kind, _, path = name.partition(":")
    if path:
        train, test = _folders(name, Path(path).expanduser())
        if kind == "lazyfolder":
            return _dataset(name, imagenet.read_tree(train, test), "imagenet")
        tree = folders.list_tree(train)
        return _dataset(
            name, (folders.read(tree), folders.read(folders.list_tree(test, tree.classes)), tree.classes)
        )
    source = SOURCES[name]
    return _dataset(name, source.read(find(name, root, fetch=download)), source.statistics)


def check(name: str) -> None:
    """Raise ValueError, naming what is allowed, unless `name` can name a data set."""
    if not isinstance(name, str):
        how = f": name it as 'imagefolder:{name}' or 'lazyfolder:{name}'" if isinstance(name, os.PathLike) else ""
        raise ValueError(f"the name of a data set is a string, got {name!r}{how}")
    kind, colon, path = name.partition(":")
    if colon and kind in ("imagefolder", "lazyfolder") and path:
        return
    if name not in SOURCES and name not in digits.SHAPES:
        raise ValueError(f"no data set {name!r}: choose one of {', '.join(NAMES)}")


def data_root(root: str | Path | None = None) -> tuple[Path, str]:
    """Where data sets are looked for, and who said so: `root`, else $BNN_DATA, else the cache folder."""
    if root is not None:
        return Path(root).expanduser(), "the folder given"
    if os.environ.get("BNN_DATA"):
        return Path(os.environ["BNN_DATA"]).expanduser(), "$BNN_DATA"
    return cache.folder(), "the cache folder; $BNN_DATA is not set"


def here(name: str, root: str | Path | None = None) -> bool:
    """Whether a set can be loaded without a network."""
    check(name)
    if name not in SOURCES:
        return True
    return SOURCES[name].find(data_root(root)[0]) is not None


def find(name: str, root: str | Path | None = None, *, fetch: bool = False, progress: bool = False) -> Path:
    """The folder of a set of `SOURCES`, downloaded first if `fetch` and absent. Raises DataNotFound."""
    where, said_by = data_root(root)
    source = SOURCES[name]
    folder = source.find(where)
    if folder is not None:
        return folder
    failure = "no download was tried" if name in download.DOWNLOADS else ""
    if fetch and name in download.DOWNLOADS:
        try:
            download.fetch(name, where, progress=progress)
        except download.DownloadFailed as error:
            failure = str(error)
        else:
            failure = "the download did not hold it"
        folder = source.find(where)  # another process may have been faster
        if folder is not None:
            return folder
    fetching = f"run `python -m bnnlib.data fetch {name}` once where there is a network [{failure}]"
    get = source.by_hand or fetching
    raise DataNotFound(
        f"data set {name!r} is not here: looked for {source.layout} in {where} ({said_by}). Three ways on: "
        f"(1) set BNN_DATA, or give --data DIR (root= in Python), to the folder that holds it; (2) {get}; "
        f"(3) use the embedded digits, which need no files: --set dataset={STAND_INS.get(name, 'digits-64')}."
    )


def _folders(name: str, path: Path) -> tuple[Path, Path]:
    """The training and the test folder of a tree; test/ goes before val/ where both are."""
    if not path.is_dir():
        raise DataNotFound(f"{name}: there is no folder {path}; it should hold train/ and test/ (or val/)")
    test = next((path / part for part in ("test", "val") if (path / part).is_dir()), None)
    if not (path / "train").is_dir() or test is None:
        raise DataError(f"{name}: {path} should hold the folders train/ and test/ (or val/)")
    return path / "train", test


def _dataset(name: str, parts: Parts, statistics: str | None = None) -> Dataset:
    train, test, classes = parts
    if isinstance(train, LazySplit):
        return Dataset(name, train, test, tuple(classes), train.mean, train.std)
    channels = train[0].shape[1]
    shape, test_shape = tuple(train[0].shape[1:]), tuple(test[0].shape[1:])
    if test_shape != shape:
        raise DataError(f"{name}: test images of shape {test_shape}, training images {shape}")
    mean, std = STATISTICS[statistics] if statistics else ((0.5,) * channels, (0.5,) * channels)
    return Dataset(name, Split(*train, mean, std), Split(*test, mean, std), tuple(classes), mean, std)
