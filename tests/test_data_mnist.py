"""MNIST's files: what is read is what was written, and damaged files are named."""

import gzip

import numpy as np
import pytest
import torch
import torchvision
from data_files import idx_bytes, some_images, write_mnist

from bnnlib import data
from bnnlib.data import mnist


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_what_was_written(alone, tmp_path, packed):
    _, arrays = write_mnist(tmp_path / "d", packed=packed)
    loaded = data.load("mnist", tmp_path / "d")
    for split in ("train", "test"):
        images, labels = arrays[split]
        got = getattr(loaded, split)
        assert got.images.shape == (len(images), 1, 28, 28) and got.images.dtype == torch.uint8
        assert np.array_equal(got.images[:, 0].numpy(), images)
        assert got.labels.dtype == torch.int64 and got.labels.tolist() == labels.tolist()
    assert loaded.classes == tuple("0123456789") and (loaded.mean, loaded.std) == ((0.1307,), (0.3081,))
    assert len(loaded.train) == 20 and loaded.train.shape == (1, 28, 28) and loaded.name == "mnist"


def test_real_mnist_is_torchvisions(bnn_data):
    loaded = data.load("mnist", bnn_data)
    for split, count in (("train", 60000), ("test", 10000)):
        want = torchvision.datasets.MNIST(bnn_data, train=split == "train")
        got = getattr(loaded, split)
        assert len(got) == count
        assert torch.equal(got.images[:, 0], want.data) and torch.equal(got.labels, want.targets)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "15695 bytes where its header says 15696"),
        ("train-images-idx3-ubyte", lambda b: b + b"x", "header says"),
        ("train-images-idx3-ubyte", lambda b: b[:9], "not an idx file"),
        ("t10k-images-idx3-ubyte", lambda b: b"", "not an idx file"),
        ("t10k-labels-idx1-ubyte", lambda b: b"<html>no such file</html>", "not an idx file"),
        ("t10k-labels-idx1-ubyte", lambda b: idx_bytes(np.arange(6)), "6 labels for the 7 images"),
        ("train-labels-idx1-ubyte", lambda b: idx_bytes(np.full(20, 11)), "label 11"),
        ("train-labels-idx1-ubyte", None, "missing"),
    ],
)
def test_damaged_mnist_names_the_file(alone, tmp_path, name, change, says):
    folder, _ = write_mnist(tmp_path)
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(data.DataError, match=f"{name}.*{says}"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("count", [0, 10])
def test_mnist_of_fewer_images_is_no_mnist(alone, tmp_path, count):
    write_mnist(tmp_path, train=count)
    mnist.COUNT.update(train=20)
    with pytest.raises(data.DataError, match=f"train-images-idx3-ubyte: {count} images where MNIST's train set has 20"):
        data.load("mnist", tmp_path)


def test_mnist_of_another_size(alone, tmp_path):
    folder, _ = write_mnist(tmp_path)
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(some_images(20, (28, 27))))
    with pytest.raises(data.DataError, match=r"images of shape \(28, 27\)"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("shape", [(2**31, 2**31, 4), (2**32 - 1,) * 3, (2**16, 2**16, 2**32 - 1)])
def test_sizes_that_overflow(alone, tmp_path, shape):
    folder, _ = write_mnist(tmp_path)
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in shape)
    (folder / "train-images-idx3-ubyte").write_bytes(head)
    with pytest.raises(data.DataError, match="16 bytes where its header says"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_larger_than_mnists_is_not_read_to_its_end(alone, tmp_path, monkeypatch, packed):
    monkeypatch.setattr(mnist, "LARGEST", 20_000)
    folder, _ = write_mnist(tmp_path, packed=packed)
    bomb = bytes(10**7)
    name = "train-images-idx3-ubyte" + (".gz" if packed else "")
    (folder / name).write_bytes(gzip.compress(bomb) if packed else bomb)
    with pytest.raises(data.DataError, match=f"{name}: more than 20000 bytes"):
        data.load("mnist", tmp_path)


def test_cut_gzip_names_the_file(alone, tmp_path):
    folder, _ = write_mnist(tmp_path, packed=True)
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(data.DataError, match="train-images-idx3-ubyte.gz: damaged gzip"):
        data.load("mnist", tmp_path)
