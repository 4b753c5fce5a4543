"""scikit-learn's embedded digits: 1797 images of 8x8 pixels, no download, for tests and quick looks.

Each pixel becomes 3x3 and a margin of 2 is added, which gives MNIST's 28x28 and roughly its margin, so that every
net for MNIST runs. All arithmetic is in integers: the pixels, and so the fingerprint, are the same everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bnnlib.data.splits import stratified

CLASSES = tuple("0123456789")
TEST_IMAGES = 360  # a fifth
SEED = 0


def read() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[str, ...]]:
    """((images, labels) of train, of test, classes); images uint8 (N, 1, 28, 28), labels int64 (N,)."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    small = (bunch.images.astype(np.int64) * 255 // 16).astype(np.uint8)  # 0..16 -> 0..255
    large = np.pad(small.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    images, labels = torch.from_numpy(large).unsqueeze(1), torch.from_numpy(bunch.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[stratified(labels, TEST_IMAGES, SEED)] = True
    return (images[~test], labels[~test]), (images[test], labels[test]), CLASSES
