"""Fingerprints: which images a number was measured on.

A resident split is hashed over its labels and pixels with the images sorted by (label, pixels), so that the
same images give the same fingerprint whatever they are stored in and in whatever order. A split that is
decoded lazily would take minutes to hash this way; it is hashed over its listing instead, under another
prefix, so that the two kinds are never taken for each other.

    sha256:...            labels and pixels
    listing-sha256:...    (class, file name, size) of every file
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

PIXELS = "sha256:"
LISTING = "listing-sha256:"


def of_images(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of uint8 images (N, C, H, W) and labels (N,), sorted by (label, pixels)."""
    if images.dtype != torch.uint8:
        raise ValueError(f"a fingerprint is taken of the uint8 images as loaded, not of {images.dtype} ones")
    pixels = np.ascontiguousarray(images.cpu().numpy()).reshape(len(images), -1)
    tags = labels.cpu().numpy()
    digest = hashlib.sha256(f"images {tuple(images.shape)}".encode())
    for label in np.unique(tags):
        members = sorted(pixels[i].tobytes() for i in np.flatnonzero(tags == label))
        digest.update(f"label {label} x {len(members)}".encode())
        for member in members:
            digest.update(member)
    return PIXELS + digest.hexdigest()


def of_listing(files: Iterable[tuple[str, str, int]]) -> str:
    """SHA-256 of a listing of (class, file name, size in bytes), sorted."""
    digest = hashlib.sha256()
    for label, name, size in sorted(files):
        digest.update(f"{label}\0{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    return LISTING + digest.hexdigest()


def combine(train: str, test: str) -> str:
    """One fingerprint for two splits; of the kind of its parts, which must agree."""
    kinds = {text.rpartition(":")[0] + ":" for text in (train, test)}
    if len(kinds) != 1:
        raise ValueError(f"cannot combine fingerprints of different kinds: {train} and {test}")
    return kinds.pop() + hashlib.sha256(f"train {train} test {test}".encode()).hexdigest()
