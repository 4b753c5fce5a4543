"""Quantizers: modules that map real values to +-1, each with a gradient of its own.

A layer has two of them, ``input_quantizer`` and ``weight_quantizer``. The formulas are those of
:mod:`bnnlib.quantizers`. Recipes name them: ``ste: clipped`` (see :data:`ESTIMATORS`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnnlib import quantizers
from bnnlib.layers.values import number


class Quantizer(nn.Module):
    """Base of modules whose ``forward`` gives values in {-1, +1}, of the shape and dtype of its argument.

    A layer counts bits where both of its quantizers derive from this class. A module that gives other values
    (ternary weights, a soft sign) derives from :class:`torch.nn.Module` instead: the layer then multiplies
    what it gives. To change the gradient alone, derive from :class:`Sign`.
    """

    def split(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """``weight`` as (+-1, scale): what an evaluation multiplies first and last. The scale is ``(C_out, 1,
        ...)``, or None where there is none; no gradient."""
        with torch.no_grad():
            return self(weight), None


class Sign(Quantizer):
    """``sign(x)``, with the derivative of a surrogate as its gradient. Any shape.

    A subclass gives that derivative, elementwise:

    >>> class SwishSign(Sign):
    ...     def derivative(self, x):  # BNN+ (arXiv 1812.11800)
    ...         return 5 * (2 - 5 * x * torch.tanh(2.5 * x)) / (1 + torch.cosh(5 * x))
    >>> x = torch.tensor([0.0], requires_grad=True)
    >>> SwishSign()(x).backward()
    >>> x.grad
    tensor([5.])

    ``zero``: what a zero becomes, +1 or -1. The converter packs every layer whose quantizers compute this
    class's ``forward``, whatever their gradient.
    """

    ste: str | None = None
    """The name of its gradient in :func:`bnnlib.quantizers.binarize`; None: its own :meth:`derivative`."""

    def __init__(self, zero: int = 1) -> None:
        super().__init__()
        if zero not in (-1, 1):
            raise ValueError(f"sign_of_zero is {zero!r}: it must be +1 or -1")
        self.zero = zero

    def derivative(self, x: Tensor) -> Tensor:
        """What the gradient of the output is multiplied by, of the shape of ``x``."""
        raise NotImplementedError(f"{type(self).__name__} has no gradient: give it a method derivative(x)")

    def forward(self, x: Tensor) -> Tensor:
        return self._binarize(x) if self.zero == 1 else -self._binarize(-x)

    def leave_signs(self, x: Tensor) -> Tensor:
        """``x`` as it is, with the gradient of ``self(x)``: for an operation that reads no more than the sign
        of each number. Saves a pass over memory. Where zero becomes -1 the signs are taken all the same."""
        return self._binarize(x, signs=False) if self.zero == 1 else self(x)

    def _binarize(self, x: Tensor, signs: bool = True) -> Tensor:
        if self.ste is not None:
            return quantizers.binarize(x, self.ste, getattr(self, "temperature", 1.0), signs)
        with torch.no_grad():
            slope = self.derivative(x if self.zero == 1 else -x)
        return quantizers.with_slope(x, slope, signs)

    def extra_repr(self) -> str:
        return "" if self.zero == 1 else f"zero={self.zero}"


class IdentitySTE(Sign):
    """The gradient passes everywhere: derivative 1 (S3's layer; weights in most codes)."""

    ste = "identity"


class ClippedSTE(Sign):
    """The gradient passes where ``abs(x) <= 1`` (Courbariaux et al. 2016, arXiv 1602.02830)."""

    ste = "clipped"


class ApproxSign(Sign):
    """The derivative of a piecewise polynomial: ``2 - 2 abs(x)`` where ``abs(x) <= 1``, else 0 (Bi-Real Net,
    arXiv 1808.00278)."""

    ste = "approx_sign"


class EDE(Sign):
    """The derivative of ``max(1/t, 1) tanh(t x)``, whose temperature ``t`` grows in training (IR-Net's error
    decay estimator, arXiv 1909.10788); :func:`bnnlib.layers.set_temperature_` sets it."""

    ste = "ede"

    def __init__(self, zero: int = 1) -> None:
        super().__init__(zero)
        # a function of the epoch, so no part of the state: no state_dict would bring its value to a net that was built on "meta"
        elsewhere = "cpu" if torch.get_default_device().type == "meta" else None
        self.register_buffer("temperature", torch.ones((), device=elsewhere), persistent=False)

    def _apply(self, fn, recurse=True):
        before = self.temperature
        super()._apply(fn, recurse)
        # on "meta" there is no value, and to_empty() leaves any
        self.temperature = before if self.temperature.is_meta else before.to(self.temperature)
        return self


class ScaledSign(Quantizer):
    """Weights as ``alpha sign(W)``, ``alpha = mean|W|`` of each output channel; ``gradient`` and ``gain`` as
    :func:`bnnlib.quantizers.scaled_sign` has them. For weights alone."""

    def __init__(self, gradient: quantizers.WeightGradient = "corrected", gain: float = 1.0) -> None:
        super().__init__()
        quantizers.choose("gradient", gradient, quantizers.WeightGradient)
        self.gradient, self.gain = gradient, number("gain", gain)

    def forward(self, weight: Tensor) -> Tensor:
        return quantizers.scaled_sign(weight, self.gradient, self.gain)

    def split(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.no_grad():
            return quantizers.sign(weight), quantizers.mean_scale(weight)

    def extra_repr(self) -> str:
        return self.gradient + (f", gain={self.gain}" if self.gain != 1 else "")


ESTIMATORS: dict[str, type[Sign]] = {
    "identity": IdentitySTE,
    "clipped": ClippedSTE,
    "polynomial": ApproxSign,
    "tanh": EDE,
    "approx_sign": ApproxSign,
    "ede": EDE,
}
"""The names that ``ste`` and ``weight_ste`` take, in Python and in recipes. ``polynomial`` and ``tanh`` are
what recipes call ``approx_sign`` and ``ede``."""


def register_estimator(name: str) -> Callable[[type[Sign]], type[Sign]]:
    """A class decorator: ``ste=name`` builds the class from there on. Raises ``ValueError`` for a name that
    is taken."""

    def add(made: type[Sign]) -> type[Sign]:
        if ESTIMATORS.get(name, made) is not made:
            raise ValueError(
                f"the estimator {name!r} is taken by {ESTIMATORS[name].__name__}: choose another name"
            )
        ESTIMATORS[name] = made
        return made

    return add


def estimator(what: str, name: object, zero: int = 1) -> Sign:
    """The estimator of that name. Raises ``ValueError`` for an unknown one; ``what`` is the option's name in
    it."""
    if not isinstance(name, str) or name not in ESTIMATORS:
        raise ValueError(f"unknown {what} {name!r}: choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name](zero)


def takes_signs(quantizer: nn.Module | None) -> bool:
    """Whether the forward pass is :class:`Sign`'s own, so that bits and thresholds stand for it."""
    return isinstance(quantizer, Sign) and type(quantizer).forward is Sign.forward
