"""Files that are written whole or not at all, and what killed writers leave behind. The standard library alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview, mode: int = 0o666) -> None:
    """Write a file whole or not at all: to a temporary file beside it, then renamed, and the folder brought to
    the disk as well. An ``OSError`` (disk full) names ``path`` and leaves what was there. The file's mode is what
    the umask leaves of ``mode``; what killed writers of the same file left behind is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, f".{path.name}.")
    temporary = None
    try:
        handle, temporary = _temporary(path, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        # of the rename, or of a name that nobody knows
        if isinstance(error, OSError) and (error.filename2 is not None or Path(error.filename).name.startswith(f".{path.name}.")):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def in_words(error: Exception) -> str:
    """What a command says of an error: for files and disks, which file and what is wrong with it, without a number."""
    if isinstance(error, OSError) and error.strerror:
        named = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return f"{named}: {error.strerror}" if named is not None else error.strerror
    return str(error)


def _temporary(path: Path, mode: int) -> tuple[int, Path]:
    """A new file beside ``path``, open to be written, and locked: a file without a lock was left by a process that has ended."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)  # another process took it for a leftover before it was locked


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the files and folders in ``folder`` that are named ``prefix`` and eight random characters and that no
    process has locked: those who wrote them were killed."""
    ours = re.compile(re.escape(prefix) + "[a-z0-9_]{8}")
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if ours.fullmatch(entry.name)]
    except OSError:
        return
    for path in found:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)


def sync_folder(folder: Path) -> None:
    """Bring a rename in ``folder`` to the disk, where the file system can."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
