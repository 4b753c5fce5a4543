"""The digits that come with scikit-learn, at every size, against scikit-learn's own."""

import numpy as np
import pytest
import torch

from bnnlib import data


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
