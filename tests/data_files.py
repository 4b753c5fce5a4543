"""Data sets as files, made for the tests: MNIST in its own format, trees of images, and damage to them."""

import gzip
import zlib

import numpy as np
from PIL import Image

from bnnlib.data import mnist


def some_images(count, shape, seed=0):
    """``count`` random images of ``shape``, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def idx_bytes(array):
    """An array in MNIST's idx format."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def write_mnist(root, train=20, test=7, packed=False):
    """MNIST of so few images under ``root``, of which its reader is told; gives the folder and each split's arrays."""
    mnist.COUNT.update(train=train, test=test)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        arrays[split] = some_images(count, (28, 28), seed=count), np.arange(count) % 10
        for name, array in zip(mnist.FILES[split], arrays[split], strict=True):
            content = idx_bytes(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
    return folder, arrays


def remove(folder):
    """Remove a folder of files."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def cut(path):
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_tree(root, parts=("train", "test"), classes=("b", "a"), count=3, size=(9, 6), mode="RGB"):
    """A tree of random images, ``count`` for each class of each part; ``size``: width and height."""
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = some_images(1, (*size[::-1], 3), seed=zlib.crc32(f"{part}{name}{i}".encode()))[0]
                Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return root
