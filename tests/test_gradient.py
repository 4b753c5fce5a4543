"""The gradient of the scaled sign: three routes that know no formula, and how each formula fares by them.

The checks are functions that raise AssertionError. The corrected formula passes every one of them; the
XNOR-Net paper's, alpha detached, and the formula as S4's README misprints it are put through the very same
checks and must be refused.
"""

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from bnnlib import data, layers, models, recipes, records, storage
from bnnlib.book.studies import gradients, jacobians, scale_gradients
from bnnlib.quantizers import mean_scale, scaled_sign, sign
from bnnlib.training import loop
from bnnlib.training.setup import setup

SIZES = [1, 2, 3, 8, 75, 500]  # 75 and 500: a filter of a first and of LeNet-5's binary convolution
GRADIENTS = ["identity", "detached", "paper", "corrected", "s4"]


def weights(n: int, seed: int = 0) -> torch.Tensor:
    """``(n,)`` float64 weights, none nearer to zero than 0.05, so that a sign has a derivative there."""
    w = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 2
    return w + 0.05 * sign(w)


# ---- three routes to the Jacobian, as checks of a formula
# ------------------------------------------------------


def check_smooth_sign(formula: str, n: int) -> None:
    """Autograd through a smooth sign_k: the formula's distance from it vanishes as k grows."""
    w = weights(n)
    slope_is_gone = 400.0  # exp(-2 k 0.05) is beyond float64
    assert jacobians.smooth_gap(w, formula, slope_is_gone) < 1e-12


def check_smooth_slope(formula: str, n: int) -> None:
    """The same where sign_k still has some slope at the smallest weight: the diagonal part counts."""
    w = weights(n)
    k = 3 / w.abs().min().item()
    assert jacobians.smooth_slope(w, k).max() > 0.02
    assert jacobians.smooth_gap(w, formula, k) < 5 * math.exp(-2 * 3)


def check_central_differences(formula: str, n: int) -> None:
    """Central differences of the function that the layers run: between its jumps it is linear, so they are
    exact.
    """
    assert jacobians.differences_gap(weights(n), formula) < 1e-9 * n


def check_symbols(formula: str, n: int) -> None:
    """SymPy's derivative of alpha sign(w_j), entry by entry, with nothing left over."""
    import sympy

    left_over = (jacobians.symbolic(n) - jacobians.symbolic_formula(n, formula)).expand()
    assert left_over == sympy.zeros(n, n)


def check_scaling(formula: str, n: int) -> None:
    """W~(t W) = t W~(W) asks J W = W~ (Euler)."""
    assert jacobians.scaling_gap(weights(n), formula) < 1e-12


CHECKS = [
    (check, n)
    for check in (check_smooth_sign, check_smooth_slope, check_central_differences, check_scaling)
    for n in SIZES
]
CHECKS += [(check_symbols, n) for n in (1, 2, 3)]
each_check = pytest.mark.parametrize(
    ("check", "n"), CHECKS, ids=lambda v: v.__name__ if callable(v) else f"n={v}"
)


@each_check
def test_the_corrected_formula_passes(check, n):
    """In these checks the sign has a slope of its own, or none: they test the part through alpha, and no estimator."""
    check("corrected", n)


@each_check
def test_the_papers_formula_fails(check, n):
    """Of one weight the paper's formula is right, for then there are no cross terms; of two or more it is
    not.
    """
    if n == 1:
        check("paper", n)
    else:
        with pytest.raises(AssertionError):
            check("paper", n)


@each_check
def test_a_constant_alpha_fails(check, n):
    with pytest.raises(AssertionError):
        check("detached", n)


@pytest.mark.parametrize("n", SIZES[1:])
def test_how_far_the_papers_formula_is_from_the_truth(n):
    """B B^T / n - Id / n has n (n - 1) entries of magnitude 1 / n: the distance does not shrink with n, it
    tends to 1.
    """
    w = weights(n)
    distance = math.sqrt(1 - 1 / n)
    assert jacobians.smooth_gap(w, "paper", 400.0) == pytest.approx(distance, rel=1e-9)
    assert jacobians.differences_gap(w, "paper") == pytest.approx(distance, rel=1e-6)
    missed = jacobians.scaling_gap(w, "paper")  # |W / n - W~| / |W~|: all but a little of W~
    assert missed == pytest.approx((w / n - scaled_sign(w[None])[0]).norm() / scaled_sign(w[None])[0].norm())
    assert missed > 0.3


