"""A run beside the record that was there."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy import stats

from bnnlib.training import repeat


def at(a_record, top1, **changes):
    record = a_record(**changes)
    last = record.curve[-1].model_copy(update={"test_top1": top1})
    return record.model_copy(update={"top1_last": top1, "curve": [record.curve[0], last]})


def test_the_expected_spread_is_that_of_two_runs():
    values = [99.1, 99.3, 99.2, 99.25]
    assert repeat.expected_spread(values) == pytest.approx(stats.t(3).ppf(0.975) * math.sqrt(2) * statistics.stdev(values))
    assert repeat.expected_spread(values[:1]) is None


def test_two_runs_are_told_apart_by_the_spread_of_the_seeds(a_record):
    seeds = [at(a_record, 90 + s / 10, seed=s) for s in range(5)]
    near = at(a_record, 90.2, hardware={"cpu": "b", "threads": 4})
    said = repeat.told(seeds[0], near, seeds)
    assert "seed 0 on record: 90.00 %" in said and "this run: 90.20 %, a difference of +0.20" in said
    assert "other machine, number of threads" in said and "within what two runs" in said and "from 5 seeds" in said
    assert "OUTSIDE" in repeat.told(seeds[0], at(a_record, 80.0), seeds)


def test_runs_of_other_recipes_or_data_are_not_compared(a_record):
    kept = a_record()
    said = repeat.told(kept, a_record(recipe_hash="1" * 64), [kept, kept])
    assert "other recipe" in said and "do not compare" in said and "expected" not in said


def test_the_same_run_twice(a_record):
    assert repeat.same_run(a_record(), a_record(wall_time_s=9.0))
    assert not repeat.same_run(a_record(), at(a_record, 89.0))
