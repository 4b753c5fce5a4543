"""What every benchmark record holds, and how it is read and written.

A record is a JSON file: the environment, and one run for each number of threads. What a run holds beside ``threads`` is
the business of the module that measured it.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pydantic
import torch

from bnnlib import native, records, storage
from bnnlib.benchmarks import BenchError
from bnnlib.paths import RESULTS

FOLDER = RESULTS / "bench"


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
    commit = records.commit()
    return Environment(
        cpu=records.cpu_name(),
        cpus=len(os.sched_getaffinity(0)),
        machine=platform.machine(),
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        compiler=native.version(native.compiler()),
        variants=[tuple(variant) for variant in native.load().variants()],
        commit=commit.hash,
        dirty=commit.dirty,
        load_average=os.getloadavg(),
    ).model_dump(mode="json")


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


def rounds(cases: Iterable[dict]) -> str:
    """In how many rounds cases of a record were measured, in words; the most that any contender of a case ran.

    >>> rounds([{"times": {"bits": {"rounds_us": [1.0] * 21}}}, {"times": {"bits": {"rounds_us": [1.0] * 3}}}])
    '3 or 21 rounds'
    >>> rounds([{"times": {"bits": {"median_us": 1.0}}}])
    'single rounds not kept'
    """
    counts = {max((len(t.get("rounds_us", ())) for t in case["times"].values()), default=0) for case in cases} - {0}
    return f"{' or '.join(map(str, sorted(counts)))} rounds" if counts else "single rounds not kept"


def origin(record: dict, cases: Iterable[dict] = ()) -> str:
    """Where numbers come from, for the caption of a table: the CPU, the date, and in how many rounds ``cases`` were measured."""
    cases = list(cases)
    told = [record["environment"]["cpu"], record["date"], *([rounds(cases)] if cases else [])]
    return ", ".join(told)
