"""The gate: why an executed chapter may not be published, and why a notebook may not be committed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from bnnlib.book.chapters import solutions
from bnnlib.book.chapters.notebooks import ChapterError, parameters, read
from bnnlib.book.chapters.values import SHORT
from bnnlib.book.figures import is_too_wide
from bnnlib.paths import ROOT

COLUMNS = 76  # of code that a page shows without wrapping it

_VERDICT = re.compile(
    r"\b(?:met|missed)\b|[Nn]o difference (?:is |was )?(?:shown|measured)|difference is shown|(?:above|below) by \d|\bp [=<] \d"
)
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SHORTEST_ALT = 20  # characters; "figure" or "plot" describes nothing
_CODE_FOLDED = {"hide-input", "sentence", "answer"}  # tags of cells of which a reader sees the output alone


def problems(notebook: nbformat.NotebookNode, name: str, *, profile: str = "stored") -> list[str]:
    """Why an executed chapter may not be published; empty when it may. Each line names chapter and cell."""
    ran = notebook.metadata.get("papermill", {})
    if not ran.get("end_time"):
        return [f"{name}: not executed; run `python -m bnnlib.chapters run {name} --profile {profile}`"]
    found = []
    try:
        values = {**parameters(notebook, name), **ran.get("parameters", {})}
        if values.get("profile") != profile:
            found.append(f"{name}: executed in profile {values.get('profile')!r}, asked for is {profile!r}")
    except ChapterError as error:
        found.append(str(error))
    if ran.get("exception"):
        found.append(f"{name}: stopped by an error")
    for position, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code" and cell.source.strip():
            count = cell.execution_count
            label = f"{name}: cell [{count}]" if count else f"{name}: cell {position}"
            found += [f"{label} {what}" for what in _cell_problems(cell)]
            if profile in SHORT:
                found += [f"{label} gives a verdict from a {profile} run: {what}" for what in _verdicts(cell)]
    found += [f"{name}: nothing is shown below {line!r}; say why, and which run shows it" for line in _unanswered(notebook)]
    if profile in SHORT:  # of a stored run Sphinx tells
        found += [f"{name}: its text names {label}, which a {profile} run does not show: see left_out" for label in _absent(notebook)]
    return found


def _unanswered(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Headings, questions and lines that end in a colon, below which the cells up to the next text show nothing."""
    asked, cells = "", False
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cells = True
            if _shows(cell):
                asked = ""
            continue
        if asked and cells:
            yield asked
        line, cells = cell.source.rstrip().rpartition("\n")[2], False
        asked = line if line.endswith(("?", ":")) or line.startswith("##") else ""
    if asked and cells:
        yield asked


def _absent(notebook: nbformat.NotebookNode) -> list[str]:
    """Figures and tables that the text refers to, and that are neither shown nor said to be left out (by :func:`.values.left_out`)."""
    named, there = {}, set()
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        if outputs:
            there.add(cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))
        for text in [cell.source] * (cell.cell_type == "markdown") + [o.get("data", {}).get("text/markdown", "") for o in outputs]:
            named |= dict.fromkeys(re.findall(r"\{numref\}`(.+?)`", text))
            there.update(re.findall(r"(?:^:name: |(?<!\})`)((?:fig|tab)-[\w-]+)`?", text, re.MULTILINE))
    return [label for label in named if label not in there]


def _shows(cell: nbformat.NotebookNode) -> bool:
    """Whether a reader sees anything of a cell: its code, or an output that is no empty Markdown."""
    if not _CODE_FOLDED & set(cell.metadata.get("tags", [])):
        return True
    return any(output.get("data", {}).get("text/markdown", "said").strip() for output in cell.outputs)


def _verdicts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """Words by which a cell's output judges a result."""
    for output in cell.get("outputs", []):
        for kind in ("text/markdown", "text/html"):
            text = re.sub(r"<style.*?</style>", "", output.get("data", {}).get(kind, ""), flags=re.DOTALL)
            yield from (found[0] for found in _VERDICT.finditer(text))


