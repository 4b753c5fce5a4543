"""Where data lives on this machine, and decoded image trees kept there so that they are decoded once.

A tree of 60,000 PNG files takes a while to decode. Its pixels are kept in one safetensors file, named by
hashes of the tree's path and of its listing (relative names, sizes, modification times): a tree that changes
gets another file, and the old one goes. Files are written under a temporary name and moved into place, so
that processes may race; what is read is checked against a SHA-256 of its contents and made anew if it does
not match.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bnnlib import paths

FORMAT = "1"  # raise when the same tree would decode to other arrays


def folder() -> Path:
    """The folder of data sets in the user's cache."""
    return paths.cache("data")


def key(root: Path, files: list[tuple[str, int, int]]) -> tuple[str, str]:
    """(group, name) for a tree at `root`; files: (relative name, size in bytes, modification time in ns)."""
    # Decoders of lossy formats may differ in the last bit, so a new Pillow decodes anew.
    digest = hashlib.sha256(f"{FORMAT}\0{PIL.__version__}\n".encode())
    for name, size, mtime in sorted(files):
        digest.update(f"{name}\0{size}\0{mtime}\n".encode("utf-8", "surrogateescape"))
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16], digest.hexdigest()[:32]


def remember(group: str, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors stored as `name` of `group`; if there are none they are made and replace the group's.

    Where they cannot be stored (a full disk, a folder without permission) they are made every time.
    """
    path = folder() / "decoded" / f"{group}-{name}.safetensors"
    tensors = read(path)
    if tensors is None:
        tensors = make()
        with contextlib.suppress(OSError):
            write(path, tensors)
            tidy(path, group)
    return tensors


def tidy(path: Path, group: str) -> None:
    """Remove what `path` has replaced, and what a killed process left behind an hour ago or more."""
    for other in path.parent.glob(f"{group}-*"):
        if other != path and (other.suffix == ".safetensors" or other.stat().st_mtime < time.time() - 3600):
            other.unlink(missing_ok=True)


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
    """Keep `tensors` in `path`, whole or not at all, with their checksum."""
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
    """SHA-256 of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
