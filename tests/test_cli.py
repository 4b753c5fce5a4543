"""The command line in front of all commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("module", [["bnnlib", "report"], ["bnnlib.report"]])
def test_a_terminal_without_unicode_shows_escapes(module):
    done = subprocess.run(
        [sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    assert "VGG-style XNOR-Net" in done.stdout and "\\xb1" in done.stdout
