"""The page on nets of one's own: its code runs as it stands, its file classifies a PNG from the command line, its table is the converter's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnnlib.deploy.tensorkinds import SUPPORTED

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "your-own-net.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(what the page's code leaves, the folder that it ran in)."""
    folder, before = tmp_path_factory.mktemp("own net"), Path.cwd()
    found: dict = {}
    os.chdir(folder)
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), found)  # noqa: S102
    finally:
        os.chdir(before)
    return found, folder


def test_the_net_learns_and_its_file_agrees(made):
    found, _ = made
    assert found["accuracy"] > 0.5 and found["agree"] > 0.98 and found["tuned_accuracy"] > 0.2, {k: found[k] for k in ("accuracy", "agree", "tuned_accuracy")}
    assert [op.kind for op in found["packed"].graph.ops].count("binary_conv") == 3


def test_the_file_classifies_a_png_from_the_command_line(made):
    _, folder = made
    picture = sorted((folder / "own" / "test" / "3").iterdir())[0]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "bnnlib.deploy", "run", "own.bnn", str(picture), "own/test/7"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(list((folder / "own" / "test" / "7").iterdir()))
    assert sum(re.split(r"  +", line)[1].startswith("7 ") for line in lines[1:]) > 0.5 * len(lines[1:])


def test_the_table_is_what_the_converter_says():
    text = PAGE.read_text()
    for row in SUPPORTED:
        assert "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" in text
