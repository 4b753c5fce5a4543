"""Values of options, checked: each function gives the value or raises ``ValueError``, naming the option."""

from __future__ import annotations

import math
import operator

import numpy as np
import torch
from torch.nn.modules.utils import _pair


def flag(what: str, value: object) -> bool:
    """``value`` as true or false; text is refused, of which ``"no"`` would count as true."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{what} is {value!r}: it must be True or False")


def number(what: str, value: object) -> float:
    """``value`` as a finite number."""
    found = None
    if not isinstance(value, str | bool):
        try:
            found = float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
    if found is None or not math.isfinite(found):
        raise ValueError(f"{what} is {value!r}: it must be a finite number")
    return found


def whole(what: str, value: object, least: int) -> int:
    """``value``, a whole number of any type, as an ``int``."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool) or found < least:
        raise ValueError(f"{what} is {value!r}: it must be a whole number >= {least}")
    return found


def sizes(what: str, value: object, least: int) -> tuple[int, int]:
    """A size for rows and columns."""
    pair = _pair(value)
    try:
        rows, columns = (whole(what, size, least) for size in pair)
    except ValueError:
        raise ValueError(f"{what} is {value!r}: it must be a whole number >= {least}, or a pair of them") from None
    return rows, columns


def floating(what: str, value: torch.dtype | None) -> torch.dtype | None:
    """``value``, a floating-point type or None."""
    if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise ValueError(f"{what} is {value!r}: it must be a floating-point type, such as torch.float32")
    return value
