"""Records: whole or not at all, checked on reading, and those committed fit the recipes they name."""

from __future__ import annotations

import json

import pytest

from bnnlib import recipes, records
from bnnlib.book.studies import signs
from bnnlib.training import diagnostics


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


def test_every_committed_record_reads_and_names_its_recipe():
    for record in records.read_all():
        recipe = recipes.load(record.recipe)
        assert record.source == recipe.source
        assert record.dataset.name == recipe.dataset
        assert len(record.curve) == record.resolved["epochs"]


def test_no_quick_run_and_no_stray_file_lies_among_the_records():
    for path in records.FOLDER.rglob("*"):
        if path.name.startswith("signs-"):
            watched = diagnostics.read(path)
            assert signs.of(watched.recipe, watched.seed), f"{path} is of no run that lies beside it"
            assert path == diagnostics.path_of(records.path_of(watched.recipe, watched.seed))
        elif path.is_file():
            assert json.loads(path.read_text())["profile"] == "full", path
