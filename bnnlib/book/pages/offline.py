"""What pages and style sheets would load from other hosts. A site of this book loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

_LOADING = {
    *((tag, "src") for tag in ("script", "img", "source", "iframe", "audio", "video", "embed")),
    *((tag, "srcset") for tag in ("img", "source")),
    *(("video", "poster"), ("object", "data"), ("link", "href")),
}
_REMOTE = re.compile(r"^\s*(?:https?:)?//", re.IGNORECASE)
_LINKS_THAT_LOAD_NOTHING = set("canonical next prev index search author license help alternate".split())


class _Loads(HTMLParser):
    """Collects what a browser would fetch from another host to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.inside = tag
        if tag == "link" and set((given.get("rel") or "").split()) & _LINKS_THAT_LOAD_NOTHING:
            return
        for name, value in given.items():
            if (tag, name) in _LOADING and value and _REMOTE.match(value):
                self.found.append(f"<{tag} {name}={value}>")
        self.found += _styles_outside(given.get("style") or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.found += _styles_outside(data)
        elif self.inside == "script":
            self.found += [
                f"script: {url}" for url in re.findall(r"https?://(?:unpkg|cdn|cdnjs)[^\s\"']*", data)
            ]


def _styles_outside(css: str) -> list[str]:
    return re.findall(
        r"url\(\s*[\"']?(?:https?:)?//[^)]*\)|@import\s+[\"'](?:https?:)?//[^\"']*[\"']", css, re.IGNORECASE
    )


def outside(site: Path) -> list[str]:
    """What the pages and style sheets of a site would load from other hosts, as ``page: what``."""
    found = []
    for path in sorted(site.rglob("*.html")):
        parser = _Loads()
        parser.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: {what}" for what in parser.found]
    for path in sorted(site.rglob("*.css")):
        found += [
            f"{path.relative_to(site)}: {what}" for what in _styles_outside(path.read_text(encoding="utf-8"))
        ]
    return found
