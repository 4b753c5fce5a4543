"""Records: whole or not at all, checked on reading, and those committed fit the recipes they name."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

from bnnlib import recipes, records


def test_write_then_read_gives_the_same_record(tmp_path, a_record):
    record = a_record(seed=3)
    path = records.write(record, records.path_of("s4-lenet5", 3, tmp_path))
    assert path == tmp_path / "s4-lenet5" / "seed3.json"
    assert records.read(path) == record
    assert [p.name for p in path.parent.iterdir()] == ["seed3.json"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"top1_last": 120.0}, "top1_last"),
        ({"top1_last": 90.5}, "top1_last 90.5 is not the curve's last 90.0"),
        ({"top1_best": 90.0}, "top1_best 90.0 is not the curve's at epoch 1"),
        ({"best_epoch": 7}, "epoch 7"),
        ({"curve": []}, "curve"),
        ({"extra": 1}, "extra"),
        ({"seed": -1}, "seed"),
        ({"recipe_hash": "abc"}, "recipe_hash"),
        ({"source": 9}, "source"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_a_record_that_contradicts_itself_is_refused(changes, said, a_record):
    with pytest.raises(ValueError, match=said):
        a_record(**changes)


def test_a_curve_without_gaps(a_record):
    curve = [e.model_dump() for e in a_record().curve]
    curve[1]["epoch"] = 3
    with pytest.raises(ValueError, match="epochs are not 1, 2, 3"):
        a_record(curve=curve)


def test_damaged_files_are_named(tmp_path, a_record):
    path = records.write(a_record(), tmp_path / "s4-lenet5" / "seed0.json")
    text = path.read_text()
    for size in (0, 1, len(text) // 2, len(text) - 4):
        path.write_text(text[:size])
        with pytest.raises(records.RecordError, match=r"seed0\.json is damaged.*restore it from git"):
            records.read(path)
        with pytest.raises(records.RecordError):
            records.read_all(tmp_path)
    with pytest.raises(records.RecordError, match=r"seed9\.json: No such file"):
        records.read(path.with_name("seed9.json"))


def test_a_record_in_the_wrong_place_is_refused(tmp_path, a_record):
    records.write(a_record(profile="quick"), tmp_path / "s4-lenet5" / "seed0.json")
    with pytest.raises(records.RecordError, match="profile quick: it does not belong there"):
        records.read_all(tmp_path)
    records.write(a_record(seed=1), tmp_path / "s4-lenet5" / "seed0.json")
    with pytest.raises(records.RecordError, match="seed 1"):
        records.read_all(tmp_path)


def test_read_all_in_the_order_of_seeds(tmp_path, a_record):
    for seed in (10, 2, 0):
        records.write(a_record(seed=seed), records.path_of("s4-lenet5", seed, tmp_path))
    assert [r.seed for r in records.read_all(tmp_path)] == [0, 2, 10]
    assert records.read_all(tmp_path, "other") == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        records.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_every_committed_record_reads_and_names_its_recipe():
    for record in records.read_all():
        recipe = recipes.load(record.recipe)
        assert record.source == recipe.source
        assert record.dataset.name == recipe.dataset
        assert len(record.curve) == record.resolved["epochs"]


def test_no_quick_run_and_no_stray_file_lies_among_the_records():
    for path in records.FOLDER.rglob("*"):
        if path.is_file():
            assert json.loads(path.read_text())["profile"] == "full", path


def test_what_killed_writers_left_goes_and_what_living_ones_hold_stays(tmp_path):
    path = tmp_path / "file"
    (tmp_path / ".file.deadbeef").write_bytes(b"half")
    handle, held = records._temporary(path)
    records.write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([path, held])
    os.close(handle)
    records.write_atomically(path, b"newer")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"newer"


def test_the_umask_is_obeyed_and_the_folder_synced(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)) or fsync(handle))
    before = os.umask(0o077)
    try:
        records.write_atomically(tmp_path / "private", b"x")
        os.umask(0o022)
        records.write_atomically(tmp_path / "public", b"x")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("private", "public")] == [0o600, 0o644]
    assert synced == [False, True] * 2
