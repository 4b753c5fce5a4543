"""Figures in the text of their pages: matplotlib's SVG files become inline, in the colours of the page's theme.

A picture in a file of its own cannot know whether the reader has switched the page to dark. Inline, its ink is the
page's, and the colours of :mod:`bnnlib.book.figures` become variables of the style sheet. A figure that has another layout for a phone
stands in the page twice, and the style sheet shows the one that fits.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from bnnlib.book import figures

VARIABLES = {
    figures.INK: "currentColor",
    figures.GRID: "var(--figure-grid)",
    figures.ON: "var(--figure-on)",
    figures.FAINT: "var(--figure-faint)",
    figures.BINARY: "var(--book-binary)",
    figures.REAL: "var(--book-real)",
    figures.SOURCE: "var(--book-source)",
    figures.OURS: "var(--book-ours)",
    figures.FURTHER[0]: "var(--figure-fifth)",
    figures.FURTHER[1]: "var(--figure-sixth)",
}
_IMAGE = re.compile(r'<img\b[^>]*\bsrc="(?P<file>[^"]*_images/[^"/]+\.svg)"[^>]*>')
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def inline(site: Path) -> int:
    """Put matplotlib's figures into the pages of a site; returns how many. Files that no page shows any more go."""
    count, used = 0, set()
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")

        def put(found: re.Match[str], page: Path = path) -> str:
            nonlocal count
            file = (page.parent / html.unescape(found["file"])).resolve()
            drawn = file.read_text(encoding="utf-8")
            if "matplotlib" not in drawn[:2000]:
                return found[0]
            count += 1
            used.add(file)
            alt = re.search(r'\balt="([^"]*)"', found[0])
            label = alt[1] if alt else ""
            return both(drawn, label, f"f{count}-")

        new = _IMAGE.sub(put, text)
        if new != text:
            path.write_text(new, encoding="utf-8")
    for file in used:
        file.unlink()
    return count


def both(drawn: str, label: str, prefix: str) -> str:
    """A figure with its layout for a phone, where it has one, as elements of a page: see :func:`as_inline`."""
    wide, narrow = figures.split(drawn)
    shown = as_inline(wide, label, prefix)
    if narrow is None:
        return shown
    shown = shown.replace('class="drawn"', 'class="drawn wide"', 1)
    return shown + as_inline(narrow, label, f"n{prefix}").replace('class="drawn"', 'class="drawn narrow"', 1)


def as_inline(svg: str, label: str, prefix: str) -> str:
    """A figure as an element of a page. ``label``: its description, escaped as in HTML; ``prefix``: of its ids."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _COLOUR.sub(lambda found: VARIABLES.get(found[0], found[0]), svg)
    svg = re.sub(r"\bstroke: #000000", "stroke: currentColor", svg)
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(
        r' id="([^"]+)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in referred else "", svg
    )
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    if box is None:
        raise ValueError("a figure without a viewBox cannot be put into a page")
    width = float(box[1].split()[2])
    links = ' xmlns:xlink="http://www.w3.org/1999/xlink"' if "xlink:" in rest else ""
    named = f'role="img" aria-label="{label}"' if label else 'aria-hidden="true"'
    return (
        f'<svg class="drawn" viewBox="{box[1]}" style="--drawn-width: {width / 72:.2f}in" {named}{links}>'
        + re.sub(r"\n\s*", "\n", rest)
    )
