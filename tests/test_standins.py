"""The help of the command line without PyTorch: the same text, in a process that never imports it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnnlib import standins

ROOT = Path(__file__).resolve().parents[1]
HELP = "import runpy; runpy.run_module('bnnlib.book.pages.commands', run_name='__main__')"
REAL = f"from bnnlib import standins; standins.install = lambda: None; {HELP}"


def helps(code):
    plain = {**os.environ, "TYPER_USE_RICH": "0", "COLUMNS": "76", "TERMINAL_WIDTH": "76"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_command_says_the_same_with_stand_ins():
    found, real = helps(HELP), helps(REAL)
    assert len(found) > 20 and found == real


def test_help_imports_no_slow_package():
    code = "import sys; sys.argv = ['bnn', 'deploy', 'run', '--help']\nfrom bnnlib import cli, standins\n"
    code += "try: cli.main()\nexcept SystemExit: pass\n"
    code += "print([n for n in standins.SLOW if n in sys.modules and sys.modules[n].__spec__.origin])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]" and "--resize" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [(["--help"], True), (["run", "x", "--help"], True), ([], False), (["run", "--", "--help"], False), (["--helpful"], False)],
)
def test_help_is_asked_for_by_an_option_alone(arguments, asks):
    assert standins.asks_for_help(arguments) is asks


def test_a_loaded_package_stays(monkeypatch):
    import torch

    before = list(sys.meta_path)
    standins.install()
    assert sys.meta_path == before and torch.ones(1).item() == 1
