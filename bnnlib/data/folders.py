"""Trees of image files, one folder a class: root/train/CLASS/*.png and root/test/CLASS/*.png."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bnnlib.data import cache
from bnnlib.data.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


LARGEST = 90_000_000  # pixels of an image; the largest of ImageNet's has 61 million


@dataclass(frozen=True)
class Tree:
    """Files of one split: names relative to `root`, in the order of their images, one label each."""

    root: Path
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]
    stats: list[tuple[int, int]]  # size in bytes, modification time in ns


def list_tree(root: Path, classes: tuple[str, ...] | None = None, inside: str = "") -> Tree:
    """List root/CLASS/[inside/]*.png, with images in folders below them. Classes are sorted by name, folders and files too, which is
    torchvision's order; names that begin with a dot are left out (`._x.png` is what macOS leaves beside x.png).

    classes: the ones that must be there, no more and no fewer; None takes the folders found.
    """
    with os.scandir(root) as entries:
        found = tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))
    if not found:
        raise DataError(f"{root}: no class folders in it; expected one folder a class")
    if classes is None:
        classes = found
    missing, extra = sorted(set(classes) - set(found)), sorted(set(found) - set(classes))
    if missing:
        raise DataError(
            f"{root}: class folder {missing[0]!r} is missing ({len(missing)} of {len(classes)} are)"
        )
    if extra:
        raise DataError(f"{root}: {extra[0]!r} is not one of the {len(classes)} classes expected here")
    names, labels, stats = [], [], []
    for label, name in enumerate(classes):
        here = root / name / inside if inside else root / name
        if not here.is_dir():
            raise DataError(f"{here}: missing")
        files = [(file, regular(here / file)) for file in _images_below(here)]
        if not files:
            raise DataError(f"{here}: no image files in it")
        prefix = os.path.relpath(here, root)
        names += [f"{prefix}/{file}" for file, _ in files]
        labels += [label] * len(files)
        stats += [(stat.st_size, stat.st_mtime_ns) for _, stat in files]
    return Tree(root, classes, names, labels, stats)


def _images_below(folder: Path) -> list[str]:
    found = []
    for place, below, files in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if len(Path(place).relative_to(folder).parts) > 16:
            raise DataError(f"{place}: folders within folders more than 16 deep (a link to itself?)")
        inside = os.path.relpath(place, folder)
        found += [(inside, name) for name in files if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    # torchvision sorts by folder, then by name
    return [name if inside == "." else f"{inside}/{name}" for inside, name in sorted(found, key=lambda f: ("" if f[0] == "." else f[0], f[1]))]


def regular(path: Path) -> os.stat_result:
    """Size, time and type of a file, as `stat` gives them. Raises `DataError` for a folder, a link to nowhere and a pipe,
    which would be read forever."""
    try:
        about = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: {'a link to nothing' if path.is_symlink() else 'missing'}") from error
    except (OSError, ValueError) as error:  # the second: a name that none can have
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{path}: no regular file; remove it")
    return about


def open_image(path: Path) -> Image.Image:
    """Decode one file, or say what is wrong with it. Pixels of more than 8 bits are refused: a conversion would clip
    them."""
    regular(path)
    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise DataError(f"{path}: {image.width}x{image.height} pixels, more than {LARGEST}")
            image.load()
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: pixels of more than 8 bits (mode {image.mode}); convert it to 8 bits")
            return image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing") from error
    except Exception as error:  # what is damaged can raise almost anything, MemoryError included
        raise DataError(f"{path}: damaged image ({str(error)[:200] or type(error).__name__})") from error


def decode(tree: Tree) -> Tensor:
    """All images of a tree as uint8 (N, C, H, W): three channels, or one if every file is greyscale.

    They must be of one size; anything else is a `DataError` that names the file.
    """
    first = open_image(tree.root / tree.names[0])
    width, height = first.size
    pixels = np.empty((len(tree.names), 3, height, width), dtype=np.uint8)
    grey = np.zeros(len(tree.names), dtype=bool)

    def load(start: int) -> None:
        for i in range(start, min(start + 256, len(tree.names))):
            path = tree.root / tree.names[i]
            image = open_image(path)
            if image.size != (width, height):
                raise DataError(
                    f"{path}: {image.width}x{image.height} pixels where {tree.names[0]} has "
                    f"{width}x{height}; images held in memory must be of one size (lazyfolder:PATH takes any)"
                )
            grey[i] = image.mode in ("L", "1")
            pixels[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done in [pool.submit(load, start) for start in range(0, len(tree.names), 256)]:
            done.result()
    return torch.from_numpy(pixels[:, :1].copy() if grey.all() else pixels)


def read(tree: Tree) -> tuple[Tensor, Tensor]:
    """Images and labels of a tree, through the cache of decoded trees."""
    # Images are stored in the order of the names, so that order is part of the key; labels are not stored.
    listing = [
        (f"{i} {name}", *stat) for i, (name, stat) in enumerate(zip(tree.names, tree.stats, strict=True))
    ]
    group, name = cache.key(tree.root, listing)
    images = cache.remember(group, name, lambda: {"images": decode(tree)})["images"]
    return images, torch.tensor(tree.labels)
