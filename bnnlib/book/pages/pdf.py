"""The whole book as one PDF: all pages in reading order behind a list of contents, printed by Chromium.

Chromium is no dependency of the book. Where it is not installed there is no PDF, and no page links to one.
"""

from __future__ import annotations

import html
import posixpath
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from bnnlib import __version__

NAME = "binary-neural-networks-reproduced.pdf"
MARK = '<span class="whole-book"></span>'
_LIMIT = 300  # seconds that printing may take
_READY = """<script>
document.querySelectorAll('details.hide, .headerlink, .copybtn, .page-source, .prev-next-footer').forEach(e => e.remove());
document.querySelectorAll('details').forEach(e => { e.open = true; });
document.querySelectorAll('.toggle-hidden').forEach(e => e.classList.remove('toggle-hidden'));
</script>"""
_STYLE = """<style>
@page { size: A4; margin: 18mm 17mm 20mm; @bottom-center { content: counter(page); font: 9pt sans-serif; } }
body { max-width: none; background: #fff; }
.bd-article { padding: 0; break-before: page; }
.contents { font-family: var(--book-font-ui); } .contents li { margin: 0.25rem 0; list-style: none; }
.cover { padding-top: 30vh; } .cover h1 { font-size: 30pt; }
</style>"""


class PdfError(RuntimeError):
    """A PDF that was not printed; the message says what Chromium said."""


def chromium() -> str | None:
    """The installed Chromium, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


def make(site: Path, order: list[str], program: str) -> Path:
    """Print the pages ``order`` (names without .html) of ``site`` into one file of it, and link to that file where a
    page has :data:`MARK`."""
    pages = [name for name in order if (site / f"{name}.html").is_file()]
    whole = site / ".whole-book.html"
    whole.write_text(document(site, pages), encoding="utf-8")
    out = site / NAME
    try:
        with tempfile.TemporaryDirectory() as profile:
            command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
            command += [
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--allow-file-access-from-files",
                "--no-pdf-header-footer",
            ]
            command += [
                "--generate-pdf-document-outline",
                "--virtual-time-budget=120000",
                f"--print-to-pdf={out}",
            ]
            done = subprocess.run([*command, whole.as_uri()], capture_output=True, text=True, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        raise PdfError(f"Chromium has not printed the book within {_LIMIT} s") from None
    finally:
        whole.unlink()
    if not out.is_file():
        raise PdfError(f"Chromium has printed nothing: {' '.join(done.stderr.split())[-300:]}")
    return out


def link(site: Path, made: Path | None) -> None:
    """Replace :data:`MARK` by a link to the file, or by nothing."""
    size = f" ({made.stat().st_size / 1e6:.0f} MB)" if made else ""
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        if MARK in text:
            shown = f'<a href="{NAME}">The whole book as one PDF</a>{size}.' if made else ""
            path.write_text(text.replace(MARK, shown), encoding="utf-8")


def document(site: Path, pages: list[str]) -> str:
    """All pages in one: their articles one after another, links between them within the document."""
    first = (site / f"{pages[0]}.html").read_text(encoding="utf-8")
    head = first[first.index("<head>") : first.index("</head>")]
    head = re.sub(r"<script[^>]*(fontawesome|togglebutton|copybutton|bootstrap)[^>]*></script>", "", head)
    number = {f"{name}.html": f"p{i}" for i, name in enumerate(pages)}
    parts, contents = [], []
    for name in pages:
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        article = text[text.index("<article") : text.index("</article>")] + "</article>"
        key = number[f"{name}.html"]
        title = re.search(r"<h1>(.*?)<a", article, re.DOTALL)
        told = re.sub(r"<[^>]+>", "", title[1]).strip() if title else html.escape(name)
        contents.append(f'<li><a href="#{key}">{told}</a></li>')
        parts.append(f'<div id="{key}">{_moved(article, f"{name}.html", key, number)}</div>')
    cover = f'<div class="cover"><h1>{told_title(first)}</h1><p>Version {__version__}</p></div>'
    listed = f'<article class="bd-article contents"><h1>Contents</h1><ul>{"".join(contents)}</ul></article>'
    scripts = "".join(re.findall(r"<script[^>]*mathjax[^>]*></script>", first))
    return (
        f'<!DOCTYPE html><html lang="en" data-content_root="./" data-theme="light" data-mode="light">{head}'
        f"{scripts if 'mathjax' not in head else ''}{_STYLE}</head><body>{cover}{listed}{''.join(parts)}{_READY}</body></html>"
    )


def told_title(text: str) -> str:
    """The book's title, from the title of its first page."""
    return re.sub(r".*— |.*&#8212; ", "", re.search(r"<title>(.*?)</title>", text, re.DOTALL)[1]).strip()


def _moved(article: str, page: str, key: str, number: dict[str, str]) -> str:
    """An article as part of the document at the site's root: its ids under ``key``, its addresses from there."""
    folder = posixpath.dirname(page)

    def address(found: re.Match[str]) -> str:
        name, value = found[1], html.unescape(found[2])
        if re.match(r"[a-z][a-z+.-]*:|//", value):
            return found[0]
        path, _, anchor = value.partition("#")
        target = posixpath.normpath(posixpath.join(folder, path)) if path else page
        if target in number:
            return f'{name}="#{number[target]}{"-" + anchor if anchor else ""}"'
        return f'{name}="{html.escape(target + ("#" + anchor if anchor else ""), quote=True)}"'

    article = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', article)
    article = re.sub(r"url\(#", f"url(#{key}-", article)
    return re.sub(r'\b((?:xlink:)?href|src)="([^"]*)"', address, article)
