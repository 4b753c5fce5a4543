"""CIFAR-10 in its two layouts, pickles and a tree of images; damaged and hostile files are named and run nothing."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from data_files import cut, remove, some_images
from PIL import Image

from bnnlib import data
from bnnlib.data import cifar10


@pytest.fixture
def small_cifar(monkeypatch, tmp_path):
    """root/pickles and root/tree hold the same 10 x (5 + 2) images in the two layouts, in different order."""
    monkeypatch.setattr(cifar10, "PER_CLASS", {"train": 5, "test": 2})
    arrays = {}
    for split, count in (("train", 50), ("test", 20)):
        labels = np.random.default_rng(count).permutation(np.arange(count) % 10)
        arrays[split] = some_images(count, (3, 32, 32), seed=count), labels
        names = cifar10.BATCHES[split]
        for name, rows in zip(names, np.array_split(np.arange(count), len(names)), strict=True):
            write_batch(
                tmp_path / "pickles" / "cifar-10-batches-py" / name, arrays[split][0][rows], labels[rows]
            )
        for i, (image, label) in enumerate(zip(*arrays[split], strict=True)):
            folder = tmp_path / "tree" / "cifar10" / split / cifar10.CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    return tmp_path, arrays


def write_batch(path, images, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        b"data": images.reshape(len(images), -1),
        b"labels": [int(n) for n in labels],
        b"batch_label": b"x",
    }
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_cifar10_pickles_are_what_was_written(alone, small_cifar):
    root, arrays = small_cifar
    loaded = data.load("cifar10", root / "pickles")
    for split in ("train", "test"):
        got = getattr(loaded, split)
        assert np.array_equal(got.images.numpy(), arrays[split][0])
        assert got.labels.tolist() == arrays[split][1].tolist()


def test_cifar10_of_both_layouts_has_one_fingerprint(alone, small_cifar):
    root, _ = small_cifar
    pickles, tree = data.load("cifar10", root / "pickles"), data.load("cifar10", root / "tree")
    assert pickles.train.labels.tolist() != tree.train.labels.tolist()  # another order
    assert pickles.fingerprint == tree.fingerprint
    assert pickles.train.fingerprint == tree.train.fingerprint
    assert pickles.classes == tree.classes == cifar10.CLASSES


def test_cifar10_batches_need_not_come_from_python_3(alone, small_cifar):
    """The published files are protocol 2 pickles of Python 2, with NumPy's old module path."""
    root, _ = small_cifar
    want = data.load("cifar10", root / "pickles").fingerprint
    for path in (root / "pickles" / "cifar-10-batches-py").iterdir():
        old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        path.write_bytes(old)
    assert data.load("cifar10", root / "pickles").fingerprint == want


def test_tree_order_is_torchvisions(alone, small_cifar):
    root, _ = small_cifar
    want = torchvision.datasets.ImageFolder(root / "tree" / "cifar10" / "train")
    got = data.load("cifar10", root / "tree").train
    assert got.labels.tolist() == want.targets
    assert np.array_equal(
        got.images.numpy(), np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in want])
    )


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("should-not-exist",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:5000]), "data_batch_2: not a batch file.*damaged"),
        (lambda p: p.write_bytes(b""), "data_batch_2: not a batch file"),
        (lambda p: p.unlink(), "data_batch_2: missing"),
        (lambda p: p.write_bytes(pickle.dumps({b"labels": [1]})), "data_batch_2: not a batch file"),
        (lambda p: p.write_bytes(pickle.dumps(Harmful())), "data_batch_2.*asks for posix.mkdir"),
        (lambda p: write_batch(p, some_images(2, (3, 32, 32)), [0, 10]), "data_batch_2: labels outside"),
        (lambda p: write_batch(p, some_images(2, (3, 32, 31)), [0, 1]), "data_batch_2: not a batch file"),
        (lambda p: write_batch(p, some_images(1, (3, 32, 32)), [0]), "images of class.*5"),
    ],
)
def test_damaged_cifar10_pickles(alone, small_cifar, change, says):
    root, _ = small_cifar
    change(root / "pickles" / "cifar-10-batches-py" / "data_batch_2")
    with pytest.raises(data.DataError, match=says):
        data.load("cifar10", root / "pickles")
    assert not Path("should-not-exist").exists()


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


