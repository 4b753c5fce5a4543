"""The headline results of the README are what the records say, between their markers."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bnnlib import records
from bnnlib.benchmarks import speedups
from bnnlib.book import readme


def test_write_and_check_between_the_markers(tmp_path, put_record):
    folder, file = tmp_path / "runs", tmp_path / "README.md"
    put_record(folder, "s4-lenet5", 0, 99.0, 99.1)
    file.write_text(f"before\n{readme.START}\nold\n{readme.END}\nafter\n")
    run = CliRunner().invoke
    assert run(readme.app, ["--check", str(file), "--folder", str(folder)]).exit_code == 1
    assert run(readme.app, ["--write", str(file), "--folder", str(folder)]).exit_code == 0
    text = file.read_text()
    assert text.startswith(f"before\n{readme.START}\n| network") and text.endswith(f"{readme.END}\nafter\n")
    assert speedups.table(speedups.of_each_cpu()) in text
    assert run(readme.app, ["--check", str(file), "--folder", str(folder)]).exit_code == 0
    put_record(folder, "s4-lenet5", 1, 98.0, 99.1)
    answer = run(readme.app, ["--check", str(file), "--folder", str(folder)])
    assert answer.exit_code == 1 and "python -m bnnlib.report --write" in answer.stderr


@pytest.mark.parametrize(
    "text", ["", readme.START, f"{readme.END}{readme.START}", f"{readme.START}{readme.START}{readme.END}"]
)
def test_missing_markers_are_an_error(text):
    with pytest.raises(ValueError, match="needs one <!-- scoreboard:start -->"):
        readme.between_markers(text, "table")


def test_the_readme_shows_what_the_records_say():
    answer = CliRunner().invoke(readme.app, ["--check", str(records.ROOT / "README.md")])
    assert answer.exit_code == 0, answer.stderr
