"""How long a run has trained."""

from __future__ import annotations

import time


class Clock:
    """Seconds since it was made. ``cpu``: the run trains on a CPU; then less those in which its process got no processor, because it was
    stopped or others had it."""

    def __init__(self, cpu: bool) -> None:
        self.cpu, self.began, self.computed = cpu, time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        passed = time.perf_counter() - self.began
        # several threads compute more seconds than pass
        return min(passed, time.process_time() - self.computed) if self.cpu else passed
