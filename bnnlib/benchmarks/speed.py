"""What the benchmark records say: the newest one of each CPU, its limits, its clock, and how long one contender takes
beside another (:func:`ratio`, the one definition of a ratio in this book).

Records are written by ``python -m bnnlib.bench``; the chapter "One bit at a time" reads them through this
module.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.geometry import words
from bnnlib.benchmarks.record import FOLDER

KINDS = ("float32", "bfloat16", "int8", "1 bit")  # ways to multiply, as kernels/measure/peaks.h names them
# the limit in kernels/measure/peaks.h of what a variant's inner loop does
LIMIT_OF = {
    "amx": "int8-amx",
    "avx512vpopcnt": "popcount-avx512",
    "avx2": "pair-table-avx2",
    "scalar": "popcount-scalar",
}
RIVALS = ("fp32", "bf16", "int8")  # a contender of these kinds, in PyTorch or in ONNX Runtime, is not ours
# what multiplies in a core, and the limits in kernels/measure/peaks.h that show how much it does
UNITS = {
    "float32, FMA": ("fma-avx512", "fma-avx2"),
    "bfloat16, dot product": ("bf16-avx512",),
    "int8, dot product": ("int8-avx512", "int8-avx2-vnni", "int8-avx2"),
    "bfloat16, tiles": ("bf16-amx",),
    "int8, tiles": ("int8-amx",),
    "1 bit, xor and count": ("popcount-avx512", "pair-table-avx2", "popcount-scalar"),
}
# cores by family and model of the CPU
CORES = {
    (25, 1): "Zen 3", (25, 17): "Zen 4", (26, 2): "Zen 5", (26, 17): "Zen 5",
    (6, 143): "Sapphire Rapids", (6, 207): "Emerald Rapids", (6, 173): "Granite Rapids",
}  # fmt: skip
CLOCKS_DIFFER = 0.05  # two clocks that differ by more are said to disagree


def newest(folder: Path = FOLDER) -> list[dict]:
    """The newest whole record of the kernels of each CPU, newest first. Raises :class:`bnnlib.benchmarks.record.BenchError` for
    a damaged file and for one of an older version."""
    paths = [path for path in folder.glob("*.json") if not path.name.startswith(("deploy-", "gpu-", "training-"))]  # of other benchmarks
    found = bench_record.newest_of_each(paths)
    for one in found:
        if not one["runs"] or not all({"layers", "gemms", "peaks"} <= set(run) for run in one["runs"]):
            cpu = one["environment"]["cpu"]
            raise bench_record.BenchError(f"the record of {cpu} in {folder} is no whole one of this version: run make bench again")
    return found


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


FEW = 5  # of fewer rounds no quartiles are told


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another: over rounds, the median of the ratio within a round, and its
    quartiles. Fewer than :data:`FEW` rounds have no ``quartiles``, nor have records from before rounds were kept; where
    those lack the pair altogether, ``median`` is the ratio of the two medians, and ``paired`` is false."""

    median: float
    quartiles: tuple[float, float] | None = None
    paired: bool = True

    def __str__(self) -> str:
        """
        >>> print(Ratio(2.04, (1.98, 2.11)), Ratio(2.04), Ratio(2.04, paired=False))
        2.04× (1.98–2.11) 2.04× ≈2.04×
        """
        spread = " ({}–{})".format(*map(_digits, self.quartiles)) if self.quartiles else ""
        return f"{'' if self.paired else '≈'}{_digits(self.median)}×{spread}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def paired(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """The ratio of two contenders from their times, a list over rounds each. The shorter list holds the first rounds: a
    contender that is far behind does not run in all of them.

    >>> paired([2.0, 9.0, 4.0], [1.0, 1.0, 2.0]).median
    2.0
    """
    ratios = [a / b for a, b in zip(slow, fast, strict=False)]
    if len(ratios) < FEW:
        return Ratio(statistics.median(ratios))
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(statistics.median(ratios), (low, high))


def ratio(case: dict, slow: str, fast: str) -> Ratio:
    """How many times as long ``slow`` takes as ``fast`` in one case of a record: a layer, a matrix product or a network."""
    a, b = case["times"][slow], case["times"][fast]
    if "rounds_us" in a and "rounds_us" in b:
        return paired(a["rounds_us"], b["rounds_us"])
    stored = _stored(case, slow, fast)
    return Ratio(a["median_us"] / b["median_us"], paired=False) if stored is None else Ratio(stored)


SHARED = 0.7  # tiles that multiply at less than this part of their best rate are shared with somebody


def by_tiles(case: dict, best: float = 0.0) -> dict[str, dict]:
    """A case cut into its rounds in which the core's tiles were its own (``"alone"``) and those in which somebody else used
    the unit too (``"shared"``): each a case of those rounds, without contenders that ran in none of them. Empty where the
    rounds do not say; one state alone where the other did not occur. ``best``: the highest rate of the tiles known, int8
    products a second, where it may be higher than in any of these rounds."""
    rates = case.get("tiles_per_second")
    if not rates:
        return {}
    limit = SHARED * max(best, *rates)
    own = [rate >= limit for rate in rates]
    return {
        name: _of_rounds(case, [each == state for each in own])
        for name, state in (("alone", True), ("shared", False))
        if state in own
    }


def split(run: dict) -> list[dict[str, dict]]:
    """Every layer of a run by :func:`by_tiles`, against the best rate of the tiles that the run knows."""
    best = run["peaks"]["units"].get(LIMIT_OF["amx"], {}).get("per_second", 0.0)
    return [by_tiles(case, best) for case in run["layers"]]


def states(run: dict) -> dict[str, int]:
    """Rounds of all layers of a run in which the tiles were ``"alone"`` and ``"shared"``; empty where it does not say."""
    found: dict[str, int] = {}
    for cases in split(run):
        for state, case in cases.items():
            found[state] = found.get(state, 0) + case["rounds"]
    return {state: found.get(state, 0) for state in ("alone", "shared")} if found else {}


def counted_faster(run: dict) -> dict[str, tuple[int, int]]:
    """Layers of a run on which our kernel that counts bits takes less time than the default one, of how many: over ``"all"``
    rounds, over those ``"alone"`` and over the ``"shared"`` ones, where a layer has such. Empty where it was not measured."""
    found: dict[str, tuple[int, int]] = {}
    for whole, cases in zip(run["layers"], split(run), strict=True):
        for state, case in {"all": whole, **cases}.items():
            if "bits-counted" in case["times"]:
                faster, of = found.get(state, (0, 0))
                found[state] = (faster + (ratio(case, "bits-counted", "bits").median < 1), of + 1)
    return found


def measures_choice(run: dict) -> bool:
    """Whether the kernels of a run chose by the times of their calls between multiplying bytes and counting bits, and not by
    an estimate alone, as those of older records did."""
    return run.get("choice") == "measured"


def _of_rounds(case: dict, wanted: Sequence[bool]) -> dict:
    """``case`` with the times of some of its rounds."""
    found = {}
    for name, times in case["times"].items():
        rounds = [us for us, want in zip(times["rounds_us"], wanted, strict=False) if want]
        if rounds:
            found[name] = {"median_us": statistics.median(rounds), "best_us": min(rounds), "rounds_us": rounds}
    return {**case, "times": found, "rounds": sum(wanted)}


def _stored(case: dict, slow: str, fast: str) -> float | None:
    """The median of paired ratios as records without rounds keep it, for the pairs that they keep."""
    if "over" in case:  # a network
        return case["over"].get(fast, {}).get(slow)
    if slow == eager_fp32(case):
        return case.get("fp32_over", {}).get(fast)
    int8 = [name for name in case["times"] if kind(name) == "int8"]
    if fast == "bits" and slow == fastest(case, int8):
        return case.get("best_int8_over_bits")
    return case.get("bf16_over_bits") if (slow, fast) == ("bf16", "bits") else None


def kind(contender: str) -> str:
    """One of :data:`RIVALS`, or nothing for what is ours.

    >>> kind("onnx-int8"), kind("fp32-nchw"), kind("bits")
    ('int8', 'fp32', '')
    """
    name = contender.removeprefix("onnx-")
    return next((one for one in RIVALS if name.startswith(one)), "")


def fastest(case: dict, names: Iterable[str]) -> str | None:
    """The contender among ``names`` with the lowest median, None of none. Two are compared over the rounds that both ran: one
    that is far behind runs in the first rounds only."""
    rounds = {name: case["times"][name].get("rounds_us", ()) for name in names}
    best = None
    for name in sorted(rounds, key=lambda name: -len(rounds[name])):
        if best is None or _median(case, name, rounds[best]) < _median(case, best, rounds[name]):
            best = name
    return best


def _median(case: dict, name: str, other: Sequence[float]) -> float:
    """The median time of a contender over its rounds in which another ran too, by the rounds of that one."""
    times = case["times"][name]
    common = times.get("rounds_us", ())[: len(other)]
    return statistics.median(common) if common else times["median_us"]


def eager_fp32(case: dict) -> str | None:
    """PyTorch's float32 as most people call it: of a layer the faster of the two layouts."""
    return fastest(case, [name for name in ("fp32", "fp32-nchw", "fp32-channels_last") if name in case["times"]])


