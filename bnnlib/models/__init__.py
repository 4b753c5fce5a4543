"""The networks of the book, built by name: ``build("lenet5")``.

A builder is a function or a class of modules, registered with :func:`register`; its keyword arguments are what a recipe
may set under ``model:``. A net and its full-precision twin have one builder, with an option ``binary``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection

from torch import nn

BUILDERS: dict[str, Callable[..., nn.Module]] = {}


Builder = Callable[..., nn.Module]


def register(name: str, *, without: Collection[str] = (), **fixed) -> Callable[[Builder], Builder]:
    """Register a builder under ``name``. ``fixed``: options that have this value under the name; it takes neither them nor
    those of ``without``: ``register("nin-real", binary=False, without=["layer"])``. Raises ``ValueError`` for a name that another
    builder has; one of the same module and name, defined anew in a notebook, takes its place."""

    def add(builder: Builder) -> Builder:
        there = BUILDERS.get(name)
        if there is not None and _place(there) != _place(builder):
            raise ValueError(f"the model {name!r} is taken by {'.'.join(_place(there))}: choose another name")
        hidden = {*fixed, *without}
        if not hidden:
            BUILDERS[name] = builder
            return builder

        @functools.wraps(builder, updated=())
        def build_fixed(**options) -> nn.Module:
            return builder(**options, **fixed)

        told = inspect.signature(builder)
        kept = [parameter for parameter in told.parameters.values() if parameter.name not in hidden]
        build_fixed.__signature__ = told.replace(parameters=kept)
        BUILDERS[name] = build_fixed
        return builder

    return add


def _place(builder: Builder) -> tuple[str, str]:
    """Where a builder is defined, which a definition that runs again keeps."""
    return getattr(builder, "__module__", ""), getattr(builder, "__qualname__", repr(builder))


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
