"""The help of the command line without PyTorch: the same text, in a process that never imports it."""

import json
import os
import re
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


def named_modules():
    """The modules that README, CONTRIBUTING, the Makefile or a page runs by ``python -m``."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "Makefile", *(ROOT / "book").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return sorted(set(re.findall(r"-m (bnnlib(?:\.\w+)*)", text)))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A folder whose slow packages end the process that imports one of them."""
    folder = tmp_path_factory.mktemp("poisoned")
    for name in standins.SLOW:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    return folder


@pytest.mark.parametrize("module", named_modules())
def test_help_of_a_module_imports_no_slow_package(module, poisoned):
    path = os.pathsep.join([str(poisoned), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("command", "installs"),
    [
        ("python -m bnnlib.data --help", True),
        ("python -W ignore -m bnnlib deploy run --help", True),
        ("python -m bnnlib.data info", False),
        ("python -m bnnlib.deploy run -- --help", False),
        ("python -m bnnlibrary --help", False),
        ("python -m", False),
        ("bnn --help", False),
    ],
)
def test_stand_ins_are_for_modules_of_ours_alone(command, installs, monkeypatch):
    done = []
    monkeypatch.setattr(standins, "install", lambda: done.append(True))
    standins.install_for_help_of(command.split())
    assert bool(done) is installs


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
