"""The Jacobian of the scaled sign: three routes that know no formula, and how each formula fares by them.

The checks are functions that raise AssertionError. The corrected formula passes every one of them; the
XNOR-Net paper's, alpha detached, and the formula as S4's README misprints it are put through the very same
checks and must be refused. Then the gradients that layers compute are compared with their formulas.
"""

import math
import re

import pytest
import torch
from layers_reference import weights

from bnnlib.book.studies import gradients, jacobians
from bnnlib.quantizers import scaled_sign

SIZES = [1, 2, 3, 8, 75, 500]  # 75 and 500: a filter of a first and of LeNet-5's binary convolution


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
