"""How long chapters take: on this machine by their last execution, else by a record of another machine.

``bnn chapters times`` makes the record, ``results/chapters.json``, of the chapters in ``build/chapters/``.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pydantic

from bnnlib import records, storage
from bnnlib.book.chapters import solutions
from bnnlib.book.chapters.notebooks import ChapterError, sources
from bnnlib.book.chapters.values import PROFILES
from bnnlib.paths import ROOT


class Times(pydantic.BaseModel):
    """Seconds by profile and chapter, on a machine of ``cpus`` cores, by the code of a commit."""

    date: datetime.date
    cpu: str
    cpus: int = pydantic.Field(gt=0)
    commit: str
    seconds: Mapping[str, Mapping[str, float]]


def last_run(chapter: str, profile: str, root: Path = ROOT) -> float | None:
    """Seconds that the chapter last took in a profile on this machine, from papermill's metadata, or None."""
    path = root / "build" / "chapters" / profile / f"{chapter}.ipynb"
    try:
        return taken(nbformat.read(path, as_version=4))
    except (OSError, KeyError, ValueError):
        return None


def taken(notebook: nbformat.NotebookNode) -> float:
    """Seconds that an executed chapter took by papermill's metadata, less those of its solutions, which papermill alone does not run."""
    of_solutions = [cell.metadata["papermill"]["duration"] for cell in notebook.cells if solutions.is_one(cell)]
    return notebook.metadata["papermill"]["duration"] - sum(of_solutions)


def of_record(chapter: str, profile: str, root: Path = ROOT) -> tuple[float, str] | None:
    """Seconds of the record, and the machine in words; None where the record has none."""
    try:
        times = Times.model_validate_json(_path(root).read_bytes())
    except FileNotFoundError:
        return None
    except pydantic.ValidationError as error:
        raise ChapterError(f"{_path(root)} is no record of chapters' times ({error.errors()[0]['msg']}): bnn chapters times") from None
    seconds = times.seconds.get(profile, {}).get(chapter)
    return None if seconds is None else (seconds, f"{records.plain(times.cpu)}, {times.cpus} core{'s' * (times.cpus > 1)}")


def keep(profiles: list[str], root: Path = ROOT) -> Path:
    """Write the record, of every chapter that was executed in ``profiles`` in the checkout at ``root``. The path.

    Raises :class:`ChapterError` for an unknown profile, and where a chapter was not executed, so that a record is of one machine and whole.
    """
    for profile in profiles:
        if profile not in PROFILES:
            raise ChapterError(f"there is no profile {profile!r}: choose {', '.join(PROFILES)}")
    seconds = {profile: {path.stem: last_run(path.stem, profile, root) for path in sources(root)} for profile in profiles}
    for profile, of in seconds.items():
        lacking = [name for name, taken in of.items() if taken is None]
        if lacking:
            raise ChapterError(
                f"{', '.join(lacking)}: not executed in the profile {profile}; run `bnn chapters run --profile {profile} --jobs 1`"
            )
    times = Times(
        date=datetime.date.today(), cpu=records.cpu_name(), cpus=len(os.sched_getaffinity(0)), commit=records.commit().hash,
        seconds={profile: {name: round(taken, 1) for name, taken in of.items() if taken} for profile, of in seconds.items()},
    )  # fmt: skip
    storage.write_atomically(_path(root), times.model_dump_json(indent=1).encode() + b"\n")
    return _path(root)


def _path(root: Path) -> Path:
    return root / "results" / "chapters.json"
