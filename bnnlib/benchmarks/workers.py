"""Processes that measure: a module of the library as a program of its own, on CPUs and threads of its own.

Three ways lead here. A benchmark measures once for each number of threads (:func:`on_threads`); the peak of memory is that
of a fresh process (:func:`answer`); ONNX Runtime waits for its turn in a process of its own (:func:`start`, from
:class:`bnnlib.benchmarks.onnx_runtime.Peer`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnnlib.benchmarks import BenchError


def start(
    module: str, *arguments: str, cpus: Sequence[int] | None = None, settings: Mapping[str, str] | None = None, **pipes: Any
) -> subprocess.Popen:
    """``python -m module arguments``, started.

    cpus: those that it is pinned to; by default those of this process. settings: environment variables beside this
    process's. pipes: ``stdin``, ``stdout``, ``stderr`` as ``subprocess.Popen`` takes them; they carry text.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **(settings or {})},
        # not by itself: this process's OpenMP may have bound it to the first
        preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
        cwd=Path(__file__).resolve().parents[2],  # where the library is
        text=True,
        **pipes,
    )


def answer(
    module: str, *arguments: str, cpus: Sequence[int] | None = None, settings: Mapping[str, str] | None = None
) -> Any:
    """What the last line says, as JSON, that ``python -m module arguments`` prints; see :func:`start`. Raises
    :class:`BenchError` with the process's last words where it fails, or prints no JSON."""
    process = start(module, *arguments, cpus=cpus, settings=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        said, complaint = process.communicate()
    try:
        if process.returncode == 0:
            return json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        complaint = f"its last line is no JSON: {said[-200:]!r}"
    words = complaint.strip()[-500:] or f"exit status {process.returncode}"
    raise BenchError(f"{' '.join(['-m', module, *arguments])} failed: {words}")


def on_threads(module: str, threads: int, *options: str) -> dict[str, Any]:
    """What ``python -m module --worker CPUS options`` answers, pinned to as many CPUs as ``threads``: where threads go is
    read when the OpenMP runtime starts, and no later. Raises :class:`BenchError`."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    settings = {"OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "true", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return answer(module, "--worker", ",".join(map(str, cpus)), *options, cpus=cpus, settings=settings)
