"""Cards in a grid, as sphinx-design's directives in MyST Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def card(title: str, text: str, link: str | None = None, footer: str = "", options: Mapping[str, str] | None = None) -> str:
    """A card. ``link``: the page that it leads to; ``footer``: a line below the text; ``options``: further ones of the directive."""
    given = {"link": link, "link-type": "doc"} if link else {}
    head = "\n".join(f":{name}: {value}" for name, value in (given | dict(options or {})).items())
    below = f"\n:::{{card-footer}}\n{footer}\n:::" if footer else ""
    return f"::::{{grid-item-card}} {title}\n{head}\n\n{text}{below}\n::::"


def grid(cards: Iterable[str], columns: str = "") -> str:
    """The cards side by side. ``columns``: how many, on four widths of a screen from a phone's up; else each card says its own."""
    return f":::::{{grid}} {columns}".rstrip() + "\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n:::::\n"