def best_rival(case: dict, *kinds: str) -> str | None:
    """The fastest contender that is not ours, of these kinds (of all, if none is named); None if none was measured."""
    return fastest(case, [name for name in case["times"] if kind(name) in (kinds or RIVALS)])


def not_measured(cases: Sequence[dict]) -> list[str]:
    """What PyTorch ran in none of ``cases``, of what it can be a best rival in.

    >>> not_measured([{"times": {"fp32-nchw": {}, "bf16": {}, "onnx-int8": {}}}])
    ['int8', 'compiled']
    """
    there = {name for case in cases for name in case["times"] if kind(name) and not name.startswith("onnx-")}
    ways = {"bf16": "bf16", "int8": "int8", "compiled": "-compile"}
    return [way for way, part in ways.items() if not any(part in name for name in there)]


def clocks(peaks: dict) -> dict[str, float]:
    """Every clock that the record has, in Hz: ``chain`` is the one that "a cycle" goes by."""
    return {"chain": peaks["clock_hz"], **peaks.get("other_clocks_hz", {})}


def clocks_that_differ(peaks: dict) -> dict[str, float]:
    """Of the other clocks, those that disagree with the chain's, as a factor of it."""
    found = {name: hz / peaks["clock_hz"] for name, hz in clocks(peaks).items()}
    return {name: factor for name, factor in found.items() if abs(factor - 1) > CLOCKS_DIFFER}


