"""What every benchmark record holds, how it is read and written, and the process that measures.

A record is a JSON file: the environment, and one run for each number of threads. What a run holds beside ``threads`` is
the business of the module that measured it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pydantic
import torch

from bnnlib import records, storage
from bnnlib.ops import _build
from bnnlib.paths import RESULTS

FOLDER = RESULTS / "bench"


class BenchError(Exception):
    """A record that cannot be used, or a measurement that failed; the message says what to do."""


class Environment(pydantic.BaseModel):
    """The machine and the software of a measurement. ``cpus``: those that the process may use; ``variants``: name, needs,
    and whether this CPU runs it; ``dirty``: whether the tree differed from ``commit`` (None: not recorded)."""

    model_config = pydantic.ConfigDict(extra="ignore")

    cpu: str
    cpus: int = 1
    machine: str = ""
    system: str = ""
    python: str = ""
    torch: str = ""
    compiler: str = ""
    variants: list[tuple[str, str, bool]] = []
    commit: str = ""
    dirty: bool | None = None
    load_average: tuple[float, float, float] | None = None

    @pydantic.field_validator("cpu")
    @classmethod
    def _plain(cls, value: str) -> str:
        return records.plain(value)


class Run(pydantic.BaseModel):
    """What one process measured on ``threads`` threads."""

    model_config = pydantic.ConfigDict(extra="allow")

    threads: int


class Record(pydantic.BaseModel):
    """A benchmark record. Raises ``pydantic.ValidationError`` for what is none."""

    model_config = pydantic.ConfigDict(extra="allow")

    date: date
    environment: Environment
    quick: bool = False
    runs: list[Run] = []


def environment() -> dict[str, Any]:
    """This machine and software, as :class:`Environment` has it."""
    compiler = subprocess.run([os.environ.get("CXX", "g++"), "--version"], capture_output=True, text=True).stdout.splitlines()
    commit = records.commit()
    return Environment(
        cpu=records.cpu_name(),
        cpus=len(os.sched_getaffinity(0)),
        machine=platform.machine(),
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        compiler=compiler[0] if compiler else "",
        variants=[tuple(variant) for variant in _build.load().variants()],
        commit=commit.hash,
        dirty=commit.dirty,
        load_average=os.getloadavg(),
    ).model_dump(mode="json")


def work(module: str, threads: int, *options: str) -> dict[str, Any]:
    """What ``python -m module --worker CPUS options`` prints as JSON, run in a process of its own that is pinned to as many
    CPUs as ``threads``: where threads go is read when the OpenMP runtime starts, and no later. Raises :class:`BenchError`."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    done = subprocess.run(
        [sys.executable, "-m", module, "--worker", ",".join(map(str, cpus)), *options],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "true", "TORCHINDUCTOR_COMPILE_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    if done.returncode:
        raise BenchError(f"the measurement on {threads} thread(s) failed (its own words are above)")
    return json.loads(done.stdout.splitlines()[-1])


def write(record: dict[str, Any], folder: Path, prefix: str = "") -> Path:
    """Write ``record`` as ``<prefix><cpu>-<date>.json`` into ``folder``; the path."""
    cpu = re.sub(r"[^a-z0-9]+", "-", record["environment"]["cpu"].lower()).strip("-")
    path = folder / f"{prefix}{cpu}-{record['date']}.json"
    storage.write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def read(path: Path) -> dict[str, Any]:
    """One record. Raises :class:`BenchError` that names a file which is none."""
    try:
        return Record.model_validate_json(path.read_bytes()).model_dump(mode="json")
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise BenchError(f"{path} is no benchmark record ({place or 'JSON'}: {first['msg']}): run make bench again") from None


def newest_of_each(paths: list[Path]) -> list[dict[str, Any]]:
    """The newest record of each CPU among ``paths``, newest first (of one day by the CPU's name); quick ones are left out."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(paths):
        record = read(path)
        cpu = record["environment"]["cpu"]
        if not record["quick"] and (cpu not in found or found[cpu]["date"] <= record["date"]):
            found[cpu] = record
    return sorted(found.values(), key=lambda record: (record["date"], record["environment"]["cpu"]), reverse=True)
