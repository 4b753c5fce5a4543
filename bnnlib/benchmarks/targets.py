"""How a benchmark record stands against the targets.

Targets were set before anything was measured here, most of them for a CPU with AVX-512 VPOPCNTDQ;
:func:`targets` says of each whether a record meets it, misses it, or cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bnnlib.benchmarks.geometry import length, pointwise, sizes
from bnnlib.benchmarks.speed import best_rival, best_rungs, eager_fp32, limit_of, ratio, runs


@dataclass(frozen=True)
class Target:
    """``what`` should be at least ``goal`` (at most, for a time or a share of overhead); ``values``: each case
    measured. ``needs``: the variant that the target was set for, if it was set for one."""

    what: str
    goal: float
    values: tuple[float, ...]
    needs: str = ""
    at_most: bool = False
    unit: str = "x"

    @property
    def worst(self) -> float | None:
        return (max if self.at_most else min)(self.values) if self.values else None

    @property
    def met(self) -> bool | None:
        """None where the record cannot tell."""
        if self.worst is None:
            return None
        return self.worst <= self.goal if self.at_most else self.worst >= self.goal

    @property
    def range(self) -> str:
        """The measured cases: one number, or the lowest to the highest."""
        if not self.values:
            return "not measured"
        low, high = (f"{v:.3g}" for v in (min(self.values), max(self.values)))
        return f"{low} {self.unit}" if low == high else f"{low} to {high} {self.unit}"


def targets(record: dict) -> list[Target]:
    """Every target with what ``record`` has to say about it. Targets of another variant have no values."""
    one, many = runs(record)
    both = [one] + ([many] if many else [])
    layers = [layer for run in both for layer in run["layers"]]
    variant, limit = one["variant"], limit_of(one, one["variant"])

    def only(name: str, values: Iterable[float]) -> tuple[float, ...]:
        return tuple(values) if variant == name else ()

    def share(wanted) -> Iterable[float]:
        rows = [r for r in one["layers"] if wanted(r["layer"]) and "bits_macs_per_cycle" in r and limit]
        return (100 * r["bits_macs_per_cycle"] / limit for r in rows)

    def over(name: str, wanted=lambda layer: True, batch: int | None = None) -> Iterable[float]:
        rows = [r for r in layers if wanted(r["layer"]) and batch in (None, r["batch"])]
        return (ratio(r, eager_fp32(r), name).median for r in rows)

    def rival(*kinds: str, ours: str = "bits", wanted=lambda layer: True) -> Iterable[float]:
        pairs = [(r, best_rival(r, *kinds)) for r in layers if wanted(r["layer"])]
        return (ratio(r, found, ours).median for r, found in pairs if found)

    def square(layer: str) -> bool:
        return not pointwise(layer)

    big = [g for run in both for g in run["gemms"] if g["m"] == g["k"] == g["n"] == 4096]
    ladders = one.get("ladders", [])
    best = "avx512vpopcnt"
    packing = [
        100 * r["times"]["pack-channels_last"]["median_us"] / r["times"]["channels_last"]["median_us"]
        for r in one["layers"]
        if square(r["layer"]) and sizes(r["layer"])[0] >= 128
    ]
    scaling = [s["one_over_all"] for s in (many or {}).get("scaling", [])]
    compiled = record.get("import") or {}
    return [
        Target("share of the 1-bit limit, K >= 1152", 92, only(best, share(lambda n: length(n) >= 1152)), best, unit="%"),
        Target("share of the 1-bit limit, K = 576", 85, only(best, share(lambda n: length(n) == 576)), best, unit="%"),
        Target("share of the 1-bit limit, 1x1, K = 192", 70, only(best, share(pointwise)), best, unit="%"),
        Target("bits to bits over FP32, k x k", 18, only(best, over("bits", square)), best),
        Target("bits to bits over FP32, 1x1", 16, only(best, over("bits", pointwise)), best),
        Target("bits to bits over the best int8", 4.5, only(best, rival("int8")), best),
        Target("bits to bits over bfloat16", 7.5, only(best, rival("bf16")), best),
        Target("floats, channels_last, over FP32, k x k", 15, only(best, over("channels_last", square)), best),
        Target("floats, channels_last, over FP32, 1x1, batch 1", 10, only(best, over("channels_last", pointwise, 1)), best),
        Target("floats, channels_last, over FP32, 1x1, batch 16", 6, only(best, over("channels_last", pointwise, 16)), best),
        Target("floats, NCHW, over FP32, k x k", 14, only(best, over("nchw", square)), best),
        Target("matrix product 4096^3 over FP32", 23, only(best, (ratio(g, "fp32", "bits-in").median for g in big)), best),
        Target("AMX: share of the tiles' limit, K >= 1152", 60, only("amx", share(lambda n: length(n) >= 1152)), "amx", unit="%"),
        Target("AMX: bits to bits over the best int8, k x k", 1.5, only("amx", rival("int8", wanted=square)), "amx"),
        Target("AMX: floats, channels_last, over the best of bfloat16 and int8", 1, only("amx", rival("bf16", "int8", ours="channels_last")), "amx"),
        Target("AVX2: bits to bits over FP32", 7, only("avx2", over("bits")), "avx2"),
        Target("AVX2: products a cycle", 120, only("avx2", (r["bits_macs_per_cycle"] for r in one["layers"] if "bits_macs_per_cycle" in r)), "avx2", unit=""),
        Target("scalar: bits to bits over FP32", 3, tuple(r["fp32_over"]["scalar"] for r in ladders if "scalar" in r["fp32_over"])),
        Target("best variant over the one-word loop", 40, tuple(over for _, _, over in best_rungs(one))),
        Target("all threads over one", 1.9, tuple(scaling)),
        Target("packing's share of a k x k layer of 128 channels or more", 10, tuple(packing), at_most=True, unit="%"),
        Target("first import (compiles)", 15, (compiled["first_s"],) if compiled else (), at_most=True, unit="s"),
        Target("later imports", 0.5, (compiled["later_s"],) if compiled else (), at_most=True, unit="s"),
    ]  # fmt: skip
