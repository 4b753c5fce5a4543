"""From a name to images: where sets are looked for, how they are read, what is said if they are not right."""

import fcntl
import gzip
import hashlib
import http.server
import os
import pickle
import shutil
import threading
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as TF
from typer.testing import CliRunner

from bnnlib import data
from bnnlib.data import cache, cifar10, download, fingerprint, folders, mnist, registry
from bnnlib.data.__main__ import app
from bnnlib.data.splits import stratified


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A user without data, cache or network; gives the cache folder."""
    monkeypatch.delenv("BNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "xdg" / "bnnlib" / "data"


def some_images(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# -- MNIST --------------------------------------------------------------------------------


def idx_bytes(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    """MNIST is as large as `write_mnist` last wrote it."""
    monkeypatch.setattr(mnist, "COUNT", dict(mnist.COUNT))


def write_mnist(root, train=20, test=7, packed=False):
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


# -- CIFAR-10 ----------------------------------------------------------------------------


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
        (lambda d: _remove(d / "ship"), "'ship' is missing"),
        (lambda d: next((d / "dog").iterdir()).unlink(), "4 images of class 'dog'.*5"),
        (lambda d: [p.unlink() for p in (d / "dog").iterdir()], "dog: no image files"),
        (lambda d: (d / "zebra").mkdir(), "'zebra' is not one of"),
        (lambda d: _cut(next((d / "cat").iterdir())), r"cat/\d+.png: damaged image"),
        (lambda d: next((d / "cat").iterdir()).write_bytes(b"no picture"), r"cat/\d+.png: damaged image"),
    ],
)
def test_damaged_cifar10_tree(alone, small_cifar, change, says):
    root, _ = small_cifar
    change(root / "tree" / "cifar10" / "train")
    with pytest.raises(data.DataError, match=says):
        data.load("cifar10", root / "tree")


def _remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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


# -- image folders ------------------------------------------------------------------------


def write_tree(
    root, parts=("train", "test"), classes=("b", "a"), count=3, size=(9, 6), mode="RGB", suffix="png"
):
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = some_images(1, (*size[::-1], 3), seed=zlib.crc32(f"{part}{name}{i}".encode()))[0]
                Image.fromarray(pixels).convert(mode).save(folder / f"{i}.{suffix}")
    return root


def test_imagefolder(alone, tmp_path):
    write_tree(tmp_path / "t", parts=("train", "val"))
    loaded = data.load(f"imagefolder:{tmp_path / 't'}")
    assert loaded.classes == ("a", "b") and loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.train.images.shape == (6, 3, 6, 9) and loaded.mean == (0.5,) * 3
    want = np.asarray(Image.open(tmp_path / "t" / "val" / "b" / "1.png"))
    assert np.array_equal(loaded.test.images[4].numpy(), want.transpose(2, 0, 1))


def test_imagefolder_reads_folders_in_folders_as_torchvision_does(alone, tmp_path):
    root = write_tree(tmp_path / "t")
    for part in ("train", "test"):
        for name, place in (("a", "z/deep"), ("a", "0"), ("b", "x")):
            (root / part / name / place).mkdir(parents=True)
            Image.fromarray(some_images(1, (6, 9, 3), seed=len(place))[0]).save(root / part / name / place / "1.png")
        (root / part / "a" / "._0.png").write_bytes(b"not an image: what macOS leaves")
        (root / part / "a" / ".hidden").mkdir()
        (root / part / "a" / ".hidden" / "1.png").write_bytes(b"none")
    loaded = data.load(f"imagefolder:{root}")
    shutil.rmtree(root / "train" / "a" / ".hidden")
    (root / "train" / "a" / "._0.png").unlink()
    theirs = torchvision.datasets.ImageFolder(str(root / "train"))
    assert loaded.train.labels.tolist() == [label for _, label in theirs.samples] == [0] * 5 + [1] * 4
    for mine, (path, _) in zip(loaded.train.images, theirs.samples, strict=True):
        assert np.array_equal(mine.numpy(), np.asarray(Image.open(path)).transpose(2, 0, 1))
    (root / "train" / "b" / "again").symlink_to(root / "train" / "b")
    with pytest.raises(data.DataError, match="more than 16 deep"):
        data.load(f"imagefolder:{root}")


def test_imagefolder_prefers_test_to_val(alone, tmp_path):
    write_tree(tmp_path, parts=("train", "val"))
    write_tree(tmp_path, parts=("test",), count=5)
    assert len(data.load(f"imagefolder:{tmp_path}").test) == 10


def test_grey_trees_have_one_channel_and_mixed_ones_three(alone, tmp_path):
    write_tree(tmp_path / "grey", mode="L")
    assert data.load(f"imagefolder:{tmp_path / 'grey'}").train.images.shape == (6, 1, 6, 9)
    write_tree(tmp_path / "mixed")
    path = tmp_path / "mixed" / "train" / "a" / "0.png"
    Image.open(path).convert("L").save(path)
    images = data.load(f"imagefolder:{tmp_path / 'mixed'}").train.images
    assert images.shape[1] == 3 and torch.equal(images[0, 0], images[0, 2])


def _tree_with(change):
    def make(root):
        write_tree(root)
        change(root)

    return make


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda r: None, data.DataNotFound, "there is no folder"),
        (lambda r: r.mkdir(), data.DataError, r"should hold the folders train/ and test/"),
        (lambda r: write_tree(r, parts=("train",)), data.DataError, "train/ and test/"),
        (
            lambda r: (r / "train").mkdir(parents=True) or (r / "test").mkdir(),
            data.DataError,
            "no class folders",
        ),
        (_tree_with(lambda r: (r / "test" / "c").mkdir()), data.DataError, "'c' is not one of the 2 classes"),
        (_tree_with(lambda r: _remove(r / "test" / "b")), data.DataError, "'b' is missing"),
        (_tree_with(lambda r: (r / "train" / "c").mkdir()), data.DataError, "c: no image files"),
        (
            _tree_with(lambda r: Image.new("RGB", (5, 6)).save(r / "train" / "b" / "1.png")),
            data.DataError,
            "b/1.png: 5x6 pixels where a/0.png has 9x6.*lazyfolder:PATH",
        ),
        (
            _tree_with(lambda r: Image.new("I;16", (9, 6)).save(r / "train" / "b" / "1.png")),
            data.DataError,
            "b/1.png: pixels of more than 8 bits",
        ),
        (_tree_with(lambda r: _cut(r / "test" / "b" / "2.png")), data.DataError, "b/2.png: damaged image"),
        (_tree_with(lambda r: os.mkfifo(r / "test" / "b" / "9.png")), data.DataError, "b/9.png: no regular file"),
        (_tree_with(lambda r: (r / "train" / "a" / "9.png").symlink_to(r / "none")), data.DataError, "9.png: a link to nothing"),
        (
            _tree_with(lambda r: [Image.new("RGB", (4, 4)).save(p) for p in (r / "test").glob("*/*")]),
            data.DataError,
            r"test images of shape \(3, 4, 4\), training images \(3, 6, 9\)",
        ),
    ],
)
def test_broken_trees(alone, tmp_path, make, error, says):
    make(tmp_path / "t")
    with pytest.raises(error, match=says):
        data.load(f"imagefolder:{tmp_path / 't'}")


# -- the cache of decoded trees -----------------------------------------------------------


def cached(alone):
    return sorted((alone / "decoded").glob("*"))


def test_a_tree_is_decoded_once(alone, tmp_path, monkeypatch):
    write_tree(tmp_path / "t")
    first = data.load(f"imagefolder:{tmp_path / 't'}")
    assert len(cached(alone)) == 2  # one file a split
    monkeypatch.setattr(folders, "decode", None)
    again = data.load(f"imagefolder:{tmp_path / 't'}")
    assert torch.equal(first.train.images, again.train.images) and first.fingerprint == again.fingerprint


@pytest.mark.parametrize("what", ["pixels", "name", "time", "added", "removed"])
def test_a_changed_tree_is_decoded_anew_and_the_old_copy_goes(alone, tmp_path, what):
    write_tree(tmp_path / "t")
    before = data.load(f"imagefolder:{tmp_path / 't'}").train
    path = tmp_path / "t" / "train" / "a" / "0.png"
    if what == "pixels":
        Image.new("RGB", (9, 6), "red").save(path)
    elif what == "name":  # 0 becomes 9: the order of the images changes
        path.rename(path.with_name("9.png"))
    elif what == "time":
        os.utime(path, ns=(1, 1))
    elif what == "added":
        Image.new("RGB", (9, 6), "red").save(path.with_name("3.png"))
    else:
        path.unlink()
    after = data.load(f"imagefolder:{tmp_path / 't'}").train
    want = torchvision.datasets.ImageFolder(tmp_path / "t" / "train", TF.pil_to_tensor)
    assert torch.equal(after.images, torch.stack([image for image, _ in want]))
    assert torch.equal(before.images, after.images) == (what == "time")
    assert len(cached(alone)) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-100], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]), None]
)
def test_a_damaged_cache_file_is_made_anew(alone, tmp_path, damage):
    write_tree(tmp_path / "t")
    want = data.load(f"imagefolder:{tmp_path / 't'}").fingerprint
    for path in cached(alone):
        content = path.read_bytes()
        path.unlink()
        if damage is None:
            path.mkdir()
        else:
            path.write_bytes(damage(content))
    assert data.load(f"imagefolder:{tmp_path / 't'}").fingerprint == want
    if damage is not None:
        assert all(cache.read(path) is not None for path in cached(alone))


def test_no_room_for_the_cache_is_no_obstacle(alone, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    write_tree(tmp_path / "t")
    assert len(data.load(f"imagefolder:{tmp_path / 't'}").train) == 6
    assert cached(alone) == []  # nothing half-written stays


def test_a_cache_folder_that_cannot_be_made_is_no_obstacle(alone, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_tree(tmp_path / "t")
    assert len(data.load(f"imagefolder:{tmp_path / 't'}").train) == 6


def test_loads_may_race(alone, tmp_path):
    write_tree(tmp_path / "t", count=40)
    barrier, results = threading.Barrier(6), []

    def run():
        barrier.wait()
        results.append(data.load(f"imagefolder:{tmp_path / 't'}").fingerprint)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and len(set(results)) == 1
    assert len(cached(alone)) == 2 and all(path.suffix == ".safetensors" for path in cached(alone))


def test_left_overs_of_killed_writers_go_when_they_are_old(alone):
    alone.joinpath("decoded").mkdir(parents=True)
    old, new, other = (alone / "decoded" / n for n in ("g-x.a.part", "g-x.b.part", "h-x.part"))
    for path in (old, new, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    cache.remember("g", "x", lambda: {"a": torch.arange(3)})
    assert not old.exists() and new.exists() and other.exists()


# -- digits -------------------------------------------------------------------------------


def test_digits_are_scikit_learns(alone):
    from sklearn.datasets import load_digits

    loaded = data.load("digits")
    assert loaded.train.images.shape == (1437, 1, 28, 28) and loaded.test.images.shape == (360, 1, 28, 28)
    images = torch.cat([loaded.train.images, loaded.test.images])
    small = images[:, 0, 3:26:3, 3:26:3]  # the middle of each 3x3
    labels = torch.cat([loaded.train.labels, loaded.test.labels])
    mine = sorted((int(label), image.numpy().tobytes()) for image, label in zip(small, labels, strict=True))
    bunch = load_digits()
    theirs = sorted(
        (int(label), (image * 255 // 16).astype(np.uint8).tobytes())
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    assert mine == theirs
    counts = torch.bincount(loaded.test.labels)
    assert counts.min() >= 34 and counts.max() <= 37  # a fifth of 174 to 183
    margin = torch.ones(28, 28, dtype=torch.bool)
    margin[2:26, 2:26] = False
    assert (loaded.train.images[..., margin] == 0).all()


@pytest.mark.parametrize(("name", "times"), [("digits-32", 4), ("digits-64", 8)])
def test_digits_of_other_sizes_are_the_same_images(alone, name, times):
    small, loaded = data.load("digits"), data.load(name)
    assert loaded.test.shape == (3, 8 * times, 8 * times) and torch.equal(loaded.test.labels, small.test.labels)
    pixels = small.test.images[:, 0, 2:-2:3, 2:-2:3]
    for channel in range(3):
        assert torch.equal(loaded.test.images[:, channel, ::times, ::times], pixels)
    assert data.here(name) and not data.here("mnist", alone)


def test_digits_never_change(alone):
    """Integer arithmetic and a fixed split: a change of this fingerprint is a change of data."""
    want = "sha256:6f4791a6d74beb4b2722ec9658dbcd0fe2756b9182b7b146ec4bc8b30a14c420"
    assert data.load("digits").fingerprint == want


# -- fingerprints -------------------------------------------------------------------------


def plain_fingerprint(images, labels):
    """The definition, in the plainest form."""
    rows = sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))
    text = f"images {images.shape}".encode()
    for label in sorted(set(labels.tolist())):
        of_label = [pixels for tag, pixels in rows if tag == label]
        text += f"label {label} x {len(of_label)}".encode() + b"".join(of_label)
    return "sha256:" + hashlib.sha256(text).hexdigest()


def test_fingerprint_is_its_definition_and_forgets_order():
    images, labels = some_images(40, (2, 3, 3)), np.random.default_rng(0).integers(0, 4, 40)
    images[:5] = images[5:10]  # equal images, of other labels
    want = plain_fingerprint(images, labels)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(40)
        assert fingerprint.of_images(torch.tensor(images[order]), torch.tensor(labels[order])) == want


def test_fingerprint_sees_every_pixel_label_and_shape():
    images, labels = torch.tensor(some_images(6, (1, 2, 2))), torch.tensor([0, 0, 1, 1, 2, 2])
    seen = {fingerprint.of_images(images, labels)}
    for i in range(images.numel()):
        changed = images.clone()
        changed.view(-1)[i] += 1
        seen.add(fingerprint.of_images(changed, labels))
    for i in range(6):
        changed = labels.clone()
        changed[i] = 3
        seen.add(fingerprint.of_images(images, changed))
    seen.add(fingerprint.of_images(images.view(6, 4, 1, 1), labels))
    seen.add(fingerprint.of_images(images[:5], labels[:5]))
    assert len(seen) == 1 + 24 + 6 + 2


def test_fingerprints_of_train_and_test_are_not_interchangeable():
    a, b = data.Split(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1])), None
    b = data.Split(torch.ones(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]))
    one = data.Dataset("x", a, b, ("0", "1"), (0.0,), (1.0,)).fingerprint
    two = data.Dataset("x", b, a, ("0", "1"), (0.0,), (1.0,)).fingerprint
    assert one != two and one.startswith("sha256:") and len(one) == 7 + 64


def test_listing_fingerprints_are_another_kind():
    files = [("0", "a.png", 3), ("1", "b.png", 4)]
    listing = fingerprint.of_listing(files)
    assert listing == fingerprint.of_listing(files[::-1]) and listing.startswith("listing-sha256:")
    others = [
        [("0", "a.png", 4), files[1]],
        [("0", "c.png", 3), files[1]],
        [("1", "a.png", 3), files[1]],
        files[:1],
    ]
    assert len({listing, *map(fingerprint.of_listing, others)}) == 5
    assert fingerprint.combine(listing, listing).startswith("listing-sha256:")
    with pytest.raises(ValueError, match="different kinds"):
        fingerprint.combine(listing, "sha256:00")


def test_float_images_have_no_fingerprint():
    with pytest.raises(ValueError, match="uint8"):
        data.Split(torch.zeros(1, 1, 1, 1), torch.tensor([0])).fingerprint  # noqa: B018


# -- splits -------------------------------------------------------------------------------


def a_split(count=100, classes=7):
    labels = torch.tensor(np.random.default_rng(1).integers(0, classes, count))
    return data.Split(torch.tensor(some_images(count, (1, 3, 2))), labels, (0.5,), (0.25,))


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2).long(), "images must be"),
        (torch.zeros(2, 1, 3, 4).double(), torch.zeros(2).long(), "float64"),
        (torch.zeros(2, 1, 3, 4), torch.zeros(2), "labels must be int64"),
        (torch.zeros(2, 1, 3, 4), torch.zeros(3).long(), r"\(2,\)"),
    ],
)
def test_a_split_wants_images_with_labels(images, labels, says):
    with pytest.raises(ValueError, match=says):
        data.Split(images, labels)


def test_take_and_map():
    split = a_split()
    part = split.take(torch.tensor([5, 3]))
    assert torch.equal(part.images, split.images[[5, 3]]) and torch.equal(part.labels, split.labels[[5, 3]])
    assert (part.mean, part.std) == ((0.5,), (0.25,))
    mapped = split.map(data.Normalize((0.5,), (0.25,)), batch_size=33)
    assert mapped.images.dtype == torch.float32 and torch.equal(mapped.labels, split.labels)
    assert torch.allclose(mapped.images, (split.images / 255 - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(AttributeError):
        split.images = mapped.images  # immutable


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.data())
def test_stratified_is_within_one_image_of_every_share(labels, more):
    count = more.draw(st.integers(1, len(labels)))
    seed = more.draw(st.integers(0, 5))
    tags = torch.tensor(labels)
    chosen = stratified(tags, count, seed)
    assert len(chosen) == count and chosen.tolist() == sorted(set(chosen.tolist()))
    share = torch.bincount(tags, minlength=7) * count / len(labels)
    assert ((torch.bincount(tags[chosen], minlength=7) - share).abs() < 1).all()
    assert torch.equal(chosen, stratified(tags, count, seed))


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.93, 1 / 3])
def test_split_validation(fraction):
    split = a_split(200)
    split = data.Split(torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1), split.labels)
    rest, validation = data.split_validation(split, fraction, seed=3)
    assert len(validation) == round(fraction * 200) and len(rest) + len(validation) == 200
    both = torch.cat([rest.images, validation.images]).flatten()
    assert torch.equal(both.sort().values, split.images.flatten())
    again = data.split_validation(split, fraction, seed=3)[1]
    other = data.split_validation(split, fraction, seed=4)[1]
    assert torch.equal(again.images, validation.images) and not torch.equal(other.images, validation.images)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.0001, float("nan")])
def test_impossible_validation(fraction):
    with pytest.raises(ValueError, match="fraction"):
        data.split_validation(a_split(), fraction, 0)


def test_subset_is_small_stratified_and_says_so():
    whole = data.Dataset("x", a_split(), a_split(50), tuple("0123456"), (0.5,), (0.25,))
    part = whole.subset(train=30, test=10)
    assert len(part.train) == 30 and len(part.test) == 10 and whole.part == ""
    assert part.fingerprint.endswith("+subset(train=30,test=10,seed=0)")
    assert part.fingerprint == whole.subset(train=30, test=10).fingerprint
    assert (
        part.fingerprint.split("+")[0]
        != whole.fingerprint
        != whole.subset(train=30, test=10, seed=1).fingerprint
    )
    assert whole.subset() is whole
    only = whole.subset(test=10)
    assert len(only.train) == 100 and only.train is whole.train
    with pytest.raises(ValueError, match="cannot take 101 of 100"):
        whole.subset(train=101)
    with pytest.raises(ValueError, match="cannot take 0"):
        whole.subset(train=0)


def test_normalize_is_torchvisions():
    x = torch.tensor(some_images(5, (3, 4, 6)))
    mean, std = data.STATISTICS["cifar10"]
    want = TF.normalize(x.float() / 255, list(mean), list(std))
    assert torch.allclose(data.Normalize(mean, std)(x), want, atol=2e-6)
    assert torch.allclose(data.Normalize(mean, std)(x.float()), want, atol=2e-6)
    assert torch.allclose(data.Normalize(0.0, 1.0)(x), x / 255, atol=1e-7)
    assert data.Normalize(mean, std).state_dict() == {}
    for bad in ((mean, (1.0, 0.0, 1.0)), (mean, (1.0, 2.0)), ((0.5,), (-1.0,))):
        with pytest.raises(ValueError, match="std"):
            data.Normalize(*bad)
    with pytest.raises(ValueError, match="1 channels.*3"):
        data.Normalize(mean, std)(x[:, :1])


# -- where it is looked for ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["minst", "MNIST", "", "imagefolder", "imagefolder:", "folder:/tmp", "digits:x"]
)
def test_unknown_names_are_told_the_known_ones(alone, name):
    with pytest.raises(
        ValueError, match="choose one of mnist, cifar10, .*digits, .*imagefolder:PATH"
    ) as caught:
        data.load(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", registry.SOURCES)
def test_absent_sets_name_the_three_ways(alone, tmp_path, name):
    with pytest.raises(data.DataNotFound) as caught:
        data.load(name, tmp_path / "nowhere")
    text = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    for part in (repr(name), str(tmp_path / "nowhere"), "BNN_DATA", "--set dataset=digits"):
        assert part in text
    if name == "imagenet":
        assert "image-net.org" in text
    else:
        assert f"python -m bnnlib.data fetch {name}" in text and "no network in tests" in text
    assert not (tmp_path / "nowhere").exists()  # nothing is left of the attempt


def test_download_false_asks_no_server(alone, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with pytest.raises(data.DataNotFound, match="no download was tried"):
        data.load("cifar10", download=False)


def test_argument_before_environment_before_cache(alone, tmp_path, monkeypatch):
    for place, count in ((alone, 11), (tmp_path / "env", 12), (tmp_path / "arg", 13)):
        write_mnist(place, train=count)
    mnist.COUNT.update(train=11)
    assert len(data.load("mnist").train) == 11
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "env"))
    mnist.COUNT.update(train=12)
    assert len(data.load("mnist").train) == 12
    mnist.COUNT.update(train=13)
    assert len(data.load("mnist", tmp_path / "arg").train) == 13
    with pytest.raises(data.DataNotFound, match=r"\$BNN_DATA\)"):
        data.load("cifar10")


def test_the_cache_folder_is_in_the_home_without_xdg(alone, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "bnnlib" / "data"


# -- downloads ----------------------------------------------------------------------------


@pytest.fixture
def network(alone, monkeypatch):
    """Servers answer; what they send is up to the test: `network(get)` makes "mnist" come from it."""
    monkeypatch.setattr(download, "probe", lambda urls: None)

    def serve(get):
        monkeypatch.setitem(download.DOWNLOADS, "mnist", download.Download(("http://x",), "MNIST", 1, get))

    return serve


def test_a_download_arrives_in_the_root_and_is_used(network, alone, capsys):
    network(lambda into: write_mnist(Path(into), train=14))
    assert len(data.load("mnist").train) == 14
    assert [path.name for path in alone.iterdir()] == ["MNIST"]
    shown = capsys.readouterr()
    assert "fetching mnist" in shown.out and shown.err == ""  # chapters may not print to stderr
    network(None)
    assert len(data.load("mnist").train) == 14  # it is there now


def test_a_broken_download_leaves_nothing(network, alone):
    def breaks(into):
        write_mnist(Path(into))
        raise RuntimeError("File not found or corrupted.")

    network(breaks)
    with pytest.raises(data.DataNotFound, match="fetching mnist failed: File not found or corrupted"):
        data.load("mnist")
    assert list(alone.iterdir()) == []


def test_an_empty_folder_is_no_obstacle_to_a_download(network, alone):
    network(lambda into: write_mnist(Path(into), train=14))
    (alone / "MNIST" / "raw").mkdir(parents=True)
    assert len(data.load("mnist").train) == 14


def test_a_half_filled_folder_is_named_before_anything_is_fetched(network, alone):
    network(lambda into: pytest.fail("it was fetched"))
    (alone / "MNIST" / "raw").mkdir(parents=True)
    (alone / "MNIST" / "raw" / "notes.txt").write_text("mine")
    with pytest.raises(data.DataNotFound, match="MNIST is there already and does not hold mnist.*notes.txt.*move it away"):
        data.load("mnist")
    assert (alone / "MNIST" / "raw" / "notes.txt").read_text() == "mine"


def test_what_a_killed_download_left_goes(network, alone):
    (alone / ".MNIST-dead1234" / "MNIST").mkdir(parents=True)
    (alone / ".MNIST-dead1234" / "MNIST" / "half").write_text("")
    living = alone / ".MNIST-a11ve000"
    living.mkdir()
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a download does as long as it lives
    network(lambda into: write_mnist(Path(into), train=14))
    assert len(data.load("mnist").train) == 14
    assert sorted(alone.iterdir()) == sorted([living, alone / "MNIST"])
    os.close(handle)


def test_a_slower_download_does_not_disturb_a_faster_one(network, alone):
    def late(into):
        write_mnist(Path(into), train=14)
        write_mnist(alone, train=15)  # meanwhile, another process

    network(late)
    assert len(data.load("mnist").train) == 15
    assert [path.name for path in alone.iterdir()] == ["MNIST"]


def test_a_root_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").write_text("")
    network(lambda into: None)
    with pytest.raises(data.DataNotFound, match="fetching mnist failed.*file"):
        data.load("mnist", tmp_path / "file" / "root")


def test_mnist_through_torchvision_from_a_server(tmp_path, monkeypatch):
    """The whole way: probe, torchvision's download with its MD5 sums, unpacking, reading."""
    served = tmp_path / "served"
    folder, _ = write_mnist(served, packed=True)
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    real = download.DOWNLOADS["mnist"]
    monkeypatch.setitem(download.DOWNLOADS, "mnist", download.Download((url,), real.folder, 1, real.get))
    try:
        assert len(data.load("mnist", tmp_path / "root").train) == 20
        (folder / resources[0][0]).write_bytes(b"damaged on the way")
        with pytest.raises(data.DataNotFound, match="fetching mnist failed"):
            data.load("mnist", tmp_path / "other")
        assert list((tmp_path / "other").iterdir()) == []
    finally:
        server.shutdown()
        server.server_close()


