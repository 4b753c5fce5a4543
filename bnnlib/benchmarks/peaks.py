"""What one core can do at most: products a second in registers, its clock, its memory."""

from __future__ import annotations

import contextlib
import os
import re
import time
from itertools import pairwise
from pathlib import Path

import torch

from bnnlib import native
from bnnlib.benchmarks.turns import alternate


def system_clock() -> float | None:
    """The frequency of the first CPU of this process in Hz, as the system tells it; a virtual machine's tells the nominal one."""
    first = min(os.sched_getaffinity(0))
    with contextlib.suppress(OSError):
        return 1e3 * float(Path(f"/sys/devices/system/cpu/cpu{first}/cpufreq/scaling_cur_freq").read_text())
    with contextlib.suppress(OSError, IndexError):
        told = re.findall(r"^processor\s*: (\d+)$|^cpu MHz\s*: ([\d.]+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        numbers = [number for number, _ in told if number]
        return 1e6 * [float(mhz) for _, mhz in told if mhz][numbers.index(str(first))]
    return None


TILES = "int8-amx"  # the limit of the unit that multiplies tiles


class TileUnit:
    """How fast the tiles of this core multiply from moment to moment: cores that two hardware threads share have one such
    unit, and a virtual machine's neighbour may use it. Pass :meth:`look` to :func:`bnnlib.benchmarks.turns.alternate` as
    ``between``."""

    def __init__(self) -> None:
        self._module = native.load()
        self._seen: list[float] = []
        self.here = any(name == TILES and supported for name, _, supported in self._module.limits())

    def look(self) -> None:
        """Measure it now, in some milliseconds: the best of many tries, since the unit and the clock have to wake up."""
        if self.here:
            tries = []
            for _ in range(30):
                started = time.perf_counter()
                products = self._module.run_limit(TILES, 4000)
                tries.append(products / (time.perf_counter() - started))
            self._seen.append(max(tries))

    def rounds(self) -> dict[str, list[int]]:
        """For a record: int8 products a second in each round, the lower of before and after it; nothing without such a unit."""
        return {"tiles_per_second": [round(min(pair)) for pair in pairwise(self._seen)]} if self.here else {}


def measure_peaks(rounds: int) -> dict:
    """Products a second and a cycle of one core in registers; its clock in Hz by a chain of dependent instructions, and what a
    second chain, the time stamp counter and the system say it is."""
    module = native.load()
    usable = {name: what for name, what, supported in module.limits() if supported}
    best = dict.fromkeys(usable, 0.0)
    system = []
    for _ in range(rounds):
        for name in usable:
            started = time.perf_counter()
            products = module.run_limit(name, 200_000)
            best[name] = max(best[name], products / (time.perf_counter() - started))
            if name == "clock":
                system.append(system_clock())
    clock = best.pop("clock")
    others = {name.removeprefix("clock-"): best.pop(name) for name in usable if name.startswith("clock-")}
    if all(system):
        others["system"] = max(system)
    source = torch.ones(8 << 20)  # 32 MB: beyond the cache that one core has
    target = torch.empty_like(source)
    copied = alternate({"copy": lambda: target.copy_(source)}, rounds)["copy"]
    return {
        "clock_hz": round(clock),
        "other_clocks_hz": {name: round(hz) for name, hz in others.items()},
        "memory_bytes_per_second": round(2 * 4 * source.numel() / min(copied)),
        "units": {
            n: {"what": usable[n], "per_second": round(r), "per_cycle": round(r / clock, 1)}
            for n, r in best.items()
        },
    }
