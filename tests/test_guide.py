"""The page on nets of one's own: its code runs as it stands, its file classifies a PNG from the command line, its table is the converter's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnnlib import models
from bnnlib.book.chapters import gate
from bnnlib.book.pages import guide
from bnnlib.deploy.tensorkinds import SUPPORTED

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "your-own-net.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(what the page's code leaves, the folder that it ran in)."""
    folder, before = tmp_path_factory.mktemp("own net"), Path.cwd()
    found: dict = {}
    builders = dict(models.BUILDERS)
    os.chdir(folder)
    try:
        for block in guide.blocks(PAGE.read_text()):
            exec(compile(block, str(PAGE), "exec"), found)  # noqa: S102
    finally:
        os.chdir(before)
        models.BUILDERS.clear()  # the page registers a net
        models.BUILDERS.update(builders)
    return found, folder


def test_the_net_learns_and_its_file_agrees(made):
    found, _ = made
    said = {name: found[name] for name in ("agree", "tuned_accuracy", "fresh_accuracy")}
    assert found["accuracy"](found["net"]) > 0.9 and said["agree"] > 0.98, said
    assert said["tuned_accuracy"] > 0.75 and said["fresh_accuracy"] > 0.7, said  # of a hundred images
    assert found["accuracy"](found["tuned"], found["as_in_training"]) > 0.9
    assert found["existing_accuracy"] > 0.85, found["existing_accuracy"]
    assert [op.kind for op in found["packed"].graph.ops].count("binary_conv") == 3


def test_the_net_trains_by_the_recipe(made):
    found, folder = made
    assert found["result"].record.top1_last > 90 and found["result"].record.recipe == "mine"
    assert found["result"].run_dir.is_relative_to("runs") and (folder / found["result"].run_dir / "model.safetensors").is_file()


def test_the_runner_without_pytorch_gives_what_the_packed_network_gives(made):
    found, _ = made
    assert np.array_equal(found["logits"], found["packed"](found["test"]).numpy())


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
    assert sum(re.split(r"  +", line)[1].startswith("7 ") for line in lines[1:]) > 0.8 * len(lines[1:])


def test_code_is_as_wide_as_the_page():
    assert max(len(line) for block in guide.blocks(PAGE.read_text()) for line in block.splitlines()) <= gate.COLUMNS


def test_the_table_is_generated():
    text = PAGE.read_text()
    assert "```{include} generated/supported.md" in text and not any(row[1] in text for row in SUPPORTED)


SHORT = "Two blocks:\n\n```python\na = 2\nprint(a)\n```\n\nand\n\n```python\nb = 2 * a\n```\n\n```sh\nls\n```\n"


def test_what_a_block_prints_stands_below_it(tmp_path, monkeypatch):
    assert guide.page(SHORT, "as now", tmp_path) == SHORT.replace("print(a)\n```", "print(a)\n```\n\n````{code-block} text\n:class: printed\n2\n````")
    # Nothing is run twice, and all is run anew when the page or what it depends on has changed.
    ran = []
    monkeypatch.setattr(guide, "run", lambda text, root: ran.append(text) or ["", ""])
    assert "2\n````" in guide.page(SHORT, "as now", tmp_path) and not ran
    assert guide.page(SHORT, "changed", tmp_path) == SHORT and ran == [SHORT]
    guide.page(SHORT.replace("2", "3"), "changed", tmp_path)
    assert len(ran) == 2
    (tmp_path / "build" / "guide.json").write_text("damaged")
    guide.page(SHORT, "changed", tmp_path)
    assert len(ran) == 3


def test_a_block_that_fails_stops_the_build():
    with pytest.raises(guide.GuideError, match="(?s)your-own-net.md.*block 1.*ZeroDivisionError"):
        guide.run("```python\n1 / 0\n```\n")
