"""Checkpoints and the lock of a run folder. Damage, disk-full and resuming are tested with the training loop
in test_train.py."""

from __future__ import annotations

import subprocess
import sys

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
    code = f"from bnnlib.training.checkpoint import Lock; import time, pathlib; Lock(pathlib.Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"
    code = code.replace("Lock(pathlib", "held = Lock(pathlib")
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
        ({"XDG_CACHE_HOME": "/b"}, "/b/bnnlib/runs"),
        ({"HOME": "/c"}, "/c/.cache/bnnlib/runs"),
    ],
    ids=["BNN_RUNS", "XDG_CACHE_HOME", "HOME"],
)
def test_where_run_folders_go(monkeypatch, environment, expected):
    for name in ("BNN_RUNS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(checkpoint.runs_folder()) == expected
