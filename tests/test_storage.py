"""Files: whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

import pytest

from bnnlib import storage


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        storage.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_named_by_its_own_name(tmp_path, monkeypatch):
    path, open_file = tmp_path / "x", os.open

    def read_only(name, flags, *more):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return open_file(name, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PermissionError) as raised:
        storage.write_atomically(path, b"x")
    assert storage.in_words(raised.value) == f"{path}: Permission denied"


def test_a_folder_in_the_place_of_a_file_is_named_by_its_own_name(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as told:
        storage.write_atomically(path, b"new")
    assert storage.in_words(told.value) == f"{path}: Is a directory"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_are_said_without_numbers():
    assert storage.in_words(FileNotFoundError(errno.ENOENT, "No such file", "a")) == "a: No such file"
    assert storage.in_words(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert storage.in_words(FileNotFoundError("mnist is not here")) == "mnist is not here"
    assert storage.in_words(ValueError("seed is -1")) == "seed is -1"


def test_what_killed_writers_left_goes_and_what_living_ones_hold_stays(tmp_path):
    path = tmp_path / "file"
    (tmp_path / ".file.deadbeef").write_bytes(b"half")
    held = tmp_path / ".file.0badcafe"
    handle = os.open(held, os.O_WRONLY | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a writer does as long as it lives
    storage.write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([path, held])
    os.close(handle)
    storage.write_atomically(path, b"newer")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"newer"


def test_the_umask_is_obeyed_and_the_folder_synced(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)) or fsync(handle))
    before = os.umask(0o077)
    try:
        storage.write_atomically(tmp_path / "private", b"x")
        os.umask(0o022)
        storage.write_atomically(tmp_path / "public", b"x")
        storage.write_atomically(tmp_path / "own", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("private", "public", "own")] == [0o600, 0o644, 0o600]
    assert synced == [False, True] * 3
