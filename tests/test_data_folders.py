"""Trees of images, read as torchvision reads them; broken trees are named."""

import os
import shutil

import numpy as np
import pytest
import torch
import torchvision
from data_files import cut, remove, some_images, write_tree
from PIL import Image

from bnnlib import data


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


def tree_with(change):
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
        (tree_with(lambda r: (r / "test" / "c").mkdir()), data.DataError, "'c' is not one of the 2 classes"),
        (tree_with(lambda r: remove(r / "test" / "b")), data.DataError, "'b' is missing"),
        (tree_with(lambda r: (r / "train" / "c").mkdir()), data.DataError, "c: no image files"),
        (
            tree_with(lambda r: Image.new("RGB", (5, 6)).save(r / "train" / "b" / "1.png")),
            data.DataError,
            "b/1.png: 5x6 pixels where a/0.png has 9x6.*lazyfolder:PATH",
        ),
        (
            tree_with(lambda r: Image.new("I;16", (9, 6)).save(r / "train" / "b" / "1.png")),
            data.DataError,
            "b/1.png: pixels of more than 8 bits",
        ),
        (tree_with(lambda r: cut(r / "test" / "b" / "2.png")), data.DataError, "b/2.png: damaged image"),
        (tree_with(lambda r: os.mkfifo(r / "test" / "b" / "9.png")), data.DataError, "b/9.png: no regular file"),
        (tree_with(lambda r: (r / "train" / "a" / "9.png").symlink_to(r / "none")), data.DataError, "9.png: a link to nothing"),
        (
            tree_with(lambda r: [Image.new("RGB", (4, 4)).save(p) for p in (r / "test").glob("*/*")]),
            data.DataError,
            r"test images of shape \(3, 4, 4\), training images \(3, 6, 9\)",
        ),
    ],
)
def test_broken_trees(alone, tmp_path, make, error, says):
    make(tmp_path / "t")
    with pytest.raises(error, match=says):
        data.load(f"imagefolder:{tmp_path / 't'}")
