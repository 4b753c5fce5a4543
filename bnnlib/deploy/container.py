"""The bytes of a packed file: a safetensors file with one JSON document and a checksum. NumPy is all it needs.

::

    8 bytes       N, the length of the header: unsigned, little-endian
    N bytes       the header, JSON: {"__metadata__": {"bnnlib": DOCUMENT, "sha256": DIGEST},
                                     NAME: {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, ...}
    the rest      the tensors, one behind the other, little-endian, row by row

DOCUMENT is JSON as text; what it says is the business of :mod:`bnnlib.deploy.files`. DIGEST is the SHA-256 of the
whole file in which its own 64 digits are zeros, so that no byte can change unnoticed. Format 1 had no digest; 2 held graphs of version 1.

:func:`read` trusts nothing: it believes no size before it has compared it with the file's, and gives either what was
written or :class:`DeployError`. What it allocates is bounded by the size of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 3
LARGEST_HEADER = 4 << 20
"""Bytes. The largest of the book's is a hundredth of it; a table of 1000 class names takes little."""
LARGEST_FILE = 4 << 30

# BF16, which NumPy lacks, is uint16 in memory; no network has other tensors of that type.
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


class DeployError(ValueError):
    """A packed file, or a network, that cannot be used; the message says which and why."""


def write(path: Path, document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    """Write ``document`` and ``tensors`` to ``path``; whole or not at all, and the same bytes for the same content."""
    from bnnlib.storage import write_atomically

    encoded = _encoded(document, tensors)
    if len(encoded) > LARGEST_HEADER:
        raise DeployError(f"the header of {path} would take {len(encoded)} bytes, more than {LARGEST_HEADER}")
    parts = [np.ascontiguousarray(tensors[name], _stored(tensors[name].dtype)).tobytes() for name in _order(tensors)]
    whole = bytearray(b"".join([len(encoded).to_bytes(8, "little"), encoded, *parts]))
    where = _digits(encoded)
    whole[8 + where.start : 8 + where.stop] = hashlib.sha256(whole).hexdigest().encode()
    write_atomically(path, bytes(whole))
    return path


def size(document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> int:
    """The bytes that :func:`write` would write."""
    return 8 + len(_encoded(document, tensors)) + sum(array.nbytes for array in tensors.values())


def _order(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the tensors, those of the widest type first, so that each begins at a multiple of its type's size."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _stored(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("<")


def _encoded(document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bytes:
    """The header, with zeros for the checksum."""
    text = json.dumps({**document, "format": FORMAT}, sort_keys=True, allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {"bnnlib": text, "sha256": "0" * 64}}
    end = 0
    for name in _order(tensors):
        array = tensors[name]
        if array.dtype not in _NAMES:
            raise DeployError(f"the tensor {name} is of {array.dtype}, which a packed file does not hold")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % 8)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The document and the tensors of ``path``, checked. Raises :class:`DeployError` for a file that is absent, damaged,
    hostile, or not one of bnnlib's."""
    try:
        path = Path(path)
    except TypeError:
        raise DeployError(f"a packed model is read from the path of its file, got a {type(path).__name__}") from None
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # a pipe would wait for a writer
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise DeployError(f"packed model {path} cannot be read: it is no regular file")
            if about.st_size > LARGEST_FILE:
                raise DeployError(f"packed model {path} has {about.st_size} bytes, more than {LARGEST_FILE}: it is none")
            return _read(path, file, about.st_size)
    except DeployError:
        raise
    except FileNotFoundError:
        raise DeployError(f"no packed model {path}") from None
    except MemoryError:
        raise DeployError(f"packed model {path} does not fit into memory") from None
    except OSError as error:
        raise DeployError(f"packed model {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeployError(f"packed model {path} is damaged: {str(error)[:300]}") from None


def digest(path: Path) -> str:
    """The checksum of a packed file, which :func:`read` compares with its bytes; of one without, the SHA-256."""
    with open(path, "rb") as file:
        start = file.read(8 + LARGEST_HEADER)
        found = _DIGEST.search(start[: 8 + int.from_bytes(start[:8], "little")])
        return found[1].decode() if found else hashlib.sha256(start + file.read()).hexdigest()


def _read(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Raises ``ValueError`` for what is damaged; the data are not read before the header is found to fit them."""
    beginning = file.read(8)
    if beginning.startswith(b"PK\3\4"):
        raise DeployError(f"{path} is a zip archive, such as torch.save writes, and no packed model")
    length = int.from_bytes(beginning, "little")
    if len(beginning) < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
        raise ValueError(f"{size} bytes cannot hold a header of {length} (at most {LARGEST_HEADER}): it was cut short, or is no packed model")
    encoded = file.read(length)
    header = _json(encoded.decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError(f"its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not isinstance(metadata.get("bnnlib"), str):
        raise DeployError(f"{path} is a safetensors file, but not one of bnnlib's")
    document = _json(metadata["bnnlib"])
    version = document.get("format") if isinstance(document, dict) else document
    if not isinstance(document, dict) or type(version) is not int or not 1 <= version <= FORMAT:
        raise DeployError(f"{path} is of format {version!r:.40}, this version reads 1 to {FORMAT}")
    if version > 1 and "sha256" not in metadata:
        raise ValueError("its checksum is missing")
    rows = _rows(header, size - 8 - length)
    checked = "sha256" in metadata
    where = _digits(encoded) if checked else slice(0, 0)
    digest = hashlib.sha256(beginning + encoded[: where.start] + b"0" * 64 + encoded[where.stop :])
    tensors = {}
    for name, dtype, shape in rows:
        tensors[name] = array = _aligned(math.prod(shape), dtype)
        if file.readinto(array.view(np.uint8)) != array.nbytes:
            raise ValueError("it became shorter while it was read")
        digest.update(array)
        tensors[name] = array.reshape(shape)
    if checked and digest.hexdigest() != metadata["sha256"]:
        raise ValueError("its content does not match its checksum")
    return document, tensors


def _aligned(count: int, dtype: np.dtype) -> np.ndarray:
    """An array in memory of its own, which begins with a cache line: what a :class:`~bnnlib.deploy.run.Runner` takes over
    it reads by whole lines."""
    room = np.empty(count * dtype.itemsize + 63, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + count * dtype.itemsize].view(dtype)


def _json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {twice!r:.80} stands there twice")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def _digits(header: bytes) -> slice:
    """Where the digits of the checksum stand in the header."""
    found = list(_DIGEST.finditer(header))
    if len(found) != 1:
        raise ValueError("its checksum is not in its place")
    return slice(*found[0].span(1))


def _rows(header: Mapping[str, Any], size: int) -> list[tuple[str, np.dtype, list[int]]]:
    """(name, type, shape) of every tensor, in their order, which together must fill ``size`` bytes without a hole."""
    found = []
    for name, row in header.items():
        if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"the tensor {name!r:.80} has other fields than dtype, shape and data_offsets")
        if not isinstance(row["dtype"], str) or row["dtype"] not in DTYPES:
            raise ValueError(f"the tensor {name!r:.80} is of the unknown type {row['dtype']!r:.40}")
        for key in ("shape", "data_offsets"):
            if not isinstance(row[key], list) or not all(type(n) is int and 0 <= n < 2**63 for n in row[key]):
                raise ValueError(f"the {key} of the tensor {name!r:.80} are not whole numbers")
        if len(row["shape"]) > 8 or len(row["data_offsets"]) != 2:
            raise ValueError(f"the tensor {name!r:.80} has {len(row['shape'])} dimensions or not two offsets")
        begin, end = row["data_offsets"]
        dtype = _stored(np.dtype(DTYPES[row["dtype"]]))
        if end - begin != math.prod(row["shape"]) * dtype.itemsize:
            raise ValueError(f"the tensor {name!r:.80} of shape {row['shape']} does not take {end - begin} bytes")
        found.append((begin, end, name, dtype, row["shape"]))
    found.sort(key=lambda row: row[:2])
    at = 0
    for begin, end, name, *_ in found:
        if begin != at:
            raise ValueError(f"the tensor {name!r:.80} begins at {begin}, where the one before it ends at {at}")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at} bytes, and {size} are there")
    return [(name, dtype, shape) for _, _, name, dtype, shape in found]
