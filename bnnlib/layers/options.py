"""The options of binary layers: the names that recipes use, and the modules that they stand for.

================ ============================ ==================================================================
part             given as a module            given by name
================ ============================ ==================================================================
input            ``input_quantizer``; None:   ``ste``, ``sign_of_zero``; ``binary_input: false``
                 real-valued
weight           ``weight_quantizer``         ``scale: mean`` with ``gradient``, ``gain``; else ``weight_ste``
output           ``output_scale``             ``scale`` (learned and so on), ``scale_init``, ``output_size``
latent weight    ``transform``, ``latent``    ``transform``, ``latent``
================ ============================ ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from torch import nn

from bnnlib import quantizers
from bnnlib.layers.latent import CONSTRAINTS, TRANSFORMS, named
from bnnlib.layers.quantizers import ScaledSign, estimator
from bnnlib.layers.scales import SPATIAL, SPATIAL_SCALES, LearnedScale
from bnnlib.layers.values import flag, number, sizes

Scale = Literal["none", "mean", "learned", "xnorpp", "dense", "channel-map"]
Latent = Literal["free", "clip", "center-clip"]
WeightTransform = Literal["none", "center", "standardize"]


class Options(TypedDict, total=False):
    """What every binary layer takes by keyword, besides its geometry.

    Attributes:
        scale: ``mean`` (the default: ``mean|W|`` per output channel, with ``gradient`` and ``gain``);
            ``none``; ``learned`` (a parameter per output channel); or one of XNOR-Net++'s others, which need
            ``output_size`` and a convolution: ``dense``, ``channel-map``, ``xnorpp``
            (:mod:`bnnlib.layers.scales`).
        gradient, gain: of the scaled sign, see :func:`bnnlib.quantizers.scaled_sign`.
        ste, weight_ste: the estimator for the input, and for the weight where the scale is not ``mean``
            (:data:`bnnlib.layers.ESTIMATORS`).
        sign_of_zero: what a zero input becomes; +1 everywhere but in S3, whose layer follows a ReLU.
        binary_input: False leaves the input as it is, so that the weights alone are binary (XNOR-Net's
            "BWN").
        scale_init: start of a learned scale; None starts at ``mean|W|`` of the latent weights.
        output_size: (H_out, W_out) for a scale that differs from pixel to pixel.
        latent: what is kept after each step, by :func:`bnnlib.layers.project_` or
            :func:`bnnlib.layers.project_after_steps`: ``free``, ``clip`` to [-1, 1], ``center-clip`` (first
            less the mean over input channels), or a module.
        transform: applied to the latent weight, differentiably, before the sign: ``none``, ``center``,
            ``standardize``, or a module.
        input_quantizer, weight_quantizer, output_scale: modules, in place of the names above.
        input_scale: multiply by the XNOR-Net paper's K, ``mean|x|`` in each window (of each row, for a linear
            layer).
        dropout: applied to the binarised input (S4's NIN and AlexNet).
    """

    scale: str
    gradient: quantizers.WeightGradient
    gain: float
    ste: str
    weight_ste: str
    sign_of_zero: int
    binary_input: bool
    scale_init: float | None
    output_size: int | tuple[int, int] | None
    latent: str | nn.Module
    transform: str | nn.Module
    input_quantizer: nn.Module | None
    weight_quantizer: nn.Module
    output_scale: nn.Module | None
    input_scale: bool
    dropout: float


@dataclass
class Parts:
    """The modules of a layer."""

    input_quantizer: nn.Module | None
    weight_quantizer: nn.Module
    output_scale: nn.Module | None
    transform: nn.Module | None
    constraint: nn.Module | None


# options by name that act with these scales alone; in the second place the words for it
_ACTS_WITH: dict[str, tuple[tuple[str, ...], str]] = {
    "gradient": (("mean",), "scale='mean'"),
    "gain": (("mean",), "scale='mean'"),
    "weight_ste": (("none", "learned", *SPATIAL), "another scale than 'mean', whose gradient is `gradient`"),
    "scale_init": (("learned",), "scale='learned'"),
    "output_size": (SPATIAL, f"a scale of {', '.join(SPATIAL)}"),
}

# options by name that a module stands in place of
_REPLACED = {
    "input_quantizer": ("ste", "sign_of_zero", "binary_input"),
    "weight_quantizer": ("gradient", "gain", "weight_ste"),
    "output_scale": ("scale_init", "output_size"),
}


def parts(layer: str, shape: tuple[int, ...], options: dict[str, Any]) -> Parts:
    """The modules that ``options`` describe, for a weight of ``shape``. Raises ``TypeError`` for an unknown
    option, ``ValueError`` for a value that is not among the choices, for a module together with a name it
    replaces, and for an option without effect."""
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise TypeError(
            f"{layer} has no option {unknown[0]!r}: it takes {', '.join(Options.__annotations__)}"
        )
    for part, names in _REPLACED.items():
        given = [name for name in names if name in options]
        if part in options and given:
            raise ValueError(
                f"{part} is given as a module: {given[0]}={options[given[0]]!r} would change nothing, leave it out"
            )
        if not isinstance(options.get(part), nn.Module | None):
            raise ValueError(f"{part} is {options[part]!r}: give a module, or a name by {names[0]}")
    if options.get("weight_quantizer", 0) is None:
        raise ValueError("weight_quantizer is None: a layer of real-valued weights is PyTorch's own")
    scale = _scale(options)
    quantizers.choose("scale", scale, Scale)
    weight_estimator = estimator("weight_ste", options.get("weight_ste", "clipped"))
    scaled = ScaledSign(options.get("gradient", "corrected"), options.get("gain", 1.0))
    for name in _idle(scale, options):
        raise ValueError(
            f"{name}={options[name]!r} would change nothing: it needs {_ACTS_WITH[name][1]}, and scale is {scale!r}"
        )
    weight = options.get("weight_quantizer", scaled if scale == "mean" else weight_estimator)
    if "weight_quantizer" in options and scale == "mean":
        raise ValueError(
            "weight_quantizer is given as a module: scale='mean' would change nothing, leave it out"
        )
    if "output_scale" in options and scale not in ("none", "mean"):
        raise ValueError(
            f"output_scale is given as a module: scale={scale!r} would change nothing, leave it out"
        )
    return Parts(
        input_quantizer=_input(options),
        weight_quantizer=weight,
        output_scale=options["output_scale"] if "output_scale" in options else _output(scale, shape, options),
        transform=named("transform", options.get("transform", "none"), TRANSFORMS),
        constraint=named("latent", options.get("latent", "free"), CONSTRAINTS),
    )


def _input(options: dict[str, Any]) -> nn.Module | None:
    if "input_quantizer" in options:
        return options["input_quantizer"]
    made = estimator("ste", options.get("ste", "clipped"), options.get("sign_of_zero", 1))
    return made if flag("binary_input", options.get("binary_input", True)) else None


def _output(scale: str, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module | None:
    linear = len(shape) == 2
    if scale == "learned":
        start = options.get("scale_init")
        return LearnedScale(
            shape[0], 1 if linear else 3, None if start is None else number("scale_init", start)
        )
    if scale not in SPATIAL:
        return None
    if linear:
        raise ValueError(f"scale={scale!r} is for convolutions: a linear layer takes none, mean or learned")
    if options.get("output_size") is None:
        raise ValueError(
            f"scale={scale!r} needs output_size=(H_out, W_out): its factors are tied to the resolution"
        )
    return SPATIAL_SCALES[scale](shape[0], sizes("output_size", options["output_size"], 1))


def _scale(options: Mapping[str, Any]) -> str:
    """The scale by name: ``mean`` where neither it nor a module is given."""
    return options.get("scale", "none" if {"weight_quantizer", "output_scale"} & set(options) else "mean")


def _idle(scale: str, options: Mapping[str, Any]) -> list[str]:
    """The options that do nothing with this scale."""
    return [
        name
        for name, (scales, _) in _ACTS_WITH.items()
        if scale not in scales and options.get(name) is not None
    ]


def over_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """``given`` options over the ``defaults`` of a net, without those defaults that the scale leaves without effect."""
    given = given or {}
    options = {**defaults, **given}
    idle = set(_idle(_scale(options), options)) - set(given)
    return {name: value for name, value in options.items() if name not in idle}
