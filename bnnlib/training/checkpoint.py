"""Checkpoints of a training run, written whole or not at all, in a run folder that one process at a time may
use.

The run folder lies outside the checkout: ``$BNN_RUNS``, else the user's cache folder.
"""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from bnnlib.records import write_atomically


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used, with the file and the way out."""


class RunBusy(RuntimeError):
    """Another process trains in this run folder."""


def runs_folder(folder: Path | None = None) -> Path:
    """Where run folders go: the argument, ``$BNN_RUNS``, or ``<user's cache>/bnnlib/runs``."""
    if folder is not None:
        return Path(folder)
    if os.environ.get("BNN_RUNS"):
        return Path(os.environ["BNN_RUNS"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnnlib" / "runs"


class Lock:
    """Holds ``folder`` for this process; a second process gets :class:`RunBusy`. Freed when the process
    ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / "lock", "a+")  # noqa: SIM115  (held open as long as the lock is)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            self._file.close()
            raise RunBusy(
                f"process {pid} is training in {folder}: wait for it, stop it, or give another folder with --runs"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts) to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    """The state in ``path``, or None where there is no file.

    ``expected`` must be found in the state as it is (recipe hash, seed, ...). Raises
    :class:`CheckpointError` for a file that is damaged or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        OSError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} is damaged ({reason}): restore it, or start this run anew with --restart"
        ) from None
    for key, value in expected.items():
        if state.get(key) != value:
            raise CheckpointError(
                f"checkpoint {path} belongs to another run: its {key} is {state.get(key)!r}, this run's is {value!r}; "
                "start anew with --restart, or give another folder with --runs"
            )
    return state