def test_the_gap_closes_exponentially():
    w = weights(8)
    least = w.abs().min().item()
    gaps = [jacobians.smooth_gap(w, "corrected", k) for k in (20.0, 40.0, 80.0, 160.0)]
    for (k, gap), later in zip(zip((20.0, 40.0, 80.0), gaps, strict=False), gaps[1:], strict=True):
        assert (
            later < gap * math.exp(-2 * k * least) * 4
        )  # k doubles, so it falls by exp(-2 k least) more; slope grows


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_misprint_fails_where_the_sign_has_a_slope(n):
    """sign(W)/W for the sign's derivative: the part through alpha is right, the other explodes near zero."""
    check_central_differences("misprint", n)
    check_scaling("misprint", n)
    for check in (check_smooth_sign, check_smooth_slope):
        with pytest.raises(AssertionError):
            check("misprint", n)
    near_zero = jacobians.formula(torch.tensor([1e-6, 1.0], dtype=torch.float64), "misprint")
    assert near_zero[0, 0] > 1e5  # 1 / |W|, where an estimator of the sign's slope would have 1


def test_the_misprint_fails_the_symbols():
    with pytest.raises(AssertionError):
        check_symbols("misprint", 2)


# ---- the formulas are what the layers compute
# ------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["identity", "detached", "paper", "corrected"])
@pytest.mark.parametrize("n", [1, 2, 8, 75])
def test_scaled_sign_multiplies_by_its_formula(gradient, n):
    """Row by row: backward of unit vectors gives the Jacobian, with the clipped estimator's mask on both
    sides of 1.
    """
    w = weights(n) * 2
    rows = [
        gradients.scaled_sign_gradient(w[None], e[None], gradient)[0] for e in torch.eye(n, dtype=w.dtype)
    ]
    torch.testing.assert_close(torch.stack(rows), jacobians.formula(w, gradient), rtol=1e-13, atol=1e-15)


def test_a_batch_of_channels_is_one_jacobian_each():
    w, g = weights(60).view(4, 3, 5), weights(60, 1).view(4, 3, 5)
    found = gradients.scaled_sign_gradient(w, g, "corrected")
    for o in range(4):
        expected = g[o].flatten() @ jacobians.formula(w[o].flatten(), "corrected")
        torch.testing.assert_close(found[o].flatten(), expected)


def test_one_weight_has_no_cross_terms():
    """n = 1: W~ = W, and the part through alpha of the paper's formula, of the corrected one, and the true derivative are
    all 1 away from zero. With an estimator for the sign's derivative the corrected one is 1 + |W|: see the consistent
    gradient below.
    """
    for value in (-2.0, -0.3, 0.7):
        w = torch.tensor([value], dtype=torch.float64)
        assert scaled_sign(w[None])[0].item() == value
        assert jacobians.formula(w, "paper") == jacobians.formula(w, "corrected")
        assert jacobians.formula(w, "corrected", slope=0).item() == 1
        assert jacobians.differences(w).item() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.4, -0.4])
def test_equal_weights_share_the_mean_of_g(value):
    """All weights of a filter equal: W~ = W exactly; moved together by t, the cost changes by sum(g) t, which
    the corrected formula's part through alpha says and the paper's says n times too small.
    """
    n = 6
    w, g = torch.full((n,), value, dtype=torch.float64), weights(n, 3)
    assert torch.allclose(scaled_sign(w[None])[0], w)
    through_alpha = {kind: g @ jacobians.formula(w, kind, slope=0) for kind in ("paper", "corrected")}
    torch.testing.assert_close(through_alpha["corrected"], g.mean().expand(n))
    assert through_alpha["corrected"].sum().item() == pytest.approx(g.sum().item())
    assert through_alpha["paper"].sum().item() == pytest.approx(g.sum().item() / n)


def test_the_error_of_the_best_scale_is_the_variance_of_the_magnitudes():
    """min |W - alpha B|^2 = n Var|W|: exact when all magnitudes are equal."""
    w = weights(40)
    left = (w - scaled_sign(w[None])[0]).square().sum().item()
    assert left == pytest.approx(40 * w.abs().var(correction=0).item())


# ---- where a batch norm follows, the cross terms vanish
# ---------------------------------------------------------


