"""Benchmark records: the environment, reading, writing, and the newest of each CPU."""

import json

import pytest

from bnnlib import records
from bnnlib.benchmarks import record as bench_record


def put(folder, name, **content):
    content = {"date": "2026-01-01", "environment": {"cpu": "A"}, "quick": False, "runs": []} | content
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def test_the_environment_says_whether_the_tree_was_changed(monkeypatch):
    found = bench_record.environment()
    assert found["commit"] == records.commit().hash and found["dirty"] == records.commit().dirty
    assert found["cpu"] == records.plain(records.cpu_name()) and found["compiler"]
    assert {"scalar", "reference"} <= {name for name, _, _ in found["variants"]}


def test_of_each_cpu_the_newest_record_counts_and_quick_ones_do_not(tmp_path):
    paths = [
        put(tmp_path, "a1", date="2026-02-01"),
        put(tmp_path, "a2", date="2026-03-01"),
        put(tmp_path, "a3", date="2026-04-01", quick=True),
        put(tmp_path, "b1", environment={"cpu": "B <script>"}),
    ]
    found = [(r["environment"]["cpu"], r["date"]) for r in bench_record.newest_of_each(paths)]
    assert found == [("A", "2026-03-01"), ("B script", "2026-01-01")]
    assert bench_record.newest_of_each([]) == []


@pytest.mark.parametrize(
    "damage",
    [{"date": "yesterday"}, {"environment": {}}, {"runs": [{"threads": "many"}]}, {"quick": 7}],
    ids=["date", "environment", "threads", "quick"],
)
def test_a_damaged_record_is_named_with_its_field(tmp_path, damage, request):
    path = put(tmp_path, "x", **damage)
    field = request.node.callspec.id
    with pytest.raises(bench_record.BenchError, match=f"x.json is no benchmark record .*{field}.*run make bench again"):
        bench_record.read(path)


def test_what_is_written_is_read_back_whole(tmp_path):
    record = {"date": "2026-01-01", "environment": bench_record.environment(), "quick": False, "runs": [{"threads": 2, "x": [1]}]}
    path = bench_record.write(record | {"more": 1}, tmp_path / "new", "deploy-")
    assert path.name.startswith("deploy-") and path.name.endswith("-2026-01-01.json")
    assert set(path.stem) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert bench_record.read(path) == record | {"more": 1}


def test_the_records_of_the_book_are_read():
    found = [bench_record.read(path) for path in sorted(bench_record.FOLDER.glob("*.json"))]
    assert found and all(one["runs"] and one["environment"]["commit"] for one in found)
