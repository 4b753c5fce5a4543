"""Data: one function from a name to a training and a test split, and batches of them.

    data = load("mnist")
    for index, x, y in Batches(data.train, 128, seed=0, augment=Augment(crop=2, flip=False)).epoch(0): ...

Small sets live whole in memory, or on the device, as bytes; augmentation is batched there and needs no worker
processes. Everything random depends on (seed, epoch, step) alone.

`python -m bnnlib.data info` shows which sets are here.
"""

from bnnlib.data.augment import Affine, Augment
from bnnlib.data.batches import Batches
from bnnlib.data.errors import DataError, DataNotFound
from bnnlib.data.lazy import LazySplit
from bnnlib.data.registry import NAMES, STAND_INS, here, load
from bnnlib.data.splits import Dataset, Split, split_validation
from bnnlib.data.transforms import STATISTICS, Normalize
from bnnlib.data.views import view
from bnnlib.data.whitening import ZCAWhitening, gcn

__all__ = [
    "NAMES",
    "STAND_INS",
    "STATISTICS",
    "Affine",
    "Augment",
    "Batches",
    "DataError",
    "DataNotFound",
    "Dataset",
    "LazySplit",
    "Normalize",
    "Split",
    "ZCAWhitening",
    "gcn",
    "here",
    "load",
    "split_validation",
    "view",
]
