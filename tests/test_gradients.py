"""Gradients of the scaled sign beside each other: what a comparison of one layer gives, and what Adam makes of a factor."""

import math

import pytest
import torch
import torch.nn.functional as F
from layers_reference import weights
from torch import nn

from bnnlib import data, layers
from bnnlib.book.studies import gradients
from bnnlib.quantizers import mean_scale, sign


@pytest.fixture(scope="module")
def stream():
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(50, dtype=torch.float64, generator=draw) * 1e-3 for _ in range(200)], torch.randn(
        50, dtype=torch.float64, generator=draw
    )


@pytest.mark.parametrize("factor", [(1 - 1 / 20) * 500, (1 - 1 / 50) * 800, 1e9 * (1 - 1 / 96) * 2400, 0.5])
@pytest.mark.parametrize(("eps", "weight_decay"), [(1e-8, 0.0), (1e-8, 1e-5), (1e-3, 1e-2)])
def test_a_factor_divides_eps_and_weight_decay(stream, factor, eps, weight_decay):
    scaled = gradients.adam_path(*stream, factor=factor, eps=eps, weight_decay=weight_decay)
    other = gradients.adam_path(*stream, eps=eps / factor, weight_decay=weight_decay / factor)
    torch.testing.assert_close(scaled, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("factor", [475.0, 1e9])
def test_without_eps_and_weight_decay_a_factor_is_nothing(stream, factor):
    plain = gradients.adam_path(*stream, eps=0.0)
    torch.testing.assert_close(
        gradients.adam_path(*stream, eps=0.0, factor=factor), plain, rtol=1e-11, atol=1e-12
    )


def test_weight_decay_is_what_the_factor_switches_off(stream):
    plain = gradients.adam_path(*stream, eps=0.0)
    decayed = gradients.adam_path(*stream, eps=0.0, weight_decay=1e-2)
    boosted = gradients.adam_path(*stream, eps=0.0, weight_decay=1e-2, factor=1e9)
    assert (decayed - plain).abs().max() > 0.1
    assert (boosted - plain).abs().max() < 1e-4


def test_plain_sgd_sees_the_factor():
    w = torch.zeros(1, requires_grad=True)
    w.grad = torch.ones(1) * 475
    torch.optim.SGD([w], lr=0.01).step()
    assert w.item() == pytest.approx(-4.75)


@pytest.mark.parametrize("gain", [1.0, 1e9])
def test_a_net_trained_with_s4_is_one_trained_with_corrected(gain):
    """Two binary layers in float64 on real images: S4's gradient goes where the corrected one goes when eps
    and weight decay of each binary layer are divided by its factor. (No max-pool, whose equal binary sums
    only rounding tells apart, and no bias where the border of the images would give it a gradient of rounding
    alone.)
    """
    split = data.load("digits").train
    batches = [(x.double(), y) for _, x, y in data.Batches(split, 64, seed=0).epoch(0)][:10]
    factors = {(40, 784): gain * (1 - 1 / 784) * 784, (30, 40): gain * (1 - 1 / 40) * 40}
    nets = []
    for kind in ("s4", "corrected"):
        torch.manual_seed(0)
        layer = {"scale": "mean", "gradient": kind, "latent": "center-clip"}
        layer["gain"] = gain if kind == "s4" else 1.0
        first, second = layers.BinaryLinear(784, 40, **layer), layers.BinaryLinear(40, 30, **layer)
        norms = nn.BatchNorm1d(784, affine=False), nn.BatchNorm1d(40)
        net = nn.Sequential(
            nn.Flatten(), norms[0], first, norms[1], second, nn.ReLU(), nn.Linear(30, 10)
        ).double()
        layers.project_(net)
        groups = []
        for p in net.parameters():
            c = factors.get(tuple(p.shape), 1.0) if kind == "corrected" else 1.0
            groups.append({"params": [p], "eps": 1e-8 / c, "weight_decay": 1e-3 / c})
        optimizer = torch.optim.Adam(groups, lr=0.01)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            layers.project_(net)
        nets.append(net)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_a_channel_without_gradient_counts_for_nothing():
    """A unit that no input of the batch wakes up has g = 0, which has no direction."""
    w, g = weights(12).view(3, 4), weights(12, 1).view(3, 4)
    g[1] = 0
    without = gradients.compare(w[[0, 2]], g[[0, 2]])
    assert gradients.compare(w, g)["channel_cosine"] == pytest.approx(without["channel_cosine"])
    assert gradients.compare(w, g)["along"] == pytest.approx(without["along"])
    with pytest.raises(ValueError, match="no gradient reaches"):
        gradients.compare(w, torch.zeros_like(g))


def test_the_cosine_follows_from_alpha_and_the_share_of_g_along_the_signs():
    """(c + alpha) / sqrt(c + 2 alpha c + alpha^2), with c = cos(g, B)^2 and no |W| above 1."""
    for seed in range(5):
        w, g = (
            weights(30, seed)[None] / 4,
            weights(30, seed + 100)[None] + seed * sign(weights(30, seed))[None],
        )
        c = torch.cosine_similarity(g, sign(w)).square().item()
        alpha = mean_scale(w).item()
        found = gradients.compare(w, g)["channel_cosine"]["detached"]
        assert found == pytest.approx((c + alpha) / math.sqrt(c + 2 * alpha * c + alpha**2), abs=1e-12)


def test_compare_by_hand():
    """One channel of two weights: W = (1/2, -1/2), g = (1, 0): alpha = 1/2, corrected = (1/2, -1/2) + (1/2,
    0) = (1, -1/2).
    """
    found = gradients.compare(torch.tensor([[0.5, -0.5]]), torch.tensor([[1.0, 0.0]]))
    assert found["cosine"]["detached"] == pytest.approx(1 / math.sqrt(1.25))
    assert found["channel_cosine"]["paper"] == pytest.approx(1 / math.sqrt(1.25))
    assert found["rms"]["corrected"] == pytest.approx(math.sqrt(1.25 / 2))
    assert (found["along"], found["alpha_n"], found["n"]) == (pytest.approx(1.0), pytest.approx(1.0), 2)
