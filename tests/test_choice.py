"""kernels/conv/choice.h: which of two ways a convolution takes, against times that the test makes up."""

import shutil
import subprocess
from pathlib import Path

import pytest
from toolchains import need

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each case of tests/kernels/choice.cpp gives for either estimate: (share that counted, time over the least)."""
    need(shutil.which("g++") is not None, "g++")
    program = tmp_path_factory.mktemp("choice") / "choice"
    source = ROOT / "tests" / "kernels" / "choice.cpp"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'kernels'}"]
    done = subprocess.run(["g++", *flags, str(source), "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()
    found: dict[str, list[list[float]]] = {}
    for line in lines:
        name, numbers = line.split(": ")
        found.setdefault(name, []).append([float(x) for x in numbers.split()])
    return found


@pytest.mark.parametrize("case, counted, cost", [
    ("images", (0, 0.04), 1.03),  # the faster way nearly always, whatever the estimate was; 1/32 goes to trials
    ("counting", (0.96, 1), 1.03),
    ("far apart", (0.99, 1), 1.12),  # one of 1000 times: a few calls before it is known
    ("noise", (0, 0.05), 1.04),
    ("cold", (0, 0.04), 1.03),  # the first calls are slow, whichever way
    ("interrupted", (0, 0.05), 1.01),  # one in 37 takes 300 times as long
    ("neighbour", (0.4, 0.6), 1.06),  # the tiles are slow half of the time, a thousand calls on end
])  # fmt: skip
def test_takes_the_faster_way(said, case, counted, cost):
    assert len(said[case]) == 2, "both estimates"
    for share, over_least in said[case]:
        assert counted[0] <= share <= counted[1] and over_least < cost


def test_a_clock_that_stands_and_another_key(said):
    assert said["zero"] == [[1]] and said["another key"] == [[-1]], "still the only way known; nothing known"
