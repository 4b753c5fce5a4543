"""Worked solutions of exercises: code in a chapter's prose. It runs after the chapter, and the page shows what it prints."""

from __future__ import annotations

import re

import nbformat

TAG = "solution"
_PREFIX = "solution-"  # of the ids of cells
_SOLUTION = re.compile(r"^(?P<fence>`{3,})\{solution\} (?P<label>\S+)\n(?P<body>.*?)^(?P=fence)$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def find(prose: str) -> dict[str, str]:
    """The code of each solution in ``prose``, by the label of its exercise; empty for one of words alone."""
    return {found["label"]: "\n".join(_CODE.findall(found["body"])) for found in _SOLUTION.finditer(prose)}


def as_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """A code cell for each solution that has code, tagged ``solution``, to be run after the chapter's."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return [
        nbformat.v4.new_code_cell(code, id=f"{_PREFIX}{label}", metadata={"tags": [TAG]})
        for text in prose
        for label, code in find(text).items()
        if code
    ]


def is_one(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell is one that :func:`as_cells` made."""
    return TAG in cell.metadata.get("tags", [])


def label_of(cell: nbformat.NotebookNode) -> str:
    """The label of the exercise that such a cell solves."""
    return cell.id.removeprefix(_PREFIX)


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell has printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def as_printed(text: str) -> str:
    """What code has printed, as MyST: a block that a page tells from code. Its fence is of four, since the text may hold one of
    three."""
    return f"````{{code-block}} text\n:class: printed\n{text.rstrip()}\n````"


def with_output(prose: str, said: dict[str, str]) -> str:
    """``prose`` with what each solution printed, ``said`` by label, below its code."""

    def shown(found: re.Match[str]) -> str:
        text = said.get(found["label"], "").rstrip()
        if not text:
            return found[0]
        *_, last = _CODE.finditer(found["body"])
        body = found["body"]
        told = f"\n{as_printed(text)}\n"
        body = body[: last.end()] + told + body[last.end() :]
        fence = "`" * max(5, len(found["fence"]))
        return f"{fence}{{solution}} {found['label']}\n{body}{fence}"

    return _SOLUTION.sub(shown, prose)