def cost_after_norm(w_tilde: torch.Tensor, norm: bool) -> torch.Tensor:
    h = sign(torch.randn(16, 6, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    y = F.conv2d(h, w_tilde)
    if norm:
        y = F.batch_norm(y, None, None, training=True, eps=1e-30)
    return (
        (y * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(6)))
        .relu()
        .square()
        .mean()
    )


@pytest.mark.parametrize("norm", [True, False])
def test_a_batch_norm_makes_corrected_and_detached_equal(norm):
    """The norm undoes any scale, so the cost does not depend on alpha, g is orthogonal to B, and the cross
    terms are 0.
    """
    w = (weights(4 * 54) / 4).view(4, 6, 3, 3)
    found = {}
    for gradient in ("detached", "paper", "corrected"):
        v = w.clone().requires_grad_()
        cost_after_norm(scaled_sign(v, gradient), norm).backward()
        found[gradient] = v.grad
    same = torch.allclose(found["corrected"], found["detached"], rtol=1e-9, atol=1e-12)
    assert same == norm
    stretched = found["detached"] * (
        1 + 1 / (54 * mean_scale(w))
    )  # all |w| <= 1: the paper's rule only stretches
    torch.testing.assert_close(found["paper"], stretched, rtol=1e-9, atol=1e-12)


# ---- properties, over shapes, dtypes, values and memory
# ----------------------------------------------------------

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@st.composite
def cases(draw):
    """(w, g): weights with zeros, denormals, ones and huge values among ordinary ones, laid out in memory in
    some way.
    """
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    size = math.prod(shape)
    info = torch.finfo(dtype)
    denormal = info.smallest_normal / 4  # exact in every dtype
    huge = info.max / (4 * size)  # alpha's sum must not overflow
    special = st.sampled_from([0.0, -0.0, denormal, -denormal, info.smallest_normal, 1.0, -1.0, huge, -huge])
    values = draw(st.lists(st.one_of(special, st.floats(-2, 2)), min_size=size, max_size=size))
    incoming = draw(st.lists(st.floats(-1, 1), min_size=size, max_size=size))
    w = torch.tensor(values, dtype=torch.float64).to(dtype).view(shape)
    g = torch.tensor(incoming, dtype=torch.float64).to(dtype).view(shape)
    arrange = draw(st.sampled_from([torch.Tensor.contiguous, transposed, every_other, channels_last]))
    return arrange(w), g


def transposed(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def every_other(t):
    return torch.stack([t, torch.full_like(t, math.nan)], dim=-1)[..., 0]


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t.contiguous()


def reference(w: torch.Tensor, g: torch.Tensor, gradient: str) -> tuple[np.ndarray, np.ndarray]:
    """W~ and dC/dW in NumPy's float64 by the matrices of the formulas, one channel at a time."""
    outputs, results = [], []
    for row, grad in zip(w.double().flatten(1).numpy(), g.double().flatten(1).numpy(), strict=True):
        n, alpha = len(row), np.abs(row / len(row)).sum()
        b = np.where(row >= 0, 1.0, -1.0)
        through_alpha = {
            "identity": 0,
            "detached": 0,
            "paper": np.eye(n) / n,
            "corrected": np.outer(b, b) / n,
        }[gradient]
        straight = np.eye(n) if gradient == "identity" else alpha * np.diag(np.abs(row) <= 1)
        outputs.append(alpha * b)
        results.append(grad @ (through_alpha + straight))
    return np.array(outputs), np.array(results)


def assert_as_reference(w, g, gradient):
    v = w.clone(memory_format=torch.preserve_format).requires_grad_()
    y = scaled_sign(v, gradient)
    y.backward(g)
    assert y.dtype == v.grad.dtype == w.dtype
    assert y.shape == v.grad.shape == w.shape
    outputs, results = reference(w, g, gradient)
    info = torch.finfo(w.dtype)
    n = w[0].numel()
    rounding, least = (8 + n / 8) * info.eps, 4 * info.smallest_normal
    np.testing.assert_allclose(y.detach().double().flatten(1).numpy(), outputs, rtol=rounding, atol=least)
    size = (
        np.abs(w.double().flatten(1).numpy() / n).sum(1, keepdims=True) + 2
    )  # bounds every term for |g| <= 1
    found = v.grad.double().flatten(1).numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found / size, results / size, rtol=0, atol=rounding + least)


many = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("gradient", ["identity", "detached", "paper", "corrected"])
@many
@given(case=cases())
@example(case=(torch.zeros(2, 3), torch.ones(2, 3)))
@example(case=(torch.tensor([[-0.0]]), torch.tensor([[1.0]])))
def test_any_weights_against_the_reference(gradient, case):
    assert_as_reference(*case, gradient)


@many
@given(case=cases())
def test_the_papers_backward_is_refused_by_the_corrected_reference(case):
    """The very comparison above, with the paper's backward under test: it fails whenever the two formulas
    differ by more than rounding.
    """
    w, g = case
    right, paper = (reference(w, g, kind)[1] for kind in ("corrected", "paper"))
    size = np.abs(w.double().flatten(1).numpy() / w[0].numel()).sum(1, keepdims=True) + 2
    tolerance = (8 + w[0].numel() / 8) * torch.finfo(w.dtype).eps
    found = gradients.scaled_sign_gradient(w, g, "paper").double().flatten(1).numpy()
    if (np.abs(right - paper) / size).max() > 3 * tolerance:
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(found / size, right / size, rtol=0, atol=tolerance)
    if w[0].numel() == 1:
        np.testing.assert_allclose(found / size, right / size, rtol=0, atol=tolerance)


@many
@given(case=cases(), scale=st.sampled_from([-2.0, -0.5, 0.25, 4.0]))
def test_the_gradient_is_linear_in_g(case, scale):
    w, g = case
    for gradient in GRADIENTS:
        once, scaled = (
            gradients.scaled_sign_gradient(w.double(), v.double(), gradient) for v in (g, scale * g.double())
        )
        size = g.abs().max().double() * (1 + w.abs().max().double()) + 1e-300  # terms may cancel
        torch.testing.assert_close(scaled / size, scale * once / size, rtol=0, atol=1e-9)


@many
@given(case=cases())
def test_channels_do_not_see_each_other(case):
    w, g = case
    for gradient in GRADIENTS:
        together = gradients.scaled_sign_gradient(w, g, gradient)
        alone = torch.cat(
            [gradients.scaled_sign_gradient(w[o : o + 1], g[o : o + 1], gradient) for o in range(len(w))]
        )
        tolerance = 16 * torch.finfo(w.dtype).eps
        size = max(1.0, together.abs().max().item())
        torch.testing.assert_close(together / size, alone / size, rtol=tolerance, atol=tolerance)


@many
@given(case=cases())
def test_scaling_the_weights_scales_the_output(case):
    """Euler's identity in the backward pass, in float64: <W, through alpha> = <W~, g> in each channel. The
    paper has <W, g> / n.
    """
    w, g = (t.double() for t in case)
    w = w.where(w.abs() <= 2, torch.ones(()).double())  # huge values cancel all digits of the others
    detached = gradients.scaled_sign_gradient(w, g, "detached")
    n, rows = w[0].numel(), tuple(range(1, w.dim()))
    for gradient, expected in (
        ("corrected", (scaled_sign(w) * g).sum(rows)),
        ("paper", (w * g).sum(rows) / n),
    ):
        through_alpha = gradients.scaled_sign_gradient(w, g, gradient) - detached
        torch.testing.assert_close((w * through_alpha).sum(rows), expected, rtol=1e-9, atol=1e-12 * n)


def test_a_sum_beyond_the_dtype_gives_an_infinite_scale_not_a_wrong_one():
    w = torch.full((1, 4), torch.finfo(torch.float32).max)
    assert scaled_sign(w).abs().eq(math.inf).all()


# ---- Adam does not see S4's factors
# ------------------------------------------------------------------------------


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


# ---- the measurement
# ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    recipe = recipes.load(gradients.RECIPE, {"batch_size": 32})
    return gradients.measure(
        recipe,
        data.load("digits"),
        seeds=[1],
        steps=4,
        every=2,
        rounds=1,
        trained_with=["corrected", "detached"],
    )


def test_a_run_that_is_followed_is_the_recipes_own(monkeypatch, tmp_path):
    """Initial weights, augmentation, smoothing, accumulation: a run that is looked at ends at the weights of one that is
    not."""
    changes = {
        "batch_size": 48, "dataset": "digits", "epochs": 1, "init": "normal-fan-in", "augment": {"crop": 2},
        "label_smoothing": 0.1, "accumulate": 2, "optimizer.name": "sgd", "schedule": {"name": "cosine"},
    }  # fmt: skip
    recipe, digits = recipes.load(gradients.RECIPE, changes), data.load("digits")
    trained = loop.train(gradients.RECIPE, overrides=changes, runs=tmp_path, progress=False)
    kept = []
    monkeypatch.setattr(gradients, "setup", lambda *a, **k: kept.append(setup(*a, **k)) or kept[-1])
    steps = -(-len(digits.train) // 48)
    gradients.follow(recipe, digits, trained_with="corrected", seed=0, steps=steps, every=steps)
    for (name, a), (_, b) in zip(trained.model.state_dict().items(), kept[0].model.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_points_and_costs_of_a_measurement(measured):
    assert {(p.trained_with, p.step, p.layer) for p in measured.points} == {
        (kind, step, layer)
        for kind in ("corrected", "detached")
        for step in (0, 2, 3)
        for layer in ("conv2.layer", "fc1.layer")
    }
    assert {(p.layer, p.n) for p in measured.points} == {("conv2.layer", 500), ("fc1.layer", 800)}
    assert [c.what for c in measured.costs] == ["training step", "scaled sign"]
    for cost in measured.costs:
        assert set(cost.ratio) == set(cost.quartiles) == set(GRADIENTS)
        assert cost.ratio["detached"] == 1


def test_cosines_of_a_measurement_are_what_the_formulas_say(measured):
    for p in measured.points:
        assert p.cosine["corrected"] == pytest.approx(1)
        assert p.channel_cosine["s4"] == pytest.approx(1)
        # no |W| is above 1 here, so within a channel these three are multiples of g
        assert p.channel_cosine["identity"] == pytest.approx(p.channel_cosine["detached"], abs=1e-9)
        assert p.channel_cosine["identity"] == pytest.approx(p.channel_cosine["paper"], abs=1e-9)
        assert p.rms["s4"] == pytest.approx(
            p.rms["corrected"] * p.n * (1 - 1 / (20 if p.layer == "conv2.layer" else 800))
        )


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


def test_the_first_steps_are_those_of_training(measured):
    """The measured run is the recipe's own: the first point's g is what a hand-written first step gives."""
    recipe = recipes.load(gradients.RECIPE, {"batch_size": 32})
    torch.manual_seed(1)
    net = models.build(recipe.model.name, layer={"gradient": "identity"})
    layers.project_(net)
    _, x, y = next(data.Batches(data.load("digits").train, 32, seed=1, drop_last=True).epoch(0))
    F.cross_entropy(net(x), y).backward()
    expected = gradients.compare(net.fc1.layer.weight, net.fc1.layer.weight.grad)
    first = next(p for p in measured.points if p.layer == "fc1.layer" and p.step == 0)
    assert first.cosine["detached"] == pytest.approx(expected["cosine"]["detached"], rel=1e-3)
    assert first.along == pytest.approx(expected["along"], rel=1e-2)


def test_a_measurement_is_read_back_and_a_damaged_one_refused(measured, tmp_path):
    path = tmp_path / "m.json"
    text = measured.model_dump_json()
    storage.write_atomically(path, text.encode())
    assert gradients.read(path) == measured
    path.write_text(text[:-20])
    with pytest.raises(records.RecordError, match="m.json is damaged"):
        gradients.read(path)
    with pytest.raises(records.RecordError, match=re.escape("python -m bnnlib.gradients")):
        gradients.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda d: gradients.follow(
                recipes.load(gradients.RECIPE), d, trained_with="xnor", seed=0, steps=1, every=1
            ),
            "unknown gradient 'xnor'",
        ),
        (
            lambda d: gradients.follow(
                recipes.load(gradients.RECIPE), d, trained_with="s4", seed=0, steps=0, every=1
            ),
            "steps is 0",
        ),
        (lambda d: gradients.costs(recipes.load(gradients.RECIPE), d, rounds=0), "rounds is 0"),
        (
            lambda d: gradients.costs(recipes.load("s3-mlp"), d, rounds=1),
            "s3-mlp: its binary layers have no scaled sign",
        ),
    ],
)
def test_impossible_measurements_are_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(data.load("digits"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jacobians.formula(torch.zeros(2), "xnor"),
            "unknown formula 'xnor': choose one of identity, detached, paper",
        ),
        (lambda: jacobians.symbolic_formula(2, "s4"), "unknown formula 's4'"),
        (lambda: jacobians.formula(torch.zeros(2, 2)), "got torch.float32 (2, 2)"),
        (lambda: jacobians.smooth(torch.zeros(0), 1.0), "got torch.float32 (0,)"),
        (
            lambda: jacobians.differences(torch.tensor([1.0, 1e-9])),
            "a weight of magnitude 1e-09 changes sign within a step of 1e-06",
        ),
    ],
)
def test_bad_input_to_the_jacobians_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_the_stored_measurement_fits_its_recipe():
    path = gradients.FOLDER / "lenet5-cosine.json"
    if not path.exists():
        pytest.skip("not measured yet: python -m bnnlib.gradients")
    found = gradients.read(path)
    assert found.recipe_hash == recipes.load(found.recipe).hash(), (
        "the recipe has changed since: python -m bnnlib.gradients"
    )
    assert found.dataset.name == "mnist"
    assert {p.trained_with for p in found.points} == {"detached", "corrected"}


