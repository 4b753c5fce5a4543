"""JupyterLab works on copies, of which none that was worked in is lost."""

from __future__ import annotations

import os

import nbformat
import pytest
from typer.testing import CliRunner

from bnnlib.book import chapters, lab
from bnnlib.paths import ROOT


@pytest.fixture
def root(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("00-start", "one"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text(f"{name}, first")
    return tmp_path


def test_copies_follow_the_chapters_and_keep_what_was_worked_in(root):
    copy, origin = root / "build" / "lab" / "one.ipynb", root / "notebooks" / "one.ipynb"
    assert lab.copies(root) == []
    assert copy.read_text() == "one, first"
    origin.write_text("one, second")
    assert lab.copies(root) == [] and copy.read_text() == "one, second"
    copy.write_text("mine")
    assert lab.copies(root) == ["one.ipynb was worked in and stays"] and copy.read_text() == "mine"
    origin.write_text("one, third")
    (said,) = lab.copies(root)
    assert "one.new.ipynb" in said and copy.read_text() == "mine"
    assert (copy.parent / "one.new.ipynb").read_text() == "one, third" and origin.read_text() == "one, third"
    (copy.parent / lab.MARKS).write_text("{")
    assert "stays" in lab.copies(root)[0] and copy.read_text() == "mine"
    assert sorted(p.name for p in (root / "notebooks").iterdir()) == ["00-start.ipynb", "one.ipynb"]


def test_jupyterlab_is_started_as_root_too(root, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    command = lab.command(root, ["--no-browser"])
    assert "--allow-root" in command and command[-1] == "--no-browser"
    assert any(part.endswith("build/lab/00-start.ipynb") for part in command)
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    assert "--allow-root" not in lab.command(root)


def test_threads_of_kernels_wait_passively_unless_told(root, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda *_: started.append(os.environ["OMP_WAIT_POLICY"]))
    monkeypatch.setattr(lab, "copies", lambda: [])
    monkeypatch.chdir(root)
    for told, wanted in ((None, "passive"), ("active", "active")):
        monkeypatch.setenv("OMP_WAIT_POLICY", told or "")
        if told is None:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        assert CliRunner().invoke(lab.app, ["--no-browser"]).exit_code == 0 and started.pop() == wanted


def test_the_start_notebook_names_every_chapter_and_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapters.START}.ipynb", 4)
    nbformat.validate(notebook)
    text = "\n".join(cell.source for cell in notebook.cells)
    for path in chapters.sources():
        assert f"({path.name})" in text, path.name
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert chapters.START not in {path.stem for path in chapters.sources()}
    assert chapters.parameters(notebook) == {"recipe": "s4-lenet5", "profile": "demo", "dataset": "digits"}
