"""The chapters' notebooks: where they are, what is in them, and their parameters' defaults."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat

from bnnlib.paths import ROOT

START = "00-start"  # the notebook that JupyterLab opens: no chapter


class ChapterError(Exception):
    """A chapter that cannot be read, run or published; the message names chapter and cell."""

    def _render_traceback_(self) -> list[str]:  # what IPython shows of it: the sentence alone
        return [f"ChapterError: {self}"]


def sources(root: Path = ROOT) -> list[Path]:
    """The chapters' notebooks, by name."""
    return sorted(path for path in (root / "notebooks").glob("*.ipynb") if path.stem != START)


def source(name: str, root: Path = ROOT) -> Path:
    """The notebook of the chapter ``name`` (``lenet5-mnist``; its path is understood too)."""
    path = root / "notebooks" / f"{Path(name).stem}.ipynb"
    if not path.is_file():
        known = ", ".join(p.stem for p in sources(root)) or "none yet"
        raise ChapterError(f"no chapter {name!r} in notebooks/; there are: {known}")
    return path


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook. Raises :class:`ChapterError` for one that is absent or damaged."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise ChapterError(f"{path}: {error.strerror}") from None
    except (ValueError, nbformat.ValidationError, nbformat.reader.NotJSONError) as error:
        raise ChapterError(f"{path} is no notebook: {str(error).splitlines()[0][:200]}") from None
    return notebook


def parameters(notebook: nbformat.NotebookNode, name: str = "notebook") -> dict[str, Any]:
    """Name and default of every parameter: the literals assigned in the cell tagged ``parameters``."""
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ChapterError(f"{name}: {len(cells)} cells are tagged 'parameters'; a chapter has exactly one")
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            plain = isinstance(statement, ast.Assign)
            targets = statement.targets if plain else [getattr(statement, "target", None)]
            if len(targets) != 1 or not isinstance(targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} is not 'name = literal'")
            found[targets[0].id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError) as error:
        raise ChapterError(
            f"{name}: the cell tagged 'parameters' holds more than literals: {error}"
        ) from None
    return found
