"""A card for each chapter: picture, title, question and reading time."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import nbformat
import yaml

from bnnlib.book import chapters, figures
from bnnlib.book.pages.grid import card, grid

_LARGEST = 150_000  # bytes of a picture on a card; a larger figure would make the first page slow
_KINDS = {"image/svg+xml": "svg", "image/png": "png"}


def questions(root: Path) -> dict[str, str]:
    """The short questions of ``book/questions.yml``, by chapter."""
    path = root / "book" / "questions.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def chapter_cards(
    notebooks: Iterable[Path],
    questions: Mapping[str, str] | None = None,
    pictures: Mapping[str, tuple[str, bytes]] | None = None,
    places: Mapping[str, str] | None = None,
) -> str:
    """A card for each chapter: its picture where it has one, its title, its question (of ``questions``, else the one
    that it opens with), its place in the book (of ``places``, by page), and how long it takes to read."""
    made = []
    for path in notebooks:
        title, asked = opening(path)
        asked = (questions or {}).get(path.stem, asked)
        picture = {}
        if path.stem in (pictures or {}):
            picture = {"img-top": f"pictures/{path.stem}.{pictures[path.stem][0]}", "img-alt": title}
        page = f"notebooks/{path.stem}"
        place, minutes = (places or {}).get(page), reading_minutes(path)
        footer = f"{place} · {minutes} min" if place else f"{minutes} min to read"
        made.append(card(title, asked, page, footer, picture))
    if not made:
        return "*None yet.*\n"
    return grid(made, "1 1 2 3")


def pictures(notebooks: Iterable[Path]) -> dict[str, tuple[str, bytes]]:
    """Of each chapter the figure of its cell tagged ``thumbnail``, else its first that is small: kind and content."""
    found = {}
    for path in notebooks:
        shown = [(cell, drawn) for cell in chapters.read(path).cells if (drawn := _figure(cell))]
        chosen = [drawn for cell, drawn in shown if "thumbnail" in cell.metadata.get("tags", [])]
        small = [drawn for _, drawn in shown if len(drawn[1]) <= _LARGEST]
        if chosen or small:
            found[path.stem] = (chosen or small)[0]
    return found


def _figure(cell: nbformat.NotebookNode) -> tuple[str, bytes] | None:
    """The figure that a cell shows, if it shows one."""
    for output in cell.get("outputs", []):
        for kind, suffix in _KINDS.items():
            if drawn := output.get("data", {}).get(kind):
                return suffix, figures.split(drawn)[0].encode() if suffix == "svg" else base64.b64decode(drawn)
    return None


def reading_minutes(path: Path) -> int:
    """Minutes that a chapter's prose takes at 200 words a minute; code is not counted."""
    prose = " ".join(cell.source for cell in chapters.read(path).cells if cell.cell_type == "markdown")
    return max(1, round(len(prose.split()) / 200))


def opening(path: Path) -> tuple[str, str]:
    """A chapter's title, and the paragraph below it: its question. Raises :class:`chapters.ChapterError` without
    them."""
    text = "\n\n".join(cell.source for cell in chapters.read(path).cells if cell.cell_type == "markdown")
    found = re.match(r"\s*# +(\S.*)\n+([^\s#:`>|\-][^\n]*(?:\n[^\n]+)*)", text)
    if found is None:
        raise chapters.ChapterError(
            f"chapter {path.stem} must open with a title (# ...) and, below it, the question that it answers"
        )
    question = re.sub(r"^\*\*(The )?question[.:]?\*\*[.:]?\s*", "", found[2], flags=re.IGNORECASE)
    return found[1].strip(), " ".join(question.split())
