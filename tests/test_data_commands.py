"""The command ``bnn data``: what is here, what a set holds, and mistakes in one sentence."""

import pytest
from data_files import write_mnist
from typer.testing import CliRunner

from bnnlib import data
from bnnlib.data.__main__ import app


def test_info_lists_what_is_here(alone, tmp_path):
    write_mnist(tmp_path / "d")
    result = CliRunner().invoke(app, ["info", "--root", str(tmp_path / "d")])
    assert result.exit_code == 0 and str(tmp_path / "d" / "MNIST" / "raw") in result.output
    assert "not here" in result.output and "embedded" in result.output


def test_info_describes_a_set(alone, tmp_path):
    write_mnist(tmp_path / "d")
    result = CliRunner().invoke(app, ["info", "mnist", "--root", str(tmp_path / "d")])
    assert result.exit_code == 0
    assert data.load("mnist", tmp_path / "d").fingerprint in result.output
    assert "20 images of 1 x 28 x 28" in result.output


def test_fetch_says_where_it_is(alone, tmp_path):
    folder, _ = write_mnist(tmp_path / "d")
    result = CliRunner().invoke(app, ["fetch", "mnist", "--root", str(tmp_path / "d")])
    assert result.exit_code == 0 and str(folder) in result.output
    assert "nothing to fetch" in CliRunner().invoke(app, ["fetch", "digits"]).output


@pytest.mark.parametrize(
    "command", [["fetch", "mnist"], ["info", "mnist"], ["info", "nonsense"], ["fetch", "nonsense"]]
)
def test_commands_fail_with_one_sentence(alone, command):
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "error: " in result.output and "Traceback" not in result.output
