"""What the benchmark records say: the newest one of each CPU, its limits, and how it stands against the
targets.

Records are written by ``python -m bnnlib.bench``; the chapter "One bit at a time" reads them through this
module. Targets were set before anything was measured here, most of them for a CPU with AVX-512 VPOPCNTDQ;
:func:`targets` says of each whether a record meets it, misses it, or cannot tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnnlib.paths import RESULTS

FOLDER = RESULTS / "bench"
KINDS = ("float32", "bfloat16", "int8", "1 bit")  # ways to multiply, as kernels/measure/peaks.h names them
# the limit in kernels/measure/peaks.h of what a variant's inner loop does
LIMIT_OF = {
    "avx512vpopcnt": "popcount-avx512",
    "avx2": "pair-table-avx2",
    "scalar": "popcount-scalar",
}


class SpeedError(Exception):
    """A benchmark record that cannot be used; the message says what to do."""


def newest(folder: Path = FOLDER) -> list[dict]:
    """The newest whole record of each CPU, newest first (of one day by name). Raises :class:`SpeedError` for a damaged file."""
    found: dict[str, dict] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("deploy-"):  # whole networks: bnnlib.bench_deploy reads them
            continue
        try:
            record = json.loads(path.read_text())
            cpu, day = record["environment"]["cpu"], record["date"]
            if record["quick"] or not all({"layers", "gemms", "peaks"} <= set(run) for run in record["runs"]):
                raise SpeedError(f"{path} is no whole record of this version: run make bench again")
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise SpeedError(f"{path} is no benchmark record ({error!r}): run make bench again") from None
        if cpu not in found or found[cpu]["date"] <= day:
            found[cpu] = record
    return sorted(found.values(), key=lambda record: (record["date"], record["environment"]["cpu"]), reverse=True)


def runs(record: dict) -> tuple[dict, dict | None]:
    """The run on one thread, and the one on all threads if there is one."""
    one, *more = record["runs"]
    return one, more[-1] if more else None


def limits(record: dict) -> dict[str, dict]:
    """For each of :data:`KINDS` that the CPU has, its fastest unit: ``what``, ``per_second``, ``per_cycle``."""
    best: dict[str, dict] = {}
    for unit in record["runs"][0]["peaks"]["units"].values():
        kind = unit["what"].partition(",")[0]
        if kind not in best or unit["per_second"] > best[kind]["per_second"]:
            best[kind] = unit
    return {kind: best[kind] for kind in KINDS if kind in best}


def sizes(layer: str) -> tuple[int, int, int, int]:
    """Channels in and out, kernel and side of a layer, from its name in the records.

    >>> sizes("128->256 3x3 @16")
    (128, 256, 3, 16)
    """
    c, o, k, _, side = map(int, re.findall(r"\d+", layer))
    return c, o, k, side


def length(layer: str) -> int:
    """K, the products in one output of a layer.

    >>> length("128->256 3x3 @16")
    1152
    """
    c, _, k, _ = sizes(layer)
    return c * k * k


def intensity(layer: str, batch: int, bits: int) -> float:
    """Products a byte that has to be moved: input, weights and output, each once, of ``bits`` a number.

    >>> intensity("64->64 1x1 @8", 1, 8)
    21.333333333333332
    """
    c, o, k, side = sizes(layer)
    moved = batch * side * side * (c + o) + c * o * k * k
    return batch * side * side * c * o * k * k / (moved * bits / 8)


def pointwise(layer: str) -> bool:
    return "1x1" in layer


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
    variant, units = one["variant"], one["peaks"]["units"]
    limit = units.get(LIMIT_OF.get(variant, ""), {}).get("per_cycle")

    def only(name: str, values: Iterable[float]) -> tuple[float, ...]:
        return tuple(values) if variant == name else ()

    def share(wanted) -> Iterable[float]:
        rows = [r for r in one["layers"] if wanted(r["layer"]) and "bits_macs_per_cycle" in r and limit]
        return (100 * r["bits_macs_per_cycle"] / limit for r in rows)

    def over(name: str, wanted=lambda layer: True, batch: int | None = None) -> Iterable[float]:
        rows = [r for r in layers if wanted(r["layer"]) and batch in (None, r["batch"])]
        return (r["fp32_over"][name] for r in rows)

    def square(layer: str) -> bool:
        return not pointwise(layer)

    big = [g for run in both for g in run["gemms"] if g["m"] == g["k"] == g["n"] == 4096]
    ladders = one.get("ladders", [])
    best = "avx512vpopcnt"
    packing = [
        100 * r["times"]["pack-channels_last"]["median_us"] / r["times"]["channels_last"]["median_us"]
        for r in one["layers"]
        if square(r["layer"]) and r["layer"].startswith(("128", "256", "512"))
    ]
    scaling = [s["one_over_all"] for s in (many or {}).get("scaling", [])]
    compiled = record.get("import") or {}
    return [
        Target("share of the 1-bit limit, K >= 1152", 92, only(best, share(lambda n: length(n) >= 1152)), best, unit="%"),
        Target("share of the 1-bit limit, K = 576", 85, only(best, share(lambda n: length(n) == 576)), best, unit="%"),
        Target("share of the 1-bit limit, 1x1, K = 192", 70, only(best, share(pointwise)), best, unit="%"),
        Target("bits to bits over FP32, k x k", 18, only(best, over("bits", square)), best),
        Target("bits to bits over FP32, 1x1", 16, only(best, over("bits", pointwise)), best),
        Target("bits to bits over the best int8", 4.5, only(best, (r["best_int8_over_bits"] for r in layers if "best_int8_over_bits" in r)), best),
        Target("bits to bits over bfloat16", 7.5, only(best, (r["bf16_over_bits"] for r in layers if "bf16_over_bits" in r)), best),
        Target("floats, channels_last, over FP32, k x k", 15, only(best, over("channels_last", square)), best),
        Target("floats, channels_last, over FP32, 1x1, batch 1", 10, only(best, over("channels_last", pointwise, 1)), best),
        Target("floats, channels_last, over FP32, 1x1, batch 16", 6, only(best, over("channels_last", pointwise, 16)), best),
        Target("floats, NCHW, over FP32, k x k", 14, only(best, over("nchw", square)), best),
        Target("matrix product 4096^3 over FP32", 23, only(best, (g["fp32_over"]["bits-in"] for g in big)), best),
        Target("AVX2: bits to bits over FP32", 7, only("avx2", over("bits")), "avx2"),
        Target("AVX2: products a cycle", 120, only("avx2", (r["bits_macs_per_cycle"] for r in one["layers"] if "bits_macs_per_cycle" in r)), "avx2", unit=""),
        Target("scalar: bits to bits over FP32", 3, tuple(r["fp32_over"]["scalar"] for r in ladders if "scalar" in r["fp32_over"])),
        Target("best variant over the one-word loop", 40, tuple(r["one_word_over"][variant] for r in ladders if variant in r["one_word_over"])),
        Target("all threads over one", 1.9, tuple(scaling)),
        Target("packing's share of a k x k layer", 10, tuple(packing), at_most=True, unit="%"),
        Target("first import (compiles)", 15, (compiled["first_s"],) if compiled else (), at_most=True, unit="s"),
        Target("later imports", 0.5, (compiled["later_s"],) if compiled else (), at_most=True, unit="s"),
    ]  # fmt: skip
