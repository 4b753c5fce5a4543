"""An executed chapter as its page: what the tags of its cells mean there, and what a page has no use for.

``parameters`` and ``imports`` are folded. Of ``cost`` and ``sentence`` only what the cell puts out is shown; where the code of
such a cell defines a name that code on the page uses, it is folded, so that whoever types along misses nothing. ``answer`` is
a sentence that stands below the chapter's question, however late its numbers are computed. What a ``solution`` printed stands
below its code, in the exercises. A folded cell that shows nothing is folded with the one below it.
"""

from __future__ import annotations

import symtable
from collections.abc import Iterator
from pathlib import Path

import nbformat

from bnnlib.book import chapters, opening
from bnnlib.book.chapters import solutions

FOLDED = {"parameters": "parameters", "imports": "imports"}
OUTPUT_ALONE = {"cost", "sentence", "answer"}


def _tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for inner in table.get_children():
        yield from _scopes(inner)


def names(source: str) -> tuple[set[str], set[str]]:
    r"""Global names that a cell's code defines, and those that it uses.

    >>> [sorted(found) for found in names("import math\ndef f(x):\n    return math.pi * x * a")]
    [['f', 'math'], ['a', 'math']]
    """
    whole = symtable.symtable(source, "cell", "exec")
    defined, used = set(), set()
    for scope in _scopes(whole):
        for symbol in scope.get_symbols():
            if scope is whole or symbol.is_global():
                bound = symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
                defined |= {symbol.get_name()} if bound else set()
                used |= {symbol.get_name()} if symbol.is_referenced() else set()
    return defined, used


def needed(cells: list[nbformat.NotebookNode]) -> set[str]:
    """The ids of cells whose output alone is shown, but whose code defines a name that shown code uses and does not define."""
    alone: dict[str, set[str]] = {}
    defined, used = set(), set()
    for cell in cells:
        if cell.cell_type == "code":
            makes, takes = names(cell.source)
            if OUTPUT_ALONE & _tags(cell):
                alone[cell.id] = makes
            else:
                defined |= makes
                used |= takes
    return {name for name, makes in alone.items() if makes & (used - defined)}


def folded_together(cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A folded cell that shows nothing goes into the fold of the folded cell below it: one line "Show the code" for both."""
    kept: list[nbformat.NotebookNode] = []
    for cell in cells:
        above = kept[-1] if kept else None
        if above and all("hide-input" in _tags(one) and not FOLDED.keys() & _tags(one) for one in (above, cell)) and not above.outputs:
            cell.source = f"{kept.pop().source}\n\n\n{cell.source}"
        kept.append(cell)
    return kept


def as_page(path: Path) -> bytes:
    """The notebook at ``path`` as Jupyter Book takes it, less papermill's timings and its injected cell."""
    notebook = chapters.read(path)
    seconds = {"stored": chapters.times.taken(notebook)}
    notebook.metadata = {
        key: notebook.metadata[key] for key in ("kernelspec", "language_info") if key in notebook.metadata
    }
    unfold = needed(notebook.cells)
    for cell in notebook.cells:
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        if OUTPUT_ALONE & set(tags):
            tags.append("hide-input" if cell.id in unfold else "remove-input")
        for what in FOLDED.keys() & set(tags):
            tags.append("hide-input")
            prompts = {"code_prompt_show": f"Show the {what}", "code_prompt_hide": f"Hide the {what}"}
            cell.metadata["mystnb"] = {**prompts, **cell.metadata.get("mystnb", {})}
        if cell.cell_type == "code":  # a sentence with nothing to say is an empty Markdown: no output, not its name
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get("text/markdown", "said").strip()]
        if "cost" in tags:
            for output in cell.outputs:
                if shown := output.get("data", {}).get("text/markdown"):
                    output.data["text/markdown"] = opening.with_times(shown, seconds)
    said = {solutions.label_of(cell): solutions.printed(cell) for cell in notebook.cells if solutions.is_one(cell)}
    notebook.cells = [cell for cell in notebook.cells if not solutions.is_one(cell)]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = solutions.with_output(cell.source, said)
    # The sort keeps the order of equals: the question first, then the answer, then all the rest.
    answers = ["answer" in cell.metadata.get("tags", []) for cell in notebook.cells]
    order = sorted(range(len(answers)), key=lambda i: i > 0 and 2 - answers[i])
    notebook.cells = folded_together([notebook.cells[i] for i in order])
    return nbformat.writes(notebook).encode()
