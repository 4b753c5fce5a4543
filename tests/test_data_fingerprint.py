"""Fingerprints of data, against their definition in its plainest form."""

import hashlib

import numpy as np
import pytest
import torch
from data_files import some_images

from bnnlib import data
from bnnlib.data import fingerprint


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
