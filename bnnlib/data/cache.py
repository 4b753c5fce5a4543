"""Where data lives on this machine, and decoded image trees kept there so that they are decoded once.

A tree of 60,000 PNG files takes a while to decode. Its pixels are kept in one safetensors file, named by a hash of
the tree's path and listing (relative names, sizes, modification times): a tree that changes gets another file.
Files are written under a temporary name and moved into place, so that processes may race; what is read is checked
against a SHA-256 of its contents and thrown away if it does not match.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "1"  # raise when the same tree would decode to other arrays


def folder() -> Path:
    """The cache folder of this user: $XDG_CACHE_HOME/bnnlib/data, else ~/.cache/bnnlib/data."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bnnlib" / "data"


def key(root: Path, files: list[tuple[str, int, int]]) -> str:
    """Name for a tree at `root` with `files` of (relative name, size in bytes, modification time in ns)."""
    digest = hashlib.sha256(f"{FORMAT}\0{root.resolve()}\n".encode())
    for name, size, mtime in sorted(files):
        digest.update(f"{name}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def remember(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors stored under `name`; made, and stored if there is room and permission, when there are none."""
    path = folder() / "decoded" / f"{name}.safetensors"
    tensors = read(path)
    if tensors is None:
        tensors = make()
        try:
            write(path, tensors)
        except OSError:  # a full or read-only disk costs time at the next start, nothing else
            pass
    return tensors


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors in `path`, or None if it is missing, cut short or altered."""
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        return None
    return tensors if said == checksum(tensors) else None


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        try:
            save_file(tensors, part, metadata={"sha256": checksum(tensors)})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
