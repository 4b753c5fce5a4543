"""The scaled sign and its gradients, against matrices in NumPy's float64, central differences and values by hand; its
properties over shapes, dtypes, values and memory."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from layers_reference import weights

from bnnlib.book.studies import gradients
from bnnlib.quantizers import mean_scale, scaled_sign, sign

GRADIENTS = ["identity", "detached", "paper", "corrected", "s4"]


def test_the_error_of_the_best_scale_is_the_variance_of_the_magnitudes():
    """min |W - alpha B|^2 = n Var|W|: exact when all magnitudes are equal."""
    w = weights(40)
    left = (w - scaled_sign(w[None])[0]).square().sum().item()
    assert left == pytest.approx(40 * w.abs().var(correction=0).item())


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
