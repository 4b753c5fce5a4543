"""How long a run has trained."""

from __future__ import annotations

import time


class Clock:
    """Seconds since it was made. ``cpu``: a run whose work is done by this process; then no more than its threads computed, so that a
    run on one thread counts neither where it was stopped nor where others had its core. (Several threads compute more than
    passes, so that only long gaps show.)"""

    def __init__(self, cpu: bool) -> None:
        self.cpu, self.began, self.computed = cpu, time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        passed = time.perf_counter() - self.began
        return min(passed, time.process_time() - self.computed) if self.cpu else passed