def test_a_probe_is_satisfied_by_any_answer(monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append((request.full_url, timeout))
        if "first" in request.full_url:
            raise urllib.error.URLError("down")
        raise urllib.error.HTTPError(request.full_url, 403, "forbidden", {}, None)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    download.probe(("http://first/", "http://second/"))
    assert asked == [("http://first/", download.PROBE_SECONDS), ("http://second/", download.PROBE_SECONDS)]


# -- the command --------------------------------------------------------------------------


def test_info_lists_what_is_here(alone, tmp_path):
    write_mnist(tmp_path / "d")
    result = CliRunner().invoke(app, ["info", "--root", str(tmp_path / "d")])
    assert result.exit_code == 0 and str(tmp_path / "d" / "MNIST" / "raw") in result.output
    assert "not here" in result.output and "embedded" in result.output


def test_info_describes_a_set(alone, tmp_path):
    write_mnist(tmp_path / "d")
    result = CliRunner().invoke(app, ["info", "mnist", "--root", str(tmp_path / "d")])
    assert result.exit_code == 0
    assert data.load("mnist", tmp_path / "d").fingerprint in result.output
    assert "20 images of 1 x 28 x 28" in result.output


def test_fetch_says_where_it_is(alone, tmp_path):
    folder, _ = write_mnist(tmp_path / "d")
    result = CliRunner().invoke(app, ["fetch", "mnist", "--root", str(tmp_path / "d")])
    assert result.exit_code == 0 and str(folder) in result.output
    assert "nothing to fetch" in CliRunner().invoke(app, ["fetch", "digits"]).output


@pytest.mark.parametrize(
    "command", [["fetch", "mnist"], ["info", "mnist"], ["info", "nonsense"], ["fetch", "nonsense"]]
)
def test_commands_fail_with_one_sentence(alone, command):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "error: " in result.output and "Traceback" not in result.output
