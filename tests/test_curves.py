"""The page of learning curves holds what the records say."""

import json
import re

import pytest

from bnnlib import records
from bnnlib.book.pages import curves


@pytest.fixture
def folder(tmp_path, a_record):
    for seed in (0, 1):
        record = a_record(recipe="<b>", seed=seed)
        path = records.path_of("<b>", seed, tmp_path)
        path.parent.mkdir(exist_ok=True)
        records.write(record, path)
    return tmp_path


def test_the_page_holds_every_run_s_curve(folder):
    text = curves.page(folder)
    (kept,) = re.findall(r'<script type="application/json" id="curves-data">(.*?)</script>', text)
    (recipe,) = json.loads(kept)
    found = {r.seed: r for r in records.read_all(folder)}
    assert recipe["name"] == "<b>" and [run["seed"] for run in recipe["runs"]] == sorted(found)
    for run in recipe["runs"]:
        for field in curves.VALUES:
            assert run[field] == pytest.approx([getattr(e, field) for e in found[run["seed"]].curve], rel=1e-4)
    assert "<b>" not in text, "a name brings no markup onto the page"


def test_without_records_the_page_says_so(tmp_path):
    assert curves.page(tmp_path) == "*None yet.*\n"
