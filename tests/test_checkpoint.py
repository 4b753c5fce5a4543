"""Checkpoints and the lock of a run folder. Damage, disk-full and resuming are tested with the training loop
in test_train.py."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from bnnlib.training import checkpoint


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"a": torch.arange(5.0), "b": [1, {"c": "text"}], "d": 2.5, "e": None}
    checkpoint.save(tmp_path / "c.pt", state)
    back = checkpoint.load(tmp_path / "c.pt", {"d": 2.5})
    assert torch.equal(back.pop("a"), state.pop("a")) and back == state
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_no_file_is_no_state(tmp_path):
    assert checkpoint.load(tmp_path / "c.pt", {}) is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoint.save(tmp_path / "c.pt", {"seed": 1})
    with pytest.raises(
        checkpoint.CheckpointError, match="its seed is 1, this run's is 2; start anew with --restart"
    ):
        checkpoint.load(tmp_path / "c.pt", {"seed": 2})


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"x": subprocess.Popen}, tmp_path / "c.pt")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load(tmp_path / "c.pt", {})


def test_the_lock_is_freed_when_its_holder_is_killed(tmp_path):
    code = "from bnnlib.training.checkpoint import Lock; import time, pathlib; "
    code += f"held = Lock(pathlib.Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(checkpoint.RunBusy, match=f"process {holder.pid} is training in"):
        checkpoint.Lock(tmp_path)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with checkpoint.Lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"BNN_RUNS": "/a"}, "/a"),
        ({"BNN_RUNS": "~/a", "HOME": "/d"}, "/d/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/bnnlib/runs"),
        ({"HOME": "/c"}, "/c/.cache/bnnlib/runs"),
    ],
    ids=["BNN_RUNS", "in the home", "XDG_CACHE_HOME", "HOME"],
)
def test_where_run_folders_go(monkeypatch, environment, expected):
    for name in ("BNN_RUNS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(checkpoint.runs_folder()) == expected


def a_checkpoint(path):
    checkpoint.save(path, {"seed": 1, "w": torch.arange(40.0), "names": ["a", "b"]})
    return path.read_bytes()


def test_no_flipped_bit_is_read(tmp_path):
    path = tmp_path / "c.pt"
    whole = a_checkpoint(path)
    assert torch.load(path, weights_only=True)["seed"] == 1  # the digest behind it disturbs no other reader
    for place in range(0, len(whole), 7):
        bad = bytearray(whole)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        with pytest.raises(checkpoint.CheckpointError, match=r"c\.pt is damaged.*--restart"):
            checkpoint.load(path, {})
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(checkpoint.CheckpointError, match="damaged"):
            checkpoint.load(path, {})


def test_a_checkpoint_without_a_digest_is_read_where_its_archive_is_whole(tmp_path):
    """Earlier versions wrote them; runs that they began go on."""
    path = tmp_path / "c.pt"
    torch.save({"seed": 1, "w": torch.arange(1000.0)}, path)
    assert checkpoint.load(path, {"seed": 1})["w"][7] == 7
    whole = path.read_bytes()
    start = whole.index(torch.arange(1000.0).numpy().tobytes())
    for place in range(start, start + 4000, 333):
        bad = bytearray(whole)
        bad[place] ^= 1
        path.write_bytes(bad)
        with pytest.raises(checkpoint.CheckpointError, match="checksum of its part"):
            checkpoint.load(path, {})


@pytest.mark.parametrize("state", [[1], 7, None, torch.zeros(3), "text", {1: 2}], ids=str)
def test_what_is_no_state_is_named(tmp_path, state):
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(checkpoint.CheckpointError, match="not a dict|belongs to another run"):
        checkpoint.load(tmp_path / "c.pt", {"seed": 1})


def test_a_compressed_archive_is_no_checkpoint(tmp_path):
    a_checkpoint(tmp_path / "c.pt")
    with (
        zipfile.ZipFile(tmp_path / "c.pt") as old,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(checkpoint.CheckpointError, match="compressed"):
        checkpoint.load(tmp_path / "z.pt", {})


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "c.pt")
    with pytest.raises(checkpoint.CheckpointError, match="no regular file"):
        checkpoint.load(tmp_path / "c.pt", {})


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_the_lock_overwrites_no_other_file(tmp_path, kind):
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    if kind == "link":
        (folder / "lock").symlink_to(victim)
    elif kind == "second name":
        (folder / "lock").hardlink_to(victim)
    else:
        os.mkfifo(folder / "lock")
    with pytest.raises(checkpoint.CheckpointError, match="lock.*remove it"):
        checkpoint.Lock(folder)
    assert victim.read_text() == "precious"


def test_a_full_disk_at_the_lock_is_named(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/lock'"):
        checkpoint.Lock(tmp_path)
    monkeypatch.undo()
    with checkpoint.Lock(tmp_path):  # it holds nothing
        pass


def test_the_lock_removes_what_a_killed_run_left(tmp_path):
    for name in (".checkpoint.pt.abcd1234", ".model.safetensors.0_zxcvbn", "checkpoint.pt", ".checkpoint.pt.mine"):
        (tmp_path / name).write_text("")
    with checkpoint.Lock(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".checkpoint.pt.mine", "checkpoint.pt", "lock"]
