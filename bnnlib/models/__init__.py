"""The networks of the book, built by name: ``build("lenet5")``.

A builder is a function registered with :func:`register`; its keyword arguments are what a recipe may set
under ``model:``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def register(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a builder under ``name``."""

    def add(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        BUILDERS[name] = builder
        return builder

    return add


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return sorted(BUILDERS)


def build(name: str, **options) -> nn.Module:
    """Build the model ``name``. Raises ``ValueError`` for an unknown name, option or value, naming what is
    allowed."""
    if name not in BUILDERS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(names())}")
    allowed = inspect.signature(BUILDERS[name]).parameters
    for option in options:
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of model {name!r}: it takes {', '.join(allowed)}")
    try:
        return BUILDERS[name](**options)
    except (TypeError, RuntimeError) as error:  # the second is PyTorch's for a size that cannot be
        raise ValueError(f"model {name!r} with {options}: {error}") from error


from bnnlib.models import alexnet, cnn, lenet, mlp, nin, resnet, vgg  # noqa: E402,F401  (each registers its builders)
