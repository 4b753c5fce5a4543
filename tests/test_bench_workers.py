"""Processes that measure: what they are given, what they answer, and what is said of one that fails."""

import json
import os
import subprocess

import pytest

from bnnlib.benchmarks import BenchError, workers


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of this text, found by the processes that are started."""

    def made(text):
        (tmp_path / "measures.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        return "measures"

    return made


def test_the_last_line_is_the_answer_and_cpus_and_threads_are_those_asked_for(module):
    name = module(
        "import json, os, sys\n"
        "print('first words')\n"
        "print('complaint', file=sys.stderr)\n"
        "print(json.dumps([sys.argv[1:], sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS']]))\n"
    )
    first = sorted(os.sched_getaffinity(0))[0]
    assert workers.on_threads(name, 1, "--quick") == [["--worker", str(first), "--quick"], [first], "1"]
    assert workers.answer(name, "a", settings={"OMP_NUM_THREADS": "3"}) == [["a"], sorted(os.sched_getaffinity(0)), "3"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("import sys; sys.exit('no such layer')", "no such layer"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit status -9"),
        ("print('nothing')", "its last line is no JSON: 'nothing"),
        ("pass", "no JSON: ''"),
    ],
)
def test_a_measurement_that_fails_says_so(module, text, says):
    with pytest.raises(BenchError, match=says):
        workers.on_threads(module(text), 1)


def test_a_process_can_be_asked_more_than_once(module):
    name = module("import sys\nfor line in sys.stdin: print(2 * int(line), flush=True)\n")
    with workers.start(name, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for number in (3, 4):
            print(number, file=process.stdin, flush=True)
            assert json.loads(process.stdout.readline()) == 2 * number
        process.stdin.close()
