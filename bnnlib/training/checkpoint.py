"""Checkpoints of a training run, written whole or not at all, in a run folder that one process at a time may
use.

The run folder lies outside the checkout: ``$BNN_RUNS``, else the user's cache folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bnnlib.storage import remove_leftovers, write_atomically
from bnnlib.training.status import runs_folder

__all__ = ["CheckpointError", "Lock", "RunBusy", "damaged", "load", "runs_folder", "save"]

# what an error advises: the option of the command line, and the argument of `loop.train`
RESTART = "--restart (in Python restart=True)"
RUNS = "--runs (in Python runs=)"
ACCEPT = "--accept-changed-code (in Python accept_changed_code=True)"
_MARK = b"\nbnnlib sha256 "


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used, with the file and the way out."""


class RunBusy(RuntimeError):
    """Another process trains in this run folder."""


class Lock:
    """Holds ``folder`` for this process; a second process gets :class:`RunBusy`. Freed when the process
    ends, however it ends. Removes what a killed run left half-written."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = _open_lock(folder / "lock")
        except OSError as error:
            raise CheckpointError(f"the run folder {folder} cannot be written ({error.strerror}): give another with {RUNS}") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(self._handle, 0)
            os.pwrite(self._handle, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            pid = os.pread(self._handle, 20, 0).decode("ascii", "replace").strip()
            os.close(self._handle)
            raise RunBusy(
                f"process {pid if pid.isdigit() else 'unknown'} is training in {folder}: wait for it, stop it, or give "
                f"another folder with {RUNS}"
            ) from None
        except OSError as error:
            os.close(self._handle)
            error.filename = str(folder / "lock")
            raise
        for name in ("checkpoint.pt", "model.safetensors", "record.json", "status.json"):
            remove_leftovers(folder, f".{name}.")

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        handle, self._handle = getattr(self, "_handle", -1), -1
        if handle >= 0:
            with contextlib.suppress(OSError):
                os.close(handle)


def _open_lock(path: Path) -> int:
    """The lock file, made where there is none. A link, or a file with a second name, is refused: its target would be
    overwritten."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CheckpointError(f"the lock {path} is a link: remove it, or give another folder with {RUNS}") from None
        raise
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        os.close(handle)
        raise CheckpointError(
            f"the lock {path} is no file of its own: remove it, or give another folder with {RUNS}"
        )
    return handle


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts) to ``path``, whole or not at all: PyTorch's file
    (``torch.load`` reads it) and behind it the SHA-256 of its bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(_MARK + digest.encode())
    write_atomically(path, buffer.getbuffer())


def load(
    path: Path, expected: dict[str, Any], why: Callable[[dict[str, Any], str], str | None] = lambda state, key: None
) -> dict[str, Any] | None:
    """The state in ``path``, or None where there is no file.

    ``expected`` must be found in the state as it is (recipe hash, seed, ...); ``why`` says of a state and a key in words how they
    differ, or None. Raises
    :class:`CheckpointError` for a file that is damaged or belongs to another run. A file without the digest, as
    earlier versions wrote it, is read if the checksums of the zip archive that it is are right.
    """
    if not path.exists():
        return None
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is no regular file: remove it, or give another folder with {RUNS}")
    try:
        content = _checked(path.read_bytes())
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}, not a dict")
        strangers = [key for key, value in expected.items() if not _same(state.get(key), value)]
    except Exception as error:  # a damaged file can raise almost anything
        raise damaged(path, error) from None
    for key in strangers:
        said = why(state, key) or f"its {key} is {state.get(key)!r:.200}, this run's is {expected[key]!r}"
        raise CheckpointError(
            f"checkpoint {path} belongs to another run: {said}; start anew with {RESTART}, or give another folder with {RUNS}"
        )
    return state


def damaged(path: Path, error: Exception) -> CheckpointError:
    """What to raise for a checkpoint that could not be used because of ``error``."""
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return CheckpointError(
        f"checkpoint {path} is damaged ({reason[0]:.300}): restore it, or start this run anew with {RESTART}"
    )


def _same(found: object, value: object) -> bool:
    return type(found) is type(value) and found == value


def _checked(content: bytes) -> bytes:
    """PyTorch's part of the file. Raises ``ValueError`` where its bytes are not those that were written, or where it
    says that it holds more than it has room for."""
    end = len(content) - len(_MARK) - 64
    if end >= 0 and content[end:].startswith(_MARK):
        said, content = content[-64:], content[:end]
        if hashlib.sha256(content).hexdigest().encode() != said:
            raise ValueError("its content does not match its checksum")
    elif content[-22:-18] != b"PK\5\6":  # a zip archive's end: its digest was cut off
        raise ValueError("it is cut short, or no checkpoint")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError("parts of it are compressed, which no checkpoint is")
        if sum(part.file_size for part in archive.infolist()) > len(content):
            raise ValueError("its parts overlap")
        if (part := archive.testzip()) is not None:
            raise ValueError(f"the checksum of its part {part} is wrong")
    return content
