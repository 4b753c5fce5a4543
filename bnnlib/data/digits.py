"""scikit-learn's embedded digits: 1797 images of 8x8 pixels, no download, for tests and quick looks.

Each pixel becomes 3x3 and a margin of 2 is added: MNIST's 28x28, so that every net for MNIST runs. ``digits-32`` and
``digits-64`` are the same images of 4x4 and 8x8 for each pixel, in three equal channels, for nets for CIFAR-10 and
Tiny-ImageNet. It is done in integers: the pixels, and so the fingerprint, are the same everywhere.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnnlib.data.splits import stratified

CLASSES = tuple("0123456789")
TEST_IMAGES = 360  # a fifth
SEED = 0


# name of a set: pixels to one, margin, channels
SHAPES = {"digits": (3, 2, 1), "digits-32": (4, 0, 3), "digits-64": (8, 0, 3)}


def read(name: str = "digits") -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[str, ...]]:
    """((images, labels) of train, of test, classes) of one of :data:`SHAPES`; images uint8 (N, C, side, side), labels int64
    (N,)."""
    times, margin, channels = SHAPES[name]
    table = _table()
    small = (table[:, :64].reshape(-1, 8, 8) * 255 // 16).astype(np.uint8)  # 0..16 -> 0..255
    large = np.pad(small.repeat(times, axis=1).repeat(times, axis=2), ((0, 0), (margin, margin), (margin, margin)))
    images = torch.from_numpy(large).unsqueeze(1).repeat(1, channels, 1, 1)
    labels = torch.from_numpy(table[:, 64])
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[stratified(labels, TEST_IMAGES, SEED)] = True
    return (images[~test], labels[~test]), (images[test], labels[test]), CLASSES


def _table() -> np.ndarray:
    """int64 (1797, 65): the 64 pixels of an image and its label."""
    # Importing sklearn.datasets takes seconds; the file it would read takes none.
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    file = Path(package) / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        return np.loadtxt(file, delimiter=",").astype(np.int64)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.int64)
