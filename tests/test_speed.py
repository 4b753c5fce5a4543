"""Benchmark records, read: which is the newest, what they say of the limits and the targets."""

import json

import pytest

from bnnlib.benchmarks import geometry, reasoned, speed, targets
from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks.record import BenchError


def unit(what, per_cycle):
    return {"what": what, "per_cycle": per_cycle, "per_second": per_cycle * 3e9}


def record(day="2026-01-02", cpu="A", variant="avx2", **changes):
    """One from before records kept their rounds."""
    over = {"bits": 8.0, "channels_last": 6.0, "nchw": 5.0, "bf16": 0.5, "int8-x86": 2.0, "onnx-int8": 1.9}
    times = {"fp32-nchw": 600.0, "fp32-channels_last": 590.0, "bits": 75.0, "pack-channels_last": 5.0, "channels_last": 100.0,
             "nchw": 120.0, "int8-x86": 300.0, "onnx-int8": 310.0, "bf16": 1180.0}  # fmt: skip
    times = {name: {"median_us": us, "best_us": us} for name, us in times.items()}
    layers = [
        {"layer": name, "batch": 1, "fp32_over": over, "times": times, "bits_macs_per_cycle": rate,
         "best_int8_over_bits": 4.1, "bf16_over_bits": 16.0}  # fmt: skip
        for name, rate in (("128->128 3x3 @32", 200.0), ("192->160 1x1 @32", 110.0))
    ]
    run = {
        "threads": 1,
        "variant": variant,
        "layers": layers,
        "gemms": [{"m": 4096, "k": 4096, "n": 4096, "fp32_over": {"bits-in": 11.0},
                   "times": {"fp32": {"median_us": 9.0}, "bits-in": {"median_us": 1.0}}}],  # fmt: skip
        "peaks": {
            "clock_hz": 3e9,
            "units": {
                "fma-avx2": unit("float32, fused multiply-add, AVX2", 16),
                "popcount-avx2": unit("1 bit, shuffle popcount, AVX2", 116),
                "pair-table-avx2": unit("1 bit, pair tables, AVX2", 270),
            },
        },
        "ladders": [{"layer": "128->128 3x3 @32", "fp32_over": {"scalar": 4.0}, "one_word_over": {variant: 13.0, "scalar": 4.0},
                     "times": {"one-word": {"median_us": 3000.0}}}],
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
    "content", ["{", "[]", json.dumps(record(runs=[{}])), json.dumps(record(runs=[{"threads": 1}])), json.dumps(record(runs=[]))]
)
def test_what_is_no_whole_record_is_named_with_the_way_out(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(BenchError, match="(bad.json|record of A).*make bench"):
        speed.newest(tmp_path)


def test_limits_are_the_fastest_unit_of_each_kind():
    limits = speed.limits(record())
    assert list(limits) == ["float32", "1 bit"] and limits["1 bit"]["per_cycle"] == 270


def test_units_of_a_core_and_what_bounds_one_bit():
    its = record(cpu="AMD EPYC family 25 model 17")
    assert speed.core(its) == "Zen 4" and speed.core(record(cpu="Arm")) == "Arm"
    assert speed.core(record(cpu="A family 1 model 2")) == "A family 1 model 2"
    assert speed.per_cycle(its) == {"float32, FMA": 16, "1 bit, xor and count": 270}
    assert speed.bound(speed.per_cycle(its)) == ("float32, FMA", 270 / 16)
    its["runs"][0]["peaks"]["units"]["int8-amx"] = unit("int8, tdpbssd, AMX tiles", 1080)
    assert speed.bound(speed.per_cycle(its)) == ("int8, tiles", 0.25)


def test_what_has_no_record_is_derived_from_one_that_has():
    zen4, zen5 = record(cpu="AMD EPYC family 25 model 17"), record(cpu="AMD EPYC family 26 model 2")
    ((one, model, units),) = reasoned.reasoned([zen4])
    assert (one.core, model) == ("Zen 5", "Zen 4") and units["1 bit, xor and count"] == 540
    assert reasoned.reasoned([zen4, zen5]) == [] == reasoned.reasoned([record()])
    assert reasoned.borne_out([zen4]) == [] == reasoned.borne_out([zen5])
    zen5["runs"][0]["peaks"]["units"]["pair-table-avx2"]["per_cycle"] = 513
    ((one, model, share),) = reasoned.borne_out([zen5, zen4])
    assert (one.core, model) == ("Zen 5", "Zen 4") and share == {"float32, FMA": 0.5, "1 bit, xor and count": 0.95}


def test_shares_of_the_limit_are_those_of_the_variant():
    one, many = speed.runs(record())
    assert speed.shares(one) == pytest.approx([100 * 200 / 270, 100 * 110 / 270])
    assert speed.shares(many) == speed.shares(one | {"variant": "other"}) == []
    del one["layers"][0]["bits_macs_per_cycle"]
    assert speed.shares(one) == pytest.approx([100 * 110 / 270])


def test_every_unit_is_a_limit_of_the_kernels():
    text = (speed.FOLDER.parents[1] / "kernels" / "measure" / "peaks.h").read_text()
    for name in [name for names in speed.UNITS.values() for name in names] + list(speed.LIMIT_OF.values()):
        assert f'{{"{name}", ' in text


def test_a_ratio_is_the_median_of_paired_ratios_with_its_quartiles():
    slow, fast = [2.0, 9.0, 4.0, 3.0, 10.0], [1.0, 1.0, 2.0, 1.0, 2.0]  # 2, 9, 2, 3, 5 times
    case = {"times": {"int8-x86": {"median_us": 4.0, "rounds_us": slow}, "bits": {"median_us": 1.0, "rounds_us": fast}}}
    assert speed.ratio(case, "int8-x86", "bits") == speed.paired(slow, fast) == speed.Ratio(3.0, (2.0, 5.0))
    # the same pairs whatever the order of rounds; the ratio of medians would be 4
    assert speed.paired(slow[::-1], fast[::-1]) == speed.paired(slow, fast)
    assert speed.paired(slow[:4], fast[:4]) == speed.Ratio(2.5), "no quartiles of so few"
    assert speed.paired([6.0, 8.0], [2.0, 2.0, 1.0]).median == 3.5  # only rounds that both ran


def test_older_records_give_the_paired_median_where_they_have_it_and_say_where_not():
    layer = record()["runs"][0]["layers"][0]
    assert speed.eager_fp32(layer) == "fp32-channels_last"
    assert speed.ratio(layer, "fp32-channels_last", "bits") == speed.Ratio(8.0)
    assert speed.ratio(layer, "int8-x86", "bits") == speed.Ratio(4.1)
    assert speed.ratio(layer, "bf16", "bits") == speed.Ratio(16.0)
    for slow, fast, expected in (("onnx-int8", "bits", 310 / 75), ("fp32-nchw", "bits", 8.0), ("int8-x86", "nchw", 2.5)):
        found = speed.ratio(layer, slow, fast)
        assert found == speed.Ratio(expected, paired=False) and str(found).startswith("≈")
    net = {"times": {"fp32-eager": {"median_us": 30.0}, "packed-float32": {"median_us": 2.0}, "onnx-int8": {"median_us": 4.0}},
           "over": {"packed-float32": {"fp32-eager": 14.0}}}  # fmt: skip
    assert speed.ratio(net, "fp32-eager", "packed-float32") == speed.Ratio(14.0)
    assert not speed.ratio(net, "onnx-int8", "packed-float32").paired


def test_the_best_rival_is_the_fastest_that_is_not_ours():
    layer = record()["runs"][0]["layers"][0]
    assert speed.best_rival(layer) == speed.best_rival(layer, "int8") == "int8-x86"
    assert speed.best_rival(layer, "fp32", "bf16") == "fp32-channels_last"
    assert speed.best_rival({"times": {"packed-float32": {"median_us": 1.0}, "fake-quantised": {"median_us": 2.0}}}) is None


def test_two_rivals_are_compared_over_the_rounds_that_both_ran():
    # the machine slowed down after three rounds, and a contender that had left by then looks faster than it is
    rounds = {"int8-eager": [10.0, 10.0, 10.0, 40.0, 40.0, 40.0, 40.0], "onnx-fp32": [20.0, 20.0, 20.0], "bits": [1.0] * 7}
    case = {"times": {name: {"median_us": sorted(us)[len(us) // 2], "rounds_us": us} for name, us in rounds.items()}}
    assert case["times"]["onnx-fp32"]["median_us"] < case["times"]["int8-eager"]["median_us"]
    assert speed.best_rival(case) == "int8-eager" and speed.fastest(case, []) is None
    case["times"]["onnx-fp32"]["rounds_us"] = [9.0, 9.0, 9.0]
    assert speed.best_rival(case) == "onnx-fp32"


def test_the_best_rung_is_that_of_each_ladder_and_not_the_default_variant():
    one, many = speed.runs(record())
    assert speed.best_rungs(one) == [("128->128 3x3 @32", "avx2", 13.0)] and speed.best_rungs(many) == []
    one["ladders"][0]["one_word_over"]["scalar"] = 14.0
    assert speed.best_rungs(one)[0][1:] == ("scalar", 14.0)
    goals = {t.what: t for t in targets.targets({**record(), "runs": [one, many]})}
    assert goals["best variant over the one-word loop"].values == (14.0,)
    assert speed.limit_of(one, "avx2") == 270 and speed.limit_of(one, "scalar") is speed.limit_of(one, "other") is None


def test_cycles_of_the_plain_loop_are_of_the_words_that_it_multiplies():
    one, _ = speed.runs(record())
    assert geometry.words("128->128 3x3 @32") == 128 * 94 * 94 * 2, "two lines and two columns of taps lie beyond the border"
    assert speed.loop_cycles(one) == [pytest.approx(3000e-6 * 3e9 / (128 * 94 * 94 * 2))]


def test_packing_is_a_part_of_what_floats_add():
    one, many = speed.runs(record())
    assert speed.packing_of_added(one, 1) == pytest.approx(100 * 5 / (100 - 75))
    assert speed.packing_of_added(one, 16) is speed.packing_of_added(many, 1) is None
    for layer in one["layers"]:
        layer["times"]["channels_last"] = layer["times"]["bits"]
    assert speed.packing_of_added(one, 1) is None, "floats add nothing"


def test_a_caption_says_where_its_numbers_come_from():
    its = record()
    layers = its["runs"][0]["layers"]
    assert bench_record.origin(its) == "A, 2026-01-02"
    assert bench_record.origin(its, layers) == "A, 2026-01-02, single rounds not kept"
    layers[0]["times"]["bits"]["rounds_us"] = [75.0] * 21
    assert bench_record.origin(its, iter(layers)) == "A, 2026-01-02, 21 rounds"


def test_clocks_that_differ_are_named():
    peaks = {"clock_hz": 2.8e9, "other_clocks_hz": {"rotations": 2.81e9, "tsc": 2.1e9}}
    assert speed.clocks_that_differ(peaks) == {"tsc": 0.75}
    assert speed.clocks({"clock_hz": 3e9}) == {"chain": 3e9}  # an older record has no other


def test_a_target_goes_by_its_worst_case():
    assert targets.Target("t", 7, (8.0, 6.9)).met is False
    assert targets.Target("t", 7, (8.0, 7.0)).met is True
    assert targets.Target("t", 15, (15.5,), at_most=True).met is False
    nothing = targets.Target("t", 7, ())
    assert nothing.met is None and nothing.range == "not measured"
    assert targets.Target("t", 7, (8.0, 6.9)).range == "6.9 to 8 x"


def test_targets_of_another_variant_are_left_open():
    its = record()
    wide = its["runs"][0]["layers"][0]
    half = {"median_us": wide["times"]["channels_last"]["median_us"] / 2}
    narrow = {**wide, "layer": "64->64 3x3 @56", "times": {**wide["times"], "pack-channels_last": half}}
    its["runs"][0]["layers"].append(narrow)  # of fewer than 128 channels
    goals = {t.what: t for t in targets.targets(its)}
    assert goals["AVX2: products a cycle"].met is False  # 110 on the 1x1 layer
    assert goals["AVX2: bits to bits over FP32"].met is True
    assert goals["all threads over one"].worst == 1.5
    assert goals["packing's share of a k x k layer of 128 channels or more"].values == (5.0,)
    open_ones = [t for t in goals.values() if t.needs == "avx512vpopcnt"]
    assert len(open_ones) == 12 and all(t.met is None for t in open_ones)


def test_shares_of_the_limit_on_a_cpu_with_vpopcntdq():
    its = record(variant="avx512vpopcnt")
    its["runs"][0]["peaks"]["units"]["popcount-avx512"] = unit("1 bit, vpopcntd", 200)
    goals = {t.what: t for t in targets.targets(its)}
    assert goals["share of the 1-bit limit, K >= 1152"].values == (100.0,)
    assert goals["share of the 1-bit limit, 1x1, K = 192"].met is False
    assert goals["matrix product 4096^3 over FP32"].values == (11.0,)
    assert goals["AVX2: products a cycle"].met is None


def test_what_was_not_measured_leaves_its_targets_open():
    its = record(variant="avx512vpopcnt")  # whose limit is not among the units
    del its["runs"][0]["ladders"][0]["fp32_over"]["scalar"], its["import"]
    its["runs"][0]["gemms"][0]["n"] = 4095
    goals = {t.what: t for t in targets.targets(its)}
    unmeasured = ["share of the 1-bit limit, K >= 1152", "scalar: bits to bits over FP32", "matrix product 4096^3 over FP32", "later imports"]
    assert all(goals[what].met is None for what in unmeasured)
    assert goals["bits to bits over FP32, k x k"].values == (8.0,)


def test_targets_of_tiles_are_set_against_the_best_of_each_rival():
    its = record(variant="amx")
    its["runs"][0]["peaks"]["units"]["int8-amx"] = unit("int8, tdpbssd, AMX tiles", 400)
    goals = {t.what: t for t in targets.targets(its)}
    assert goals["AMX: share of the tiles' limit, K >= 1152"].values == (50.0,)
    assert goals["AMX: bits to bits over the best int8, k x k"].values == (4.1,)
    assert goals["AMX: floats, channels_last, over the best of bfloat16 and int8"].worst == 3.0


def test_the_records_of_this_book_can_be_read():
    for r in speed.newest():
        assert speed.limits(r)["float32"] and len(targets.targets(r)) == 23
        for run in r["runs"]:
            for layer in run["layers"]:
                rival = speed.best_rival(layer)
                everyone = [name for name in layer["times"] if speed.kind(name)]
                assert layer["times"][rival]["median_us"] == pytest.approx(min(layer["times"][n]["median_us"] for n in everyone), rel=1e-3)
                assert speed.ratio(layer, speed.eager_fp32(layer), "bits").paired


def test_a_name_of_a_processor_brings_no_markup_onto_a_page(tmp_path):
    put(tmp_path, "bad", record("2026-01-02", "CPU <img src=x> | *a*\x1b[1m `b`"))
    (found,) = speed.newest(tmp_path)
    assert not set("<>|*`\x1b=") & set(found["environment"]["cpu"])


def test_rounds_in_which_the_tiles_were_shared_stand_apart():
    rounds = {"int8-x86": [30.0, 90.0, 32.0, 96.0], "bits": [10.0, 45.0, 16.0, 32.0], "fp32-nchw": [200.0, 400.0, 210.0]}
    case = {
        "layer": "64->64 3x3 @8", "batch": 16, "macs": 1,
        "times": {name: {"median_us": 0.0, "best_us": 0.0, "rounds_us": us} for name, us in rounds.items()},
        "tiles_per_second": [2.2e12, 1.0e12, 2.3e12, 1.1e12],
    }  # fmt: skip
    found = speed.by_tiles(case)
    assert {name: (one["rounds"], one["times"]["bits"]["rounds_us"]) for name, one in found.items()} == {
        "alone": (2, [10.0, 16.0]),
        "shared": (2, [45.0, 32.0]),
    }
    assert [(one["times"]["bits"]["best_us"], one["times"]["bits"]["median_us"]) for one in found.values()] == [(10.0, 13.0), (32.0, 38.5)]
    assert speed.ratio(found["alone"], "int8-x86", "bits").median == pytest.approx((3 + 2) / 2)
    assert speed.ratio(found["shared"], "int8-x86", "bits").median == pytest.approx((2 + 3) / 2)
    # a contender that left after three rounds has those of them that were alike
    assert [found[name]["times"]["fp32-nchw"]["rounds_us"] for name in ("alone", "shared")] == [[200.0, 210.0], [400.0]]
    assert list(speed.by_tiles(case, best=4e12)) == ["shared"], "all were far below what the unit can do"
    assert "fp32-nchw" not in speed.by_tiles({**case, "tiles_per_second": [2.2e12] * 3 + [1e12]})["shared"]["times"]
    assert speed.by_tiles({name: case[name] for name in case if name != "tiles_per_second"}) == {}


def test_what_is_faster_in_rounds_alone_and_in_shared_ones():
    run = speed.runs(record(variant="amx"))[0]
    run["peaks"]["units"]["int8-amx"] = unit("int8, tdpbssd, AMX tiles", 1000)  # 3e12 a second
    first, second = run["layers"]
    assert speed.counted_faster(run) == speed.states(run) == {} and speed.shares(run, "alone") == []
    first |= {"macs": 3e6, "tiles_per_second": [2.9e12, 2.9e12, 1.0e12]}
    first["times"] = {"bits": {"median_us": 10.0, "rounds_us": [10.0, 10.0, 20.0]},
                      "bits-counted": {"median_us": 15.0, "rounds_us": [15.0, 15.0, 15.0]}}  # fmt: skip
    second |= {"macs": 3e6, "tiles_per_second": [1.0e12] * 3}
    second["times"] = {"bits": {"median_us": 20.0, "rounds_us": [20.0] * 3},
                       "bits-counted": {"median_us": 15.0, "rounds_us": [15.0] * 3}}  # fmt: skip
    assert speed.states(run) == {"alone": 2, "shared": 4}
    assert speed.counted_faster(run) == {"all": (1, 2), "alone": (0, 1), "shared": (2, 2)}
    assert speed.shares(run, "alone") == [pytest.approx(100 * 3e6 / (10e-6 * 3e9) / 1000)]
    assert speed.shares(run, "shared") == [pytest.approx(100 * 3e6 / (20e-6 * 3e9) / 1000)] * 2


def test_only_records_of_kernels_that_measure_their_choice_say_so():
    run = speed.runs(record(variant="amx"))[0]
    assert not speed.measures_choice(run) and speed.measures_choice(run | {"choice": "measured"})
