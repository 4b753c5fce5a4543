"""Contenders take turns: how times are taken within one run, so that a machine that slows down slows all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

from bnnlib.benchmarks import onnx_runtime, speed

Contenders = dict[str, Callable[[], object] | onnx_runtime.Remote]
LONG_S = 0.2


def alternate(
    contenders: Contenders, rounds: int, slice_s: float = 0.004, between: Callable[[], object] | None = None
) -> dict[str, list[float]]:
    """Seconds a call, a list over rounds for each contender; all take turns within a round. A contender that takes more than
    :data:`LONG_S` and four times the fastest one's time has its turn in the first three rounds only. ``between`` is called
    before the first round and after each."""
    once = {}
    for name, call in contenders.items():
        first = timed(call, 1)
        once[name] = first if first > 1 else timed(call, 1)  # the first call of a short one may be slow
    behind = {name for name, s in once.items() if s > max(LONG_S, 4 * min(once.values()))}
    calls = {name: max(1, math.ceil(slice_s / s)) for name, s in once.items()}
    between = between or (lambda: None)
    seconds = {name: [] for name in contenders}
    between()
    for i in range(rounds):
        for name, call in contenders.items():
            if i < 3 or name not in behind:
                seconds[name].append(timed(call, calls[name]) / calls[name])
        between()
    return seconds


def timed(call: Callable[[], object] | onnx_runtime.Remote, calls: int) -> float:
    """Seconds that ``calls`` calls take; another process times its own."""
    if isinstance(call, onnx_runtime.Remote):
        return call.seconds(calls)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - started


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """:func:`bnnlib.benchmarks.speed.paired` of two lists of seconds, without its quartiles, as a record holds it."""
    return round(speed.paired(slow, fast).median, 3)


def faster(a: list[float], b: list[float]) -> list[float]:
    """The one of two lists of seconds whose median is smaller."""
    return a if statistics.median(a) <= statistics.median(b) else b


def times(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """For a record: the median and the best, and each round's, from which :func:`bnnlib.benchmarks.speed.ratio` has its ratios."""
    return {
        name: {
            "median_us": round(1e6 * statistics.median(s), 2),
            "best_us": round(1e6 * min(s), 2),
            "rounds_us": [float(f"{1e6 * one:.5g}") for one in s],
        }
        for name, s in seconds.items()
    }