DTYPE = b"cnumpy\ndtype\n"
OBJECTS = DTYPE + b"(U\x02V8I00\nI01\ntR(K\x03U\x01|N(U\x01atU\x01a}K\x08K\x01K\x00tb"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        # a structured type, as the state of dtype builds it: NumPy would follow the bytes of the array as pointers
        (opcodes(OBJECTS), "of the type b'V8', not of bytes"),
        (opcodes(DTYPE, b"(U\x01OtR"), "of the type b'O', not of bytes"),
        (opcodes(DTYPE, b"(U\x02u1tR(K\x03U\x01|N(U\x01atU\x01a}J\xff\xff\xff\xffK\x01K\x00tb"), "of no plain type"),
        (opcodes(DTYPE, b"(U\x02u1tR}b"), "of no plain type"),
        (opcodes(b"c_codecs\nencode\n(X\x01\0\0\0aX\x04\0\0\0zlibtR"), "encodes what no batch file does"),
        (opcodes(b"c_codecs\nencode\n}b"), "fills what is no array"),
        (opcodes(b"}", b"N", b"\x85" * 60, b"N", b"s"), "a key is no name"),
        (opcodes(b"(", b"]" * 2_100_000, b"t"), "more parts than a batch file"),
        (opcodes(b"r\xff\xff\xff\x7f"), ""),  # a memo of 2^31 places
        (opcodes(b"}(U\x06labels", b"]", b"2" * 60, b"\x87" * 20, b"U\x04datau", b"u"), ""),
    ],
)  # fmt: skip
def test_hostile_cifar10_pickles(alone, small_cifar, content, says):
    root, _ = small_cifar
    (root / "pickles" / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
    with pytest.raises(data.DataError, match=f"data_batch_2: not a batch file.*{says}"):
        data.load("cifar10", root / "pickles")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar10_batches_of_any_protocol_and_order(tmp_path, protocol, order):
    images = some_images(3, (3, 32, 32))
    table = np.asarray(images.reshape(3, -1), order=order)
    (tmp_path / "b").write_bytes(pickle.dumps({b"data": table, b"labels": [1, 2, 3]}, protocol=protocol))
    got, labels = cifar10.batch(tmp_path / "b")
    assert np.array_equal(got, images) and labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: remove(d / "ship"), "'ship' is missing"),
        (lambda d: next((d / "dog").iterdir()).unlink(), "4 images of class 'dog'.*5"),
        (lambda d: [p.unlink() for p in (d / "dog").iterdir()], "dog: no image files"),
        (lambda d: (d / "zebra").mkdir(), "'zebra' is not one of"),
        (lambda d: cut(next((d / "cat").iterdir())), r"cat/\d+.png: damaged image"),
        (lambda d: next((d / "cat").iterdir()).write_bytes(b"no picture"), r"cat/\d+.png: damaged image"),
    ],
)
def test_damaged_cifar10_tree(alone, small_cifar, change, says):
    root, _ = small_cifar
    change(root / "tree" / "cifar10" / "train")
    with pytest.raises(data.DataError, match=says):
        data.load("cifar10", root / "tree")


def test_real_cifar10(bnn_data):
    if not (bnn_data / "cifar10" / "train").is_dir():
        pytest.skip("needs CIFAR-10 as a tree")
    loaded = data.load("cifar10", bnn_data)
    assert len(loaded.train) == 50000 and len(loaded.test) == 10000
    # The channel means everyone normalises by, to the digits they are given in.
    means = loaded.train.images.double().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(means, torch.tensor(loaded.mean, dtype=torch.float64), atol=5e-5)
    path = sorted((bnn_data / "cifar10" / "test" / "frog").iterdir())[7]
    position = (loaded.test.labels == 6).nonzero()[7].item()
    assert np.array_equal(
        loaded.test.images[position].numpy(), np.asarray(Image.open(path)).transpose(2, 0, 1)
    )
