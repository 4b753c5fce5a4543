"""GCN and ZCA against a float64 NumPy reference written from pylearn2's definitions."""

import numpy as np
import pytest
import torch

from bnnlib import data
from bnnlib.data import whitening


def pictures(count, shape=(3, 6, 5), seed=0):
    """Smooth enough to have directions of nearly no variance."""
    draw = np.random.default_rng(seed)
    coarse = (
        draw.integers(0, 200, (count, shape[0], 3, 3)).repeat(4, 2).repeat(4, 3)[:, :, : shape[1], : shape[2]]
    )
    return torch.tensor((coarse + draw.integers(0, 20, (count, *shape))).astype(np.uint8))


def reference_gcn(x, scale=55.0, min_divisor=1e-8):
    x = x.reshape(len(x), -1).astype(np.float64)
    x = x - x.mean(1, keepdims=True)
    normalizers = np.sqrt((x**2).sum(1)) / scale
    normalizers[normalizers < min_divisor] = 1.0
    return x / normalizers[:, None]


def reference_zca(x, eps):
    mean = x.mean(0)
    centred = x - mean
    u, s, _ = np.linalg.svd(centred.T @ centred / len(x) + eps * np.eye(x.shape[1]), hermitian=True)
    return mean, u @ np.diag(1 / np.sqrt(s)) @ u.T


def test_gcn_is_the_reference():
    x = pictures(20)
    got = data.gcn(x)
    assert got.dtype == torch.float32 and got.shape == x.shape
    want = reference_gcn(x.numpy())
    assert np.allclose(got.flatten(1).numpy(), want, atol=1e-4)
    assert np.allclose(data.gcn(x.double()).flatten(1).numpy(), want, atol=1e-12)
    assert torch.allclose(got.flatten(1).norm(dim=1), torch.tensor(55.0), atol=1e-3)


def test_gcn_of_a_flat_image_is_zero():
    flat = torch.full((2, 3, 4, 4), 77, dtype=torch.uint8)
    assert (data.gcn(flat) == 0).all()


def test_gcn_does_not_see_the_scale_of_pixels():
    x = pictures(5)
    assert torch.allclose(data.gcn(x), data.gcn(x / 255), atol=1e-3)


@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_zca_is_the_reference(eps):
    train, test = pictures(400), pictures(50, seed=1)
    got = data.ZCAWhitening.fit(train, eps=eps, batch_size=37)
    mean, matrix = reference_zca(reference_gcn(train.numpy()), eps)
    assert np.allclose(got.mean.numpy(), mean, atol=1e-5)
    assert np.allclose(got.matrix.numpy(), matrix, atol=1e-4 / np.sqrt(eps))
    want = (reference_gcn(test.numpy()) - mean) @ matrix
    assert np.allclose(got(test).flatten(1).numpy(), want, atol=2e-3)
    assert got(test).shape == test.shape and got(test).dtype == torch.float32


def test_zca_without_gcn():
    train = pictures(300)
    got = data.ZCAWhitening.fit(train, eps=0.01, scale=0)
    mean, matrix = reference_zca(train.numpy().reshape(300, -1) / 255.0, 0.01)
    want = (train.numpy().reshape(300, -1) / 255.0 - mean) @ matrix
    assert np.allclose(got(train).flatten(1).numpy(), want, atol=1e-3)


def test_whitened_training_images_have_unit_variance_where_there_was_any():
    train = pictures(2000)
    y = data.ZCAWhitening.fit(train, eps=1e-6)(train).flatten(1).double()
    # GCN takes one direction away (the mean of an image); the other variances become 1.
    values = torch.linalg.eigvalsh(torch.cov(y.T, correction=0))
    assert values[0] < 1e-3 and torch.allclose(values[1:], torch.ones(len(values) - 1).double(), atol=5e-3)


def test_the_order_of_images_does_not_matter_much():
    train = pictures(500)
    one = data.ZCAWhitening.fit(train, batch_size=64)
    two = data.ZCAWhitening.fit(train.flip(0), batch_size=500)
    assert torch.allclose(one.matrix, two.matrix, atol=1e-5)


def test_state_dict_round_trip_and_no_parameters():
    fitted = data.ZCAWhitening.fit(pictures(100))
    empty = data.ZCAWhitening((3, 6, 5))
    assert not torch.equal(empty.matrix, fitted.matrix)
    empty.load_state_dict(fitted.state_dict())
    x = pictures(7, seed=3)
    assert torch.equal(empty(x), fitted(x))
    assert list(fitted.parameters()) == [] and set(fitted.state_dict()) == {"mean", "matrix"}


def test_it_serves_as_a_transform_and_once_for_all():
    split = data.Split(pictures(40), torch.arange(40) % 3)
    white = data.ZCAWhitening.fit(split.images)
    index, x, _ = next(data.Batches(split, 16, seed=0, transform=white).epoch(0))
    once = next(data.Batches(split.map(white), 16, seed=0).epoch(0))[1]
    assert torch.allclose(x, white(split.images[index]), atol=1e-5) and torch.allclose(once, x, atol=1e-5)


def test_fitted_is_kept_by_fingerprint(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    split = data.Split(pictures(60), torch.arange(60) % 3)
    first = whitening.fitted(split)
    assert torch.equal(first.matrix, data.ZCAWhitening.fit(split.images).matrix)
    other = whitening.fitted(split, eps=0.5)
    assert not torch.equal(other.matrix, first.matrix)
    monkeypatch.setattr(data.ZCAWhitening, "fit", None)
    assert torch.equal(whitening.fitted(split).matrix, first.matrix)
    with pytest.raises(TypeError):  # another split would have to be fitted
        whitening.fitted(split.take(torch.arange(50)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: data.ZCAWhitening.fit(pictures(1)), "at least 2 images"),
        (lambda: data.ZCAWhitening.fit(pictures(9), eps=0), "eps = 0"),
        (lambda: data.ZCAWhitening.fit(pictures(9), eps=-1), "eps = -1"),
        (lambda: data.ZCAWhitening((1, 2, 2), scale=-1), "scale = -1"),
        (lambda: data.ZCAWhitening((1, 2, 2))(torch.zeros(1, 1, 2, 3)), r"\(1, 2, 2\), not \(1, 2, 3\)"),
    ],
)
def test_impossible_values_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