def test_the_short_recipes_differ_in_the_gradient_alone():
    rest = []
    for gradient in GRADIENTS:
        fields = recipes.load(f"s4-lenet5-15ep-{gradient}").resolved()
        model = fields.pop("model")
        net = models.build(model.pop("name"), **model)
        assert {m.weight_quantizer.gradient for m in layers.binary_layers(net).values()} == {gradient}
        assert fields.pop("factors") == {"gradient": gradient}
        rest.append({k: v for k, v in fields.items() if k not in ("name", "title")})
    assert all(fields == rest[0] for fields in rest)
    assert rest[0]["published"]["top1"] is None


# ------------------------------------------------------------------------------------- the consistent gradient


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 5), (4, 3, 3, 3)], ids=str)
def test_along_the_sign_the_consistent_gradient_is_the_exact_one_and_the_corrected_one_counts_it_1_plus_alpha_times(shape):
    torch.manual_seed(0)
    w = (torch.rand(shape, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    g = torch.randn(shape, dtype=torch.float64)
    dims = tuple(range(1, w.dim()))
    s = torch.where(w >= 0, 1.0, -1.0).double()
    # the exact derivative of sum(g W~) along sign(W), by central differences: no sign flips on the way
    step = 1e-6
    exact = torch.stack(
        [
            (g * (scaled_sign(w + step * s, "detached") - scaled_sign(w - step * s, "detached")))
            .detach()
            .sum(dims)
            / (2 * step)
        ]
    )[0]
    along = {}
    for kind in ("consistent", "corrected"):
        (d,) = torch.autograd.grad(scaled_sign(w, kind), w, g)
        along[kind] = (d * s).sum(dims)
    torch.testing.assert_close(along["consistent"], exact, rtol=1e-6, atol=1e-8)
    alpha = w.detach().abs().mean(dims)
    torch.testing.assert_close(along["corrected"], (1 + alpha) * exact, rtol=1e-6, atol=1e-8)


def test_the_consistent_gradient_by_hand():
    one = torch.tensor([[0.3]], requires_grad=True)  # n = 1: W~ = W, the derivative is 1
    scaled_sign(one, "consistent").backward(torch.tensor([[1.0]]))
    assert one.grad.item() == pytest.approx(1)
    one.grad = None
    scaled_sign(one, "corrected").backward(torch.tensor([[1.0]]))
    assert one.grad.item() == pytest.approx(1.3)
    w = torch.tensor([[0.5, -1.5, 0.5, 0.5]], requires_grad=True)  # alpha 0.75, one weight beyond the clip
    g = torch.tensor([[1.0, 2.0, -1.0, 4.0]])
    scaled_sign(w, "consistent").backward(g)
    p = 0.5  # mean(g s) = (1 - 2 - 1 + 4) / 4
    expected = [[p + 0.75 * (1 - p), -p, p + 0.75 * (-1 - p), p + 0.75 * (4 - p)]]
    torch.testing.assert_close(w.grad, torch.tensor(expected))


def test_each_gradient_is_trained_at_the_rate_that_its_search_found_best():
    best = scale_gradients.best_rates("mlp")
    for gradient, name in scale_gradients.names("mlp").items():
        assert recipes.load(name).optimizer.lr == best[gradient], gradient
    tried = json.loads(scale_gradients.rates_path("mlp").read_text())["validation_top1"]
    assert {tuple(map(float, rates)) for rates in tried.values()} == {scale_gradients.RATES}
    assert min(scale_gradients.SEARCH_SEEDS) >= max(recipes.load(n).seeds for n in scale_gradients.names("mlp").values())
