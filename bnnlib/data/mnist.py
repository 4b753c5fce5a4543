"""MNIST from its idx files, plain or gzipped, as torchvision lays them out: root/MNIST/raw/*-ubyte."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnnlib.data.errors import DataError

CLASSES = tuple("0123456789")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


COUNT = {"train": 60000, "test": 10000}
LARGEST = 64 << 20  # bytes of an idx file; the largest of MNIST's has 47 million


def find(root: Path) -> Path | None:
    """The folder under `root` that holds idx files, or None."""
    for folder in (root / "MNIST" / "raw", root / "MNIST", root / "mnist", root / "raw", root):
        if any(path.is_file() for pair in FILES.values() for name in pair for path in _forms(folder, name)):
            return folder
    return None


def read(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 1, 28, 28) and labels int64 (N,) of "train" or "test"."""
    images_path, labels_path = (_existing(folder, name) for name in FILES[split])
    images, labels = idx(images_path, dimensions=3), idx(labels_path, dimensions=1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: images of shape {images.shape[1:]} where MNIST's are (28, 28)")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}"
        )
    if len(images) != COUNT[split]:
        raise DataError(
            f"{images_path}: {len(images)} images where MNIST's {split} set has {COUNT[split]}; fetch it again"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: label {labels.max()} found where only 0..9 are possible")
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a file of LeCun's idx format: magic 0x0000 08 D, then D big-endian sizes, then bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read(LARGEST + 1)  # a packed file may be a thousand times as large as it looks
    except (EOFError, OSError, zlib.error) as error:
        damaged = "damaged gzip file" if path.suffix == ".gz" else "it cannot be read"
        raise DataError(f"{path}: {damaged} ({error}); fetch it again") from error
    if len(data) > LARGEST:
        raise DataError(f"{path}: more than {LARGEST} bytes, which no file of MNIST has; fetch it again")
    header = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) < header:
        raise DataError(f"{path}: not an idx file of unsigned bytes in {dimensions} dimensions")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4))
    wanted = header + math.prod(shape)
    if len(data) != wanted:
        raise DataError(
            f"{path}: {len(data)} bytes where its header says {wanted}: cut short or damaged, fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy()


def _forms(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, folder / f"{name}.gz"


def _existing(folder: Path, name: str) -> Path:
    for path in _forms(folder, name):
        if path.is_file():
            return path
    raise DataError(
        f"{folder / name}: missing (neither it nor {name}.gz is there), though other MNIST files are"
    )
