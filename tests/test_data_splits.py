"""Splits, and their parts: stratified, disjoint, and named as parts; normalised as torchvision normalises."""

import numpy as np
import pytest
import torch
from data_files import some_images
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as TF

from bnnlib import data
from bnnlib.data.splits import stratified


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
