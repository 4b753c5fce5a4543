"""The Jacobian of the scaled sign, by formula and by three routes that know no formula.

For the ``n`` weights ``W`` of one output channel, ``W~ = alpha B`` with ``alpha = mean|W|`` and
``B = sign(W)``. A formula for the gradient is a claim about the matrix ``J[j, i] = dW~_j / dW_i``, since
``dC/dW = g @ J`` with ``g = dC/dW~``:

============= =========================== =================================================================
formula       J                           where it comes from
============= =========================== =================================================================
``identity``  Id                          straight through alpha and sign alike (S1)
``detached``  alpha D                     alpha taken for a constant
``paper``     Id / n + alpha D            XNOR-Net paper (arXiv 1603.05279): alpha counted for j = i alone
``corrected`` B B^T / n + alpha D         jiecaoyu/XNOR-Net-PyTorch: every W~_j depends on W_i
``misprint``  B B^T / n + alpha diag(B/W) the same as that code's README prints it
============= =========================== =================================================================

``D`` holds the derivative of the sign: zero almost everywhere, or what an estimator lends it. The tests and
the chapter on the gradient hold each formula against a smooth sign (:func:`smooth`), central differences
(:func:`differences`), symbols (:func:`symbolic`), and what follows from ``W~`` scaling with ``W``
(:func:`scaling_gap`).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from bnnlib import quantizers

Formula = Literal["identity", "detached", "paper", "corrected", "misprint"]
FORMULAS: tuple[str, ...] = get_args(Formula)


def formula(w: Tensor, gradient: Formula = "corrected", slope: Tensor | float | None = None) -> Tensor:
    """The Jacobian ``(n, n)`` that ``gradient`` claims for one output channel's weights ``w``, ``(n,)``.

    ``slope``: derivative of the sign at each weight, ``(n,)`` or one number; where None, the clipped
    estimator's, 1 where ``|w| <= 1``. The number 0 leaves the part through alpha alone. ``misprint`` has a
    slope of its own, ``sign(w) / w``, and heeds no other but that 0. Dtype of ``w``.

    >>> formula(torch.tensor([0.5, -0.5]), "corrected", slope=0)
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]])
    """
    n, b = _vector(w).numel(), quantizers.sign(w)
    alpha_alone = not isinstance(slope, Tensor) and slope == 0
    if slope is None:
        slope = (w.abs() <= 1).to(w.dtype)
    if gradient == "misprint" and not alpha_alone:
        slope = b / w
    d = torch.as_tensor(slope, dtype=w.dtype).expand(n)
    straight, eye = w.abs().mean() * torch.diag(d), torch.eye(n, dtype=w.dtype)
    if gradient == "identity":
        return eye
    if gradient == "detached":
        return straight
    if gradient == "paper":
        return eye / n + straight
    if gradient in ("corrected", "misprint"):
        return torch.outer(b, b) / n + straight
    raise ValueError(f"unknown formula {gradient!r}: choose one of {', '.join(FORMULAS)}")


def smooth_sign(w: Tensor, k: float) -> Tensor:
    """``sign_k(w) = tanh(k w)``, which tends to the sign as ``k`` grows."""
    return torch.tanh(k * w)


def smooth_slope(w: Tensor, k: float) -> Tensor:
    """The derivative of :func:`smooth_sign`, ``k / cosh(k w)^2``."""
    return k * (1 - torch.tanh(k * w).square())


def smooth_scaled_sign(w: Tensor, k: float) -> Tensor:
    """The scaled sign of one output channel with ``sign_k`` for the sign, ``(n,) -> (n,)``.

    For ``|w|``, whose derivative is the sign, stands the function whose derivative is ``sign_k``:
    ``log(2 cosh(k w)) / k``.
    """
    magnitude = torch.logaddexp(k * w, -k * w) / k
    return magnitude.mean() * smooth_sign(w, k)


def smooth(w: Tensor, k: float) -> Tensor:
    """The Jacobian ``(n, n)`` of :func:`smooth_scaled_sign` at ``w``, by automatic differentiation."""
    return torch.autograd.functional.jacobian(lambda v: smooth_scaled_sign(v, k), _vector(w))


def smooth_gap(w: Tensor, gradient: Formula, k: float) -> float:
    """How far the formula, given ``sign_k``'s slope, is from :func:`smooth`: the Frobenius norm.

    For a formula that is right it tends to 0 as ``k`` grows, as fast as ``exp(-2 k min|w|)``.
    """
    return (smooth(w, k) - formula(w, gradient, smooth_slope(w, k))).norm().item()


def differences(w: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences ``(n, n)`` of the scaled sign as the layers compute it.

    Raises ``ValueError`` where a step would carry a weight across zero, where there is no derivative.
    """
    n = _vector(w).numel()
    if not w.abs().min() > step:
        raise ValueError(
            f"a weight of magnitude {w.abs().min().item():g} changes sign within a step of {step:g}: "
            "lower step"
        )

    def forward(v: Tensor) -> Tensor:
        return quantizers.scaled_sign(v[None])[0]

    columns = [(forward(w + e) - forward(w - e)) / (2 * step) for e in step * torch.eye(n, dtype=w.dtype)]
    return torch.stack(columns, dim=1)


