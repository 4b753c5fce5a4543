"""The page "When does one bit pay?": its tables against the records, read here by other means."""

import json
import re
import statistics
from pathlib import Path

import pytest

from bnnlib import records
from bnnlib.benchmarks import nets, networks, speed
from bnnlib.book.pages import pays
from bnnlib.book.prose import ClaimFailed

ROOT = Path(__file__).resolve().parents[1]
RUNS, BENCH = ROOT / "results" / "runs", ROOT / "results" / "bench"


def rows(text):
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def last(recipe):
    runs = [json.loads(path.read_text()) for path in (RUNS / recipe).glob("seed*.json")]
    return {run["seed"]: run["curve"][-1]["test_top1"] for run in runs}


def test_the_twins_differ_as_their_records_do():
    text = pays.accuracy(RUNS)
    found = {row["network"]: row for row in rows(text)}
    for name, (bits, real) in pays.TWINS.items():
        one, other = last(real), last(bits)
        if not (one and other):
            without = [f"`make train RECIPE={twin}`" for twin, its in ((real, one), (bits, other)) if not its]
            assert name not in found and f"The {name} is not among them yet: {' and '.join(without)} would add it." in text
            continue
        if min(len(one), len(other)) == 1:  # runs of the seed that both have
            one, other = ({seed: runs[seed] for seed in one.keys() & other.keys()} for runs in (one, other))
        gap = statistics.mean(one.values()) - statistics.mean(other.values())
        assert float(found[name]["points lost"].split(" ± ")[0]) == pytest.approx(gap, abs=0.006), name
        assert ("*" in found[name]["runs"]) == (len(one) == 1)
        made = {
            (run["hardware"].get("gpu") or run["hardware"]["cpu"], run["versions"]["torch"])
            for recipe in (bits, real)
            for run in (json.loads(path.read_text()) for path in (RUNS / recipe).glob("seed*.json"))
            if run["seed"] in one.keys() | other.keys()
        }
        assert ("†" in found[name]["runs"]) == (len(made) > 1), name


def test_a_twin_that_bits_do_not_cost_anything_is_a_claim_that_failed(tmp_path, a_record):
    for recipe in pays.TWINS["LeNet-5"]:
        for seed in (0, 1):
            record = a_record(seed=seed)
            record = record.model_copy(update={"recipe": recipe})
            path = records.path_of(recipe, seed, tmp_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            records.write(record, path)
    with pytest.raises(ClaimFailed, match="One bit cost accuracy"):
        pays.accuracy(tmp_path)
    assert pays.accuracy(tmp_path / "none") == "*There is no pair of runs to compare.*\n"


def test_cases_that_the_rival_wins_are_counted():
    text = pays.whole_nets(BENCH)
    lost = whole = 0
    for record, row in zip(networks.newest_of_each(BENCH), rows(text), strict=True):
        cases = record["runs"][0]["cases"]
        slower = 0
        for case in cases:
            rivals = [name for name in case["times"] if speed.kind(name)]
            ratios = [
                max(speed.ratio(case, min(rivals, key=lambda r: case["times"][r]["median_us"]), ours).median for ours in forms)
                for forms in (["packed-float32"], networks.packed(case))
            ]
            slower += ratios[1] < 1
        assert row["core"] == speed.core(record) and int(row["cases"]) == len(cases)
        assert int(row["fastest slower"]) == slower
        lost, whole = lost + slower, whole + len(cases)
        ran = " ".join(name for case in cases for name in case["times"] if name.startswith(speed.RIVALS))
        for way, part in (("bfloat16", "bf16"), ("int8", "int8"), ("compiled", "-compile")):
            told = re.search(rf"not measured in [^.]*{way}[^.]* on {row['core']}", text)
            assert bool(told) == (part not in ran), (row["core"], way)
    assert f"faster one in {whole - lost} of {whole} cases" in text
    assert "make bench" in pays.whole_nets(BENCH / "none")


def test_files_are_those_of_the_networks_that_are_timed():
    found = rows(pays.files())
    assert len(found) == len(nets.nets())
    # The format's own arithmetic: a whole net of bits could shrink by 32 at most.
    assert all(1 < float(row["times smaller"]) <= float(row["with int8"]) < 32 for row in found)


def test_other_networks_are_described_as_their_records_and_files_are():
    text = pays.others(RUNS)
    found = rows(text)
    names = [name for pair in pays.OTHERS for name in pair]
    assert len(found) == len(names)
    factors = []
    for name, row in zip(names, found, strict=True):
        runs = last(name)
        assert float(row["last epoch %"].split(" ± ")[0]) == pytest.approx(statistics.mean(runs.values()), abs=0.006)
        assert int(row["runs"]) == len(runs)
        one_bit = float(row["1-bit products, M"].replace(",", ""))
        assert (one_bit > 0) == (name in dict(pays.OTHERS))
        factors.append(float(row["file with int8, kB"].replace(",", "")))
    ratios = [real / bits for bits, real in zip(factors[::2], factors[1::2], strict=True)]
    assert float(re.search(r"its file is ([\d.]+) to", text)[1]) == pytest.approx(min(ratios), rel=0.01)
    # The first convolution of S2's student: 3 × 128 × 9 products at 32 × 32 places, and two shortcuts of 1 × 1.
    real = 3 * 128 * 9 * 32**2 + 128 * 256 * 16**2 + 256 * 512 * 8**2
    real += 8192 * 1024 + 1024 * 10
    assert float(found[4]["real products, M"]) == pytest.approx(real / 1e6, abs=0.06)


def test_a_real_valued_network_that_is_no_better_is_a_claim_that_failed(tmp_path, a_record):
    for recipe in pays.OTHERS[0]:
        record = a_record(seed=0).model_copy(update={"recipe": recipe})
        path = records.path_of(recipe, 0, tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(record, path)
    with pytest.raises(ClaimFailed, match="the real-valued network has the higher accuracy"):
        pays.others(tmp_path)
    assert pays.others(tmp_path / "none") == "*There is no pair of runs to compare.*\n"
