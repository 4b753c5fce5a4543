"""The chapters in JupyterLab, in a real browser: MyST is set, a training shows its bar and can be stopped and gone on with, an exercise
is done on a copy.

``BNN_LAB_CHAPTERS=all`` (or names, with commas) does an exercise of other chapters than the shortest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from toolchains import in_chromium

from bnnlib.book import chapters, lab

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("playwright.sync_api")
pytest.importorskip("jupyterlab")
pytestmark = in_chromium
ASKED = os.environ.get("BNN_LAB_CHAPTERS", "one-binary-neuron")
CHOSEN = [path.stem for path in chapters.sources(ROOT)] if ASKED == "all" else ASKED.split(",")
RUN = "async () => { await jupyterapp.commands.execute('notebook:run-all-cells'); }"
CELLS = "() => jupyterapp.shell.currentWidget.content.model.toJSON().cells"
READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
LONG = 900_000  # milliseconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, folder): JupyterLab as ``make lab`` starts it, on copies of the chapters in a folder of their own."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    shutil.copy(ROOT / "_toc.yml", root)
    lab.copies(root)
    plugin = root / "settings" / "@jupyterlab" / "notebook-extension"
    plugin.mkdir(parents=True)
    (plugin / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # all cells are in the page
    homes = {f"JUPYTER_{name}_DIR": str(root / name.lower()) for name in ("CONFIG", "RUNTIME")}
    homes |= {"JUPYTERLAB_SETTINGS_DIR": str(root / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces")}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, **homes, "PYTHONPATH": path, "BNN_RUNS": str(root / "runs")}
    further = ["--no-browser", "--ServerApp.port=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    with (root / "log").open("w") as log:
        running = subprocess.Popen(lab.command(root, further), cwd=root, env=environment, stdout=log, stderr=log)
    try:
        while not (found := list((root / "runtime").glob("jpserver-*.json"))):
            assert running.poll() is None, (root / "log").read_text()
            time.sleep(0.2)
        time.sleep(0.5)
        yield json.loads(found[0].read_text())["url"].rstrip("/"), root
    finally:
        running.terminate()
        running.wait()


@pytest.fixture
def visit(server, chromium):
    """Opens the copy of a chapter, with its kernel started."""
    address, _ = server
    opened = []

    def visit(name):
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(LONG)
        page.goto(f"{address}/lab/tree/build/lab/{name}.ipynb?reset")  # no tab of an earlier page
        page.wait_for_function(READY)
        opened.append(page)
        return page

    yield visit
    for page in opened:
        page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
        page.close()


def outputs(cell):
    """What a cell printed and showed, as text."""
    parts = []
    for output in cell.get("outputs", []):
        found = output.get("text") or output.get("data", {}).get("text/plain") or output.get("traceback") or ""
        parts.append(found if isinstance(found, str) else "\n".join(found))
    return "\n".join(parts)


def test_a_training_shows_its_bar_and_a_stop_loses_nothing(server, visit):
    _, root = server
    page = visit("00-start")
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.locator(".jp-OutputArea").get_by_text(re.compile(r"epoch\s[2-8]/8")).first.wait_for()
    assert page.locator(".jp-OutputArea .jupyter-widgets .progress-bar, .jp-OutputArea .widget-hprogress").count()
    page.locator('[data-command="notebook:interrupt-kernel"], button[title^="Interrupt the kernel"]').first.click()
    page.locator(".jp-OutputArea").get_by_text("stopped by SIGINT").first.wait_for()
    assert "Traceback" not in " ".join(outputs(cell) for cell in page.evaluate(CELLS))
    (status,) = (root / "runs").rglob("status.json")
    before = json.loads(status.read_text())
    assert 1 <= before["epoch"] < before["epochs"] == 8

    page.evaluate(RUN)
    assert re.search(r"\d\d\.\d\d % of the test images", outputs(page.evaluate(CELLS)[4]))
    curve = json.loads((status.parent / "record.json").read_text())["curve"]
    kept = curve[before["epoch"] - 1]
    assert len(curve) == 8 and kept["test_top1"] == before["top1"] and curve[-1]["test_top1"] > 80
    page.evaluate(RUN)  # a third time: nothing is trained
    assert "finished" in outputs(page.evaluate(CELLS)[4])
    assert (root / "notebooks" / "00-start.ipynb").read_bytes() == (ROOT / "notebooks" / "00-start.ipynb").read_bytes()


def test_what_a_chapter_says_in_myst_is_set(visit):
    page = visit("lenet5-mnist")
    page.locator(".jp-MarkdownCell .myst:visible").first.wait_for()
    text = "\n".join(page.locator(".jp-MarkdownCell").all_inner_texts())
    assert "The question." in text
    for raw in ("{cite}`", "```{exercise}", "{numref}`", "$$", ":class: dropdown"):
        assert raw not in text, raw
    assert page.locator(".jp-MarkdownCell .katex, .jp-MarkdownCell mjx-container").count()


def solution(name):
    """The code of the first solution in a chapter."""
    text = "\n".join(cell.source for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells)
    return re.search(r"\{solution\}.*?```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize("name", CHOSEN)
def test_an_exercise_is_done_on_a_copy(server, visit, name):
    _, root = server
    copy = root / "build" / "lab" / f"{name}.ipynb"
    notebook = nbformat.read(copy, 4)
    for cell in notebook.cells:  # as a reader turns it: the first parameter
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r'profile(: str)? = "stored"', r'profile\1 = "quick"', cell.source)
    nbformat.write(notebook, copy)
    page = visit(name)
    page.evaluate(RUN)
    broken = [outputs(c) for c in page.evaluate(CELLS) if any(o["output_type"] == "error" for o in c.get("outputs", []))]
    assert not broken, broken
    page.locator(".jp-Cell").last.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.evaluate("text => { jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.setSource(text); }", solution(name))
    page.evaluate("async () => { await jupyterapp.commands.execute('notebook:run-cell'); }")
    last = page.evaluate(CELLS)[-1]
    assert last["outputs"] and not any(o["output_type"] == "error" for o in last["outputs"]), outputs(last)
    assert outputs(last).strip()