def differences_gap(w: Tensor, gradient: Formula) -> float:
    """How far the formula, with slope 0 as the sign has it away from zero, is from :func:`differences`."""
    return (differences(w) - formula(w, gradient, slope=0)).norm().item()


def scaling_gap(w: Tensor, gradient: Formula) -> float:
    """How far ``J W`` is from ``W~``, as a share of ``W~``.

    ``W~(t W) = t W~(W)`` for every ``t > 0``; differentiated by ``t`` at 1, it asks ``J W = W~`` (Euler).
    """
    target = quantizers.scaled_sign(w[None])[0]
    return ((formula(w, gradient, slope=0) @ w - target).norm() / target.norm()).item()


def symbolic(n: int):
    """The exact Jacobian, as a SymPy matrix in ``b_i`` (the signs), ``d_i`` (their slopes) and ``alpha``.

    SymPy differentiates ``alpha sign(w_j)`` with ``alpha = sum|w_i| / n``; its sign is ``d|w|/dw``.
    """
    import sympy

    w = sympy.symbols(f"w1:{n + 1}", real=True)
    alpha, b, d = _symbols(n)
    signs = [sympy.Abs(v).diff(v) for v in w]
    scale = sum(sympy.Abs(v) for v in w) / n
    exact = sympy.Matrix(n, n, lambda j, i: sympy.diff(scale * signs[j], w[i]))
    # A sign jumps by 2 at zero, so SymPy writes its derivative as twice a delta function.
    exact = exact.subs({sympy.DiracDelta(v): slope / 2 for v, slope in zip(w, d, strict=True)})
    exact = exact.subs(dict(zip(signs, b, strict=True))).expand().subs({s**2: 1 for s in b})
    return exact.applyfunc(lambda entry: sympy.collect(entry, d).subs(sympy.expand(scale), alpha))


def symbolic_formula(n: int, gradient: Formula):
    """The Jacobian that ``gradient`` claims in :func:`symbolic`'s symbols; ``misprint`` has ``w_i`` too."""
    import sympy

    alpha, b, d = _symbols(n)
    if gradient == "misprint":
        d = [s / v for s, v in zip(b, sympy.symbols(f"w1:{n + 1}", real=True), strict=True)]
    straight = alpha * sympy.diag(*d)
    cross = sympy.Matrix(n, n, lambda j, i: sympy.Rational(1, n) * (1 if i == j else b[j] * b[i]))
    claims = {
        "identity": sympy.eye(n),
        "detached": straight,
        "paper": sympy.eye(n) / n + straight,
        "corrected": cross + straight,
        "misprint": cross + straight,
    }
    if gradient not in claims:
        raise ValueError(f"unknown formula {gradient!r}: choose one of {', '.join(FORMULAS)}")
    return claims[gradient]


def _symbols(n: int):
    import sympy

    return sympy.Symbol("alpha"), sympy.symbols(f"b1:{n + 1}"), sympy.symbols(f"d1:{n + 1}")


def _vector(w: Tensor) -> Tensor:
    if w.dim() != 1 or w.numel() == 0 or not w.is_floating_point():
        raise ValueError(
            f"a Jacobian is of one output channel: w must be floating, of shape (n,), "
            f"got {w.dtype} {tuple(w.shape)}"
        )
    return w
