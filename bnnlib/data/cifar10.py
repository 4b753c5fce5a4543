"""CIFAR-10 from torchvision's own layout or a tree of image files: the same pixels, so the same fingerprint.

root/cifar-10-batches-py/{data_batch_1..5, test_batch}
root/cifar10/{train,test}/CLASS/*.png
"""

from __future__ import annotations

import io
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
LARGEST_BATCH = 64 << 20  # bytes; the official ones are half of it
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
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of a tree of image files, a folder a class."""
    return folders.read(folders.list_tree(folder, CLASSES))


def read_pickles(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of the batch files of a split. Raises DataError."""
    images, labels = [], []
    for name in BATCHES[split]:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing, though other files of CIFAR-10 are there")
        try:
            pixels, tags = batch(path)
        except Exception as error:  # a cut or altered pickle can raise almost anything
            raise DataError(
                f"{path}: not a batch file of CIFAR-10, or damaged ({str(error)[:200]}); fetch it again"
            ) from error
        if len(tags) == 0 or tags.min() < 0 or tags.max() > 9:
            raise DataError(f"{path}: labels outside 0..9, or none")
        images.append(pixels)
        labels.append(tags)
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))


def batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one batch file. Raises almost anything for another file, but
    runs no code of it, and takes no more memory than a few times its size."""
    if path.stat().st_size > LARGEST_BATCH:
        raise ValueError(f"more than {LARGEST_BATCH} bytes")
    content = _Unpickler(_Counted(path.read_bytes()), encoding="bytes").load()
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise ValueError("it holds no data and labels")
    labels = content[b"labels"]
    if not isinstance(labels, list) or not all(type(n) is int and 0 <= n < 256 for n in labels):
        raise ValueError("its labels are no list of small numbers")
    if not isinstance(content[b"data"], _Array):
        raise ValueError("its data are no array")
    return content[b"data"].bytes().reshape(len(labels), 3, 32, 32), np.array(labels, np.int64)


class _Type:
    """Stands for NumPy's dtype, of which a batch file needs one: a byte. The real one would take from the file what it
    is to make of memory."""

    def __init__(self, name: object, *flags: object) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"its array is of the type {name!r:.40}, not of bytes")

    def __setstate__(self, state: tuple) -> None:
        if not isinstance(state, tuple) or state[1:5] not in ((b"|", None, None, None), ("|", None, None, None)):
            raise pickle.UnpicklingError("its array is of no plain type")


class _Array:
    """Stands for NumPy's ndarray."""

    def __init__(self, *empty: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def bytes(self) -> np.ndarray:
        version, shape, kind, fortran, raw = self.state
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("its array is not of bytes")
        if len(shape) != 2 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise pickle.UnpicklingError("its array is no table")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C").copy()


class _Counted(io.BytesIO):
    """A file that is read in so many steps at most: a byte may stand for an object of a hundred."""

    steps = 2_000_000  # the official ones take a tenth

    def read(self, size: int = -1) -> bytes:
        self.steps -= 1
        if self.steps < 0:
            raise pickle.UnpicklingError("it is made of more parts than a batch file")
        return super().read(size)


# The opcodes of a batch file: numbers, strings, lists, tuples and dicts of them, names of classes, and their calls.
_OPCODES = (
    "PROTO FRAME STOP MARK BININT BININT1 BININT2 INT LONG LONG1 NONE NEWTRUE NEWFALSE STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES UNICODE BINUNICODE SHORT_BINUNICODE EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL "
    "STACK_GLOBAL REDUCE BUILD"
).split()


class _Unpickler(pickle._Unpickler):
    """Gives numbers, strings, lists, tuples, dicts, and :class:`_Array`: nothing in a data file runs code, not even
    NumPy's. It is the unpickler in Python, since the faster one takes as much memory as numbers in the file say."""

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}
    encoded = 0

    def find_class(self, module: str, name: str) -> object:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Type,
            ("_codecs", "encode"): self._encode,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs")
        return known[module, name]

    def _encode(self, text: str, encoding: str) -> bytes:
        """Text to bytes, as protocols before 3 write bytes. A file may state a text once and have it encoded many times."""
        self.encoded += len(text)
        if encoding != "latin1" or self.encoded > LARGEST_BATCH:
            raise pickle.UnpicklingError("it encodes what no batch file does")
        return text.encode("latin1")

    def _named(self, items: list) -> None:
        """Keys are names: the hash of a tuple of tuples may take forever."""
        if not all(isinstance(key, bytes | str) for key in items):
            raise pickle.UnpicklingError("a key is no name")

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _Type | _Array):
            raise pickle.UnpicklingError("it fills what is no array")
        super().load_build()

    def load_frame(self) -> None:
        self.read(8)  # a frame is a hint to read ahead

    def load_setitem(self) -> None:
        self._named(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._named(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        self._named(self.stack[::2])
        super().load_dict()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.FRAME[0]] = load_frame
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
