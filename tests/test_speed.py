"""Benchmark records, read: which is the newest, what they say of the limits and the targets."""

import json

import pytest

from bnnlib.benchmarks import speed


def unit(what, per_cycle):
    return {"what": what, "per_cycle": per_cycle, "per_second": per_cycle * 3e9}


def record(day="2026-01-02", cpu="A", variant="avx2", **changes):
    over = {"bits": 8.0, "channels_last": 6.0, "nchw": 5.0, "bf16": 0.5, "int8-x86": 2.0}
    times = {"pack-channels_last": {"median_us": 5.0}, "channels_last": {"median_us": 100.0}}
    layers = [
        {"layer": name, "batch": 1, "fp32_over": over, "times": times, "bits_macs_per_cycle": rate}
        for name, rate in (("128->128 3x3 @32", 200.0), ("192->160 1x1 @32", 110.0))
    ]
    run = {
        "threads": 1,
        "variant": variant,
        "layers": layers,
        "gemms": [{"m": 4096, "k": 4096, "n": 4096, "fp32_over": {"bits-in": 11.0}}],
        "peaks": {
            "clock_hz": 3e9,
            "units": {
                "fma-avx2": unit("float32, fused multiply-add, AVX2", 16),
                "popcount-avx2": unit("1 bit, shuffle popcount, AVX2", 116),
                "pair-table-avx2": unit("1 bit, pair tables, AVX2", 270),
            },
        },
        "ladders": [{"fp32_over": {"scalar": 4.0}, "one_word_over": {variant: 13.0}}],
    }
    more = {"threads": 2, "variant": variant, "layers": [], "gemms": [], "peaks": run["peaks"],
            "scaling": [{"one_over_all": 1.95}, {"one_over_all": 1.5}]}  # fmt: skip
    return {
        "date": day,
        "quick": False,
        "environment": {"cpu": cpu},
        "import": {"first_s": 12.0, "later_s": 0.01},
        "runs": [run, more],
    } | changes


def put(folder, name, content):
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_the_newest_record_of_each_cpu(tmp_path):
    put(tmp_path, "a-1", record("2026-01-02"))
    put(tmp_path, "a-2", record("2026-03-01"))
    put(tmp_path, "b-1", record("2026-02-01", "B"))
    found = [(r["environment"]["cpu"], r["date"]) for r in speed.newest(tmp_path)]
    assert found == [("A", "2026-03-01"), ("B", "2026-02-01")]


@pytest.mark.parametrize(
    "content", ["{", "[]", json.dumps(record(quick=True)), json.dumps(record(runs=[{}]))]
)
def test_what_is_no_whole_record_is_named_with_the_way_out(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(speed.SpeedError, match="bad.json.*make bench"):
        speed.newest(tmp_path)


def test_limits_are_the_fastest_unit_of_each_kind():
    limits = speed.limits(record())
    assert list(limits) == ["float32", "1 bit"] and limits["1 bit"]["per_cycle"] == 270


def test_a_target_goes_by_its_worst_case():
    assert speed.Target("t", 7, (8.0, 6.9)).met is False
    assert speed.Target("t", 7, (8.0, 7.0)).met is True
    assert speed.Target("t", 15, (15.5,), at_most=True).met is False
    nothing = speed.Target("t", 7, ())
    assert nothing.met is None and nothing.range == "not measured"
    assert speed.Target("t", 7, (8.0, 6.9)).range == "6.9 to 8 x"


def test_targets_of_another_variant_are_left_open():
    goals = {t.what: t for t in speed.targets(record())}
    assert goals["AVX2: products a cycle"].met is False  # 110 on the 1x1 layer
    assert goals["AVX2: bits to bits over FP32"].met is True
    assert goals["all threads over one"].worst == 1.5
    assert goals["packing's share of a k x k layer"].values == (5.0,)
    open_ones = [t for t in goals.values() if t.needs == "avx512vpopcnt"]
    assert len(open_ones) == 12 and all(t.met is None for t in open_ones)


def test_shares_of_the_limit_on_a_cpu_with_vpopcntdq():
    its = record(variant="avx512vpopcnt")
    its["runs"][0]["peaks"]["units"]["popcount-avx512"] = unit("1 bit, vpopcntd", 200)
    goals = {t.what: t for t in speed.targets(its)}
    assert goals["share of the 1-bit limit, K >= 1152"].values == (100.0,)
    assert goals["share of the 1-bit limit, 1x1, K = 192"].met is False
    assert goals["AVX2: products a cycle"].met is None


def test_the_records_of_this_book_can_be_read():
    for r in speed.newest():
        assert speed.limits(r)["float32"] and len(speed.targets(r)) == 20