def _cell_problems(cell: nbformat.NotebookNode) -> Iterator[str]:
    if cell.execution_count is None:
        yield "was not executed"
    elif solutions.is_one(cell) and not solutions.printed(cell).strip():
        yield f"is the solution of {solutions.label_of(cell)} and prints nothing"
    figures = 0
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"raised {output.ename}: {output.evalue}"
        if output.output_type == "stream" and output.name == "stderr":
            first = output.text.strip().partition("\n")[0]
            yield f"prints to stderr: {first[:120] or '(blank lines)'}"
        data = output.get("data", {})
        figures += any(kind.startswith("image/") for kind in data)
        if is_too_wide(str(data.get("image/svg+xml", ""))):
            yield "shows a figure that has no layout for a phone: see bnnlib.book.phone_layout.narrow for what has none"
        if _WIDGET in data and "remove-output" not in cell.metadata.get("tags", []):
            yield "shows a widget, of which a page has nothing: tag it remove-output, show a figure beside it"
        for image in re.findall(r"<img\b[^>]*>", str(data.get("text/html", ""))):
            if not re.search(r"\balt=([\"'])(?=.*\S)", image):
                yield "shows an <img> without alt text"
        for text in (output.get("text", ""), data.get("text/html", ""), data.get("text/plain", "")):
            if any(path in str(text) for path in _machine_paths()):
                yield "prints a path of this machine"
    if figures > 1:
        yield f"shows {figures} figures: one a cell, so that each has its alt text"
    alt = str(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")).strip()
    if figures and len(alt) < _SHORTEST_ALT:
        yield (
            "shows a figure without alt text; say what it shows in the cell's metadata: "
            '{"mystnb": {"image": {"alt": "..."}}}' + (f" ({alt!r} is too short)" if alt else "")
        )


def _machine_paths() -> list[str]:
    return [f"{path}{os.sep}" for path in {str(ROOT), str(Path.home())} if len(path) > 1]


def source_problems(notebook: nbformat.NotebookNode, name: str) -> list[str]:
    """Why a notebook may not be committed: outputs in it, no parameters, another kernel, installs, lines cut by
    the page."""
    found = []
    try:
        defaults = parameters(notebook, name)
        for key, value in (("profile", "stored"), ("seed", 0)):
            if defaults.get(key) != value:
                found.append(f"{name}: the parameters cell has no `{key} = {value!r}`")
        cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
        for line in cell.source.splitlines():
            if "=" in line.partition("#")[0] and not re.fullmatch(r"\w+: \w+ = [^=#]+#[^=]*\w[^=]*", line):
                found.append(
                    f"{name}: papermill's help wants `name: type = literal  # comment without '='`, has: {line}"
                )
    except ChapterError as error:
        found.append(str(error))
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        found.append(f"{name}: its kernel is {kernel!r}; it must be 'python3', which every environment has")
    if "papermill" in notebook.metadata:
        found.append(f"{name}: an executed copy; chapters are stored as they are before papermill runs them")
    for position, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        if cell.outputs or cell.execution_count is not None:
            found.append(f"{name}: cell {position} is stored with outputs; clear them (JupyterLab: Edit)")
        wide = [line for line in cell.source.splitlines() if len(line) > COLUMNS]
        if wide:
            found.append(f"{name}: cell {position} is wider than the page's {COLUMNS} columns: {wide[0].strip()}")
        if re.search(r"^\s*[%!]\s*(pip|conda|apt)\b|sys\.path", cell.source, re.MULTILINE):
            found.append(
                f"{name}: cell {position} installs something or turns sys.path; the environment does that"
            )
    return found


def check(path: Path, *, profile: str = "stored") -> list[str]:
    """:func:`problems` of the executed chapter at ``path``."""
    try:
        return problems(read(path), Path(path).stem, profile=profile)
    except ChapterError as error:
        return [str(error)]
