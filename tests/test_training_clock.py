"""How long a run has trained, of clocks that the tests set."""

import time

import pytest

from bnnlib.training.clock import Clock


@pytest.mark.parametrize(
    ("cpu", "passed", "computed", "seconds"),
    [
        (True, 60, 10, 10),  # stopped for 50 seconds, or on a core that it shares
        (True, 10, 19, 10),  # two threads
        (False, 60, 10, 60),  # a GPU computes while the processor waits
    ],
)
def test_seconds(monkeypatch, cpu, passed, computed, seconds):
    now = {"passed": 100.0, "computed": 5.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["passed"])
    monkeypatch.setattr(time, "process_time", lambda: now["computed"])
    clock = Clock(cpu)
    now["passed"] += passed
    now["computed"] += computed
    assert clock.seconds() == seconds