def core(record: dict) -> str:
    """The name of the CPU's core where :data:`CORES` has it, else the CPU's own name."""
    return named(record["environment"]["cpu"])


def named(cpu: str) -> str:
    """A CPU by the name of its core, where :data:`CORES` has it.

    >>> named("AMD EPYC family 25 model 17"), named("AMD EPYC")
    ('Zen 4', 'AMD EPYC')
    """
    found = re.search(r"family (\d+) model (\d+)$", cpu)
    return CORES.get(tuple(map(int, found.groups())), cpu) if found else cpu


def origins(records: Iterable[dict], part: str = "") -> str:
    """Where the numbers of several records come from, for a caption: of each the core, the CPU, the date, and in how many rounds
    the cases of ``part`` ("layers" of kernels, "cases" of networks) were measured."""
    return "; ".join(f"{core(r)}: {bench_record.origin(r, runs(r)[0][part] if part else ())}" for r in records)


def per_cycle(record: dict) -> dict[str, float]:
    """Products that each of :data:`UNITS` does in a cycle of one core; a unit that the CPU lacks is left out."""
    measured = record["runs"][0]["peaks"]["units"]
    found = {unit: [measured[n]["per_cycle"] for n in names if n in measured] for unit, names in UNITS.items()}
    return {unit: max(values) for unit, values in found.items() if values}


def bound(units: dict[str, float]) -> tuple[str, float]:
    """The fastest unit that does not count bits, and how many times as much the counting of bits does: the most that a kernel
    which counts can gain on this core over a perfect one of that unit."""
    *others, bits = UNITS
    fastest = max((unit for unit in others if unit in units), key=units.__getitem__)
    return fastest, units[bits] / units[fastest]


def limit_of(run: dict, variant: str) -> float | None:
    """Products a cycle of the unit that a variant's inner loop uses; None where no limit of it was measured."""
    return run["peaks"]["units"].get(LIMIT_OF.get(variant, ""), {}).get("per_cycle")


def shares(run: dict, state: str | None = None) -> list[float]:
    """Of each layer of a run on one thread, bits to bits: the part that it reaches of the limit of its variant, in per cent.
    ``state``: over rounds of that state of the tiles, of the layers that have such (:func:`by_tiles`)."""
    limit = limit_of(run, run["variant"])
    layers = [r for r in run["layers"] if limit and "bits_macs_per_cycle" in r]
    if state is None:
        return [100 * r["bits_macs_per_cycle"] / limit for r in layers]
    cases = [cases[state] for cases in split({**run, "layers": layers}) if state in cases]
    clock = run["peaks"]["clock_hz"] / 1e6
    return [100 * case["macs"] / (case["times"]["bits"]["median_us"] * clock) / limit for case in cases]


def best_rungs(run: dict) -> list[tuple[str, str, float]]:
    """Of each ladder of a run: its layer, the fastest variant on it, and how many times as fast that is as the plain loop."""
    found = []
    for ladder in run.get("ladders", []):
        rung = max(ladder["one_word_over"], key=ladder["one_word_over"].__getitem__)
        found.append((ladder["layer"], rung, ladder["one_word_over"][rung]))
    return found



def loop_cycles(run: dict) -> list[float]:
    """Cycles that the plain loop takes for a word, on the layer of each ladder of a run on one thread."""
    clock = run["peaks"]["clock_hz"] / 1e6
    return [ladder["times"]["one-word"]["median_us"] * clock / words(ladder["layer"]) for ladder in run.get("ladders", [])]


def packing_of_added(run: dict, batch: int) -> float | None:
    """Packing's part of the time that floats in and out add to bits in and out, in per cent, over all layers of a batch; None
    where no layer was measured at that batch, or floats add nothing."""
    times = [{name: t["median_us"] for name, t in r["times"].items()} for r in run["layers"] if r["batch"] == batch]
    added = sum(t["channels_last"] - t["bits"] for t in times)
    return 100 * sum(t["pack-channels_last"] for t in times) / added if added > 0 else None
