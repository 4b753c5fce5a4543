"""CIFAR-10 from torchvision's own layout or a tree of image files: the same pixels, so the same fingerprint.

root/cifar-10-batches-py/{data_batch_1..5, test_batch}
root/cifar10/{train,test}/CLASS/*.png
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnnlib.data import folders
from bnnlib.data.errors import DataError

# Alphabetical, which is the order of the labels in the original files too.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = {"train": 5000, "test": 1000}
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}


def find(root: Path) -> Path | None:
    """The folder under `root` that holds the set in either layout, or None."""
    for folder in (root / "cifar-10-batches-py", root / "cifar10" / "cifar-10-batches-py", root):
        if any((folder / name).is_file() for names in BATCHES.values() for name in names):
            return folder
    for folder in (root / "cifar10", root / "CIFAR10", root):
        if (folder / "train" / CLASSES[0]).is_dir() or (folder / "test" / CLASSES[0]).is_dir():
            return folder
    return None


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of "train" or "test"."""
    if (folder / split).is_dir():
        images, labels = read_tree(folder / split)
        what = folder / split
    else:
        images, labels = read_pickles(folder, split)
        what = folder
    if images.shape[1:] != (3, 32, 32):
        raise DataError(f"{what}: images of shape {tuple(images.shape[1:])} where CIFAR-10's are (3, 32, 32)")
    wanted = PER_CLASS[split]
    for name, count in zip(CLASSES, torch.bincount(labels, minlength=10).tolist(), strict=True):
        if count != wanted:
            raise DataError(
                f"{what}: {count} images of class {name!r} where CIFAR-10's {split} set has {wanted}; "
                "unpack it again"
            )
    return images, labels


def read_tree(folder: Path) -> tuple[Tensor, Tensor]:
    return folders.read(folders.list_tree(folder, CLASSES))


def read_pickles(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for name in BATCHES[split]:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing, though other files of CIFAR-10 are there")
        try:
            with open(path, "rb") as file:
                batch = _Unpickler(file, encoding="bytes").load()
            pixels, tags = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"], dtype=np.int64)
            images.append(pixels.astype(np.uint8, casting="safe").reshape(len(tags), 3, 32, 32))
        except Exception as error:  # a cut or altered pickle can raise almost anything
            raise DataError(
                f"{path}: not a batch file of CIFAR-10, or damaged ({error}); fetch it again"
            ) from error
        if len(tags) == 0 or tags.min() < 0 or tags.max() > 9:
            raise DataError(f"{path}: labels outside 0..9, or none")
        labels.append(tags)
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays and nothing else: a data file is no reason to run code."""

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
