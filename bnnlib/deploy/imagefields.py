"""What a file says of the images that its network takes: the fields, checked alike where they are written and read. Without
PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

INPUTS = ("normalized", "unit", "mean-subtracted", "gcn-zca")
VIEWS = ("s4", "s5")
FIELDS = ("shape", "classes", "mean", "std", "view")
LARGEST_SIDE = 512
"""Pixels; the book's networks take 224."""


def check(said: Any, fed: Any) -> None:
    """Raises ``ValueError``, naming the field, for a field ``images`` that cannot be read back, or one ``input`` (``fed``) that
    does not go with it."""
    if not isinstance(said, Mapping):
        raise ValueError(f"images is {said!r:.100}: it must be a dictionary of {', '.join(FIELDS)}")
    for name in FIELDS:
        if name not in said:
            raise ValueError(f"images has no {name!r}: it must have {', '.join(FIELDS)}")
    shape, white = said["shape"], said.get("whitening")

    def expect(name: str, good: bool, what: str) -> None:
        if not good:
            raise ValueError(f"images.{name} is {said[name]!r:.100}: it must be {what}")

    expect(
        "shape",
        _listed(shape, 3) and all(type(n) is int and 1 <= n <= LARGEST_SIDE for n in shape) and shape[0] in (1, 3),
        f"[channels, height, width], with 1 or 3 channels and sides from 1 to {LARGEST_SIDE}",
    )
    names = said["classes"]
    expect("classes", _listed(names) and all(isinstance(name, str) for name in names), "a list of names")
    per_channel = "numbers, one or one a channel"
    for name in ("mean", "std"):
        numbers = said[name]
        good = _listed(numbers) and len(numbers) in (1, shape[0]) and all(_number(x) and abs(x) < 1e6 for x in numbers)
        expect(name, good, f"a list of {per_channel}")
    expect("std", min(said["std"]) > 1e-6, f"a list of {per_channel}, above 0")
    expect("view", said["view"] is None or said["view"] in VIEWS, f"null (None) or one of {', '.join(VIEWS)}")
    if fed not in INPUTS:
        raise ValueError(f"input is {fed!r:.100}: it must be one of {', '.join(INPUTS)}")
    if white is not None:
        good = isinstance(white, Mapping) and set(white) == {"scale"} and _number(white["scale"]) and 0 <= white["scale"] < 1e6
        expect("whitening", good and fed == "gcn-zca", "{'scale': a number}, of a network whose input is gcn-zca")


def check_size(said: Mapping[str, Any], taken: Sequence[int] | None) -> None:
    """Raises ``ValueError`` where images of the (checked) field ``images`` are not those that a graph begins with: ``taken`` (height,
    width, channels), or None for a trained model."""
    if taken is None:
        return
    channels, height, width = said["shape"]
    if list(taken) not in ([height, width, channels], [1, 1, channels * height * width]):
        found = [taken[2], taken[0], taken[1]]
        raise ValueError(f"images.shape is {[channels, height, width]}, and the network takes {found} (channels, height, width)")


def plain(value: Any, at: str = "about") -> Any:
    """``value`` as JSON holds it: NumPy's numbers and arrays as Python's. Raises ``ValueError``, naming the field, for what no JSON holds."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{at} has the key {key!r:.100}: keys must be strings")
        return {key: plain(one, f"{at}.{key}") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, f"{at}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{at} is {value}: a file holds finite numbers")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{at} is a {type(value).__name__}: a file holds numbers, strings, lists and dictionaries of these")


def _listed(value: Any, count: int | None = None) -> bool:
    return isinstance(value, list | tuple) and count in (None, len(value))


def _number(value: Any) -> bool:
    return type(value) in (float, int)
