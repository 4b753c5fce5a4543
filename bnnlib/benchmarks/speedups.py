"""Speed-ups of whole 1-bit layers on one core of each CPU that has a record."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnnlib.benchmarks import speed
from bnnlib.benchmarks.record import FOLDER


@dataclass(frozen=True)
class Speedups:
    """Of the layers of one core, each (slowest, median, fastest layer): with floats in and out over PyTorch's float32, and over the
    fastest of its rivals in float32, bfloat16 and int8; with bits in and out over that rival. ``unpaired``: those of the three that
    hold a quotient of two medians, and not medians over rounds alone."""

    core: str
    over_float32: tuple[float, float, float]
    over_best: tuple[float, float, float]
    bits_over_best: tuple[float, float, float]
    unpaired: tuple[str, ...] = ()

    def mark(self, name: str) -> str:
        """≈ where the field ``name`` holds a quotient of medians, else nothing."""
        return "≈" * (name in self.unpaired)

    def span(self, name: str) -> str:
        """From the slowest layer to the fastest, as text."""
        low, _, high = getattr(self, name)
        return f"{self.mark(name)}{times(low).rstrip('×')} to {times(high)}"


def of_each_cpu(folder: Path = FOLDER) -> list[Speedups]:
    """Of the newest benchmark record of each CPU in ``folder``, the newest first."""
    found = []
    for record in speed.newest(folder):
        layers = record["runs"][0]["layers"]
        spans, unpaired = {}, []
        for name, (rival, ours) in {
            "over_float32": (speed.eager_fp32, "channels_last"),
            "over_best": (speed.best_rival, "channels_last"),
            "bits_over_best": (speed.best_rival, "bits"),
        }.items():
            ratios = [speed.ratio(layer, rival(layer), ours) for layer in layers]
            medians = sorted(ratio.median for ratio in ratios)
            spans[name] = medians[0], statistics.median(medians), medians[-1]
            unpaired += [name] * (not all(ratio.paired for ratio in ratios))
        found.append(Speedups(speed.core(record), **spans, unpaired=tuple(unpaired)))
    return found


def times(value: float) -> str:
    """A factor as text: ``12×``, below 10 with one decimal, ``1.5×``."""
    return f"{value:.0f}×" if value >= 10 else f"{value:.1f}×"


def table(found: Sequence[Speedups]) -> str:
    """A Markdown table with a row for each core, and below it what it compares with."""
    rows = "\n".join(
        f"| {one.core} | {one.span('over_best')} | {one.span('bits_over_best')} | {one.span('over_float32')} |" for one in found
    )
    return (
        f"| core | over the best rival | the same, bits in and out | over float32 |\n|---|---|---|---|\n{rows}\n\n"
        "The best rival is the fastest in float32, bfloat16 or int8 on the same core; below 1× it is faster than ours."
        + " ≈: a ratio of median times." * any(one.unpaired for one in found)
    )
