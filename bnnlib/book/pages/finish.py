"""What every page gets once Sphinx has made it: a description, when it last changed, where to edit and to run it.

Where the site will lie is not known to the repository: ``BNN_SITE_URL`` (``https://name.example/book/``) adds canonical
addresses, a sitemap, and for each page a card with a picture, ``BNN_REPOSITORY_URL`` (``https://github.com/owner/name``) buttons to edit a
page and to run a chapter on Binder. Without them a site is complete, and asks and names no host.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from bs4 import BeautifulSoup, Tag

from bnnlib.book.pages import share

TITLE = "Binary neural networks, reproduced"
_NO_PAGE = {"search.html", "genindex.html", "prf-prf.html", "404.html"}
_LONG = 60  # letters; a cell with more does not stand well beside the name of its column
_PHONE = 50  # letters across a phone's column
_FIRST = 16  # letters that the first column takes there (book.css)
# In the theme's side bar: a page with pages below it, and the button that shows them, which has no name.
_TOGGLE = re.compile(r'(>([^<]+)</a><details(?: open="open")?>)<summary>(?=<span class="toctree-toggle")')
_CITATIONS = '<div role="list" class="citation-list">'
# In Sphinx's searchtools.js: what a summary leaves out, and the end of the promise that makes one.
_LEFT_OUT = '[".headerlink", "script", "style"]'
_SUMMARY = r"(Search\.makeSearchSummary\(data, searchTerms, anchor\).*?\n      \}\));"
_TAGS = re.compile(r"<(script|style|svg|mjx-container)\b.*?</\1>|<[^>]+>", re.DOTALL)


class AddressError(ValueError):
    """An address that is none; the message names the variable."""


class LayoutError(ValueError):
    """What Sphinx or its theme made does not look as this module expects, so that it can complete nothing there."""

    def __init__(self, path: Path, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}; Sphinx or its theme has changed, and bnnlib/book/pages/finish.py must follow")


@dataclass(frozen=True)
class Published:
    """Where the site and its repository lie; empty where that is not known."""

    site: str = ""
    repository: str = ""

    @classmethod
    def here(cls) -> Published:
        """As the environment says. Raises :class:`AddressError` for what is no http address."""
        given = {name: os.environ.get(name, "").strip() for name in ("BNN_SITE_URL", "BNN_REPOSITORY_URL")}
        for name, address in given.items():
            parts = urlsplit(address)
            if address and (parts.scheme not in ("http", "https") or not parts.netloc):
                raise AddressError(
                    f"{name} is {address!r}: it must be an address such as https://name.example/"
                )
        site, repository = given.values()
        return cls(site.rstrip("/") + "/" if site else "", repository.rstrip("/").removesuffix(".git"))


def changes(root: Path) -> dict[str, str]:
    """Date of the last commit of each source of a page, by its path in the repository; empty outside a checkout."""
    command = ["git", "-C", str(root), "log", "--format=%x00%cs", "--name-only", "--", "book", "notebooks", "CHANGELOG.md"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    found: dict[str, str] = {}
    for commit in told.split("\0")[1:]:
        date, *names = commit.split("\n")
        for name in filter(None, names):
            found.setdefault(name, date)
    return found


def source_of(page: str, root: Path) -> str | None:
    """The file in the repository that ``page`` (``notebooks/lenet5-mnist.html``) is made from; None for a generated one."""
    stem = page.removesuffix(".html")
    known = [f"{stem}.ipynb"] if stem.startswith("notebooks/") else [f"book/{stem}.md", f"{stem.upper()}.md"]
    return next((name for name in known if (root / name).is_file()), None)


def finish(site: Path, root: Path, published: Published) -> None:
    """Complete every page of ``site``, and write sitemap and page for what is not found."""
    dates = changes(root)
    listed = []
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        text = path.read_text(encoding="utf-8")
        if "<article" not in text or name.startswith("_"):
            continue
        _expect(path, text, "</title>", "</article>")
        source = source_of(name, root)
        date = dates.get(source or "")
        if name not in _NO_PAGE:
            listed.append((name, date))
        if published.site and name not in _NO_PAGE:
            picture = site / _picture(name)
            picture.parent.mkdir(exist_ok=True)
            picture.write_bytes(share.draw(_title(text), description(text), TITLE))
        text = text.replace("</title>", "</title>\n" + _head(name, text, published), 1)
        text, named = _TOGGLE.subn(r'\1<summary aria-label="Pages of \2">', text)
        if named != text.count('class="toctree-toggle"'):
            raise LayoutError(path, f"side bar whose buttons match {_TOGGLE.pattern}")
        text = stacked(text)
        if 'class="citation-list"' in text:  # its entries have a role of their own, which is none of a list's
            _expect(path, text, _CITATIONS)
            text = text.replace(_CITATIONS, '<div class="citation-list">')
        text = text.replace("</article>", "</article>\n" + _foot(source, date, published), 1)
        path.write_text(text, encoding="utf-8")
    if not listed:
        raise LayoutError(site, "pages with an <article>")
    if published.site:
        (site / "sitemap.xml").write_text(_sitemap(listed, published.site), encoding="utf-8")
        (site / "robots.txt").write_text(
            f"User-agent: *\nSitemap: {published.site}sitemap.xml\n", encoding="utf-8"
        )
    (site / "404.html").write_text(_not_found(site / "index.html", published), encoding="utf-8")
    _search(site / "_static" / "searchtools.js")


def _expect(path: Path, text: str, *parts: str) -> None:
    """Raises :class:`LayoutError` where one of ``parts`` is not in ``text``, which the file ``path`` holds."""
    for part in parts:
        if part not in text:
            raise LayoutError(path, part)


def stacked(text: str) -> str:
    """Cells of tables with five columns or more, or with words and figures too wide for a phone, know their column, and whether they
    hold a text: a phone shows each row as a list of its cells."""
    return re.sub(r"<table\b(?:(?!<table\b).)*?</table>", lambda found: _stacked(found[0]), text, flags=re.DOTALL)


def _stacked(text: str) -> str:
    """One table. Attributes are put into its text where the parser found the tags; all else stays as it is."""
    table = BeautifulSoup(text, "html.parser").table
    names = [_words(cell) for cell in table.thead.find_all("th")] if table.thead else []
    if not names or not table.tbody or table.find(rowspan=True) or table.find(colspan=True):
        return text
    if len(names) < 5 and _least(table) <= _PHONE:
        return text
    more = [(table, ' data-stacked=""')]
    for row in table.tbody.find_all("tr"):
        for number, cell in enumerate(row.find_all("td")):
            name = names[number] if number < len(names) else ""
            kind = ' data-long=""' if len(_words(cell)) > _LONG else "" if cell.get_text(strip=True) or cell.find("img") else ' data-empty=""'
            more.append((cell, f' data-column="{html.escape(name, quote=True)}"{kind}'))
    lines = [0, *(found.end() for found in re.finditer("\n", text))]
    for tag, attributes in reversed(more):
        at = lines[tag.sourceline - 1] + tag.sourcepos + len(f"<{tag.name}")
        text = text[:at] + attributes + text[at:]
    return text


def _least(table: Tag) -> int:
    """Letters across that a table needs at least: of each column its longest word, or its longest figure, and room on both sides."""
    widths: dict[int, int] = {}
    for row in table.find_all("tr"):
        for number, cell in enumerate(row.find_all(["td", "th"])):
            told = _words(cell)
            parts = [told] if cell.name == "td" and "text-right" in cell.get("class", []) else told.split()
            widths[number] = max(widths.get(number, 0 if number else _FIRST), *map(len, parts), 0)
    return sum(width + 2 for width in widths.values())


def _words(cell: Tag) -> str:
    """What a cell says, without pictures and formulas."""
    return "".join(told for told in cell.strings if not told.find_parent(["script", "style", "svg", "mjx-container"])).strip()


def description(text: str) -> str:
    """The first paragraph of a page's article, as text of at most 160 characters."""
    article = text[text.index("<article") :]
    for paragraph in re.findall(r"<p>(.*?)</p>", article, re.DOTALL):
        told = " ".join(html.unescape(_TAGS.sub("", paragraph)).replace("\\(", "").replace("\\)", "").split())
        told = re.sub(r"^The question\. ", "", told)
        if len(told) > 30:
            return told if len(told) <= 160 else told[:157].rsplit(" ", 1)[0] + " ..."
    return TITLE


def _title(text: str) -> str:
    """The heading of a page's article as text, without a number; what stands above it is for print."""
    found = re.search(r'<h1\b[^>]*>(?:<span class="section-number">.*?</span>)?(.*?)(?:<a\b|</h1>)', text[text.index("<article") :], re.DOTALL)
    return " ".join(html.unescape(_TAGS.sub("", found[1])).split()) if found else TITLE


def _picture(name: str) -> str:
    """Where the picture of a page's card lies in the site."""
    return f"_cards/{name.removesuffix('.html').replace('/', '-')}.png"


def _head(name: str, text: str, published: Published) -> str:
    told = html.escape(description(text), quote=True)
    shown = html.escape(_title(text), quote=True)
    lines = [f'<meta name="description" content="{told}">']
    if published.site and name not in _NO_PAGE:
        address = published.site + ("" if name == "index.html" else name)
        lines += [
            f'<link rel="canonical" href="{address}">',
            '<meta property="og:type" content="article">',
            f'<meta property="og:site_name" content="{TITLE}">',
            f'<meta property="og:title" content="{shown}">',
            f'<meta property="og:description" content="{told}">',
            f'<meta property="og:url" content="{address}">',
            f'<meta property="og:image" content="{published.site}{quote(_picture(name))}">',
            f'<meta property="og:image:width" content="{share.SIZE[0]}">',
            f'<meta property="og:image:height" content="{share.SIZE[1]}">',
            f'<meta property="og:image:alt" content="{shown}">',
            '<meta name="twitter:card" content="summary_large_image">',
        ]
    return "\n".join(lines)


def _foot(source: str | None, date: str | None, published: Published) -> str:
    parts = [f"<span>Last changed on <time>{date}</time>.</span>"] if date else []
    repository = published.repository
    if source and repository:
        parts.append(f'<a href="{repository}/edit/main/{source}">Edit this page</a>')
        host, _, where = repository.partition("://")[2].partition("/")
        if source.endswith(".ipynb") and host == "github.com":
            parts.append(
                f'<a href="https://mybinder.org/v2/gh/{where}/main?labpath={source}">Run it on Binder</a>'
            )
            parts.append(
                f'<a href="https://colab.research.google.com/github/{where}/blob/main/{source}">Open it in Colab</a>'
            )
    return f'<p class="page-source">{" ".join(parts)}</p>' if parts else ""


def _sitemap(pages: list[tuple[str, str | None]], site: str) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">',
    ]
    for name, date in pages:
        changed = f"<lastmod>{date}</lastmod>" if date else ""
        lines.append(f"<url><loc>{site}{'' if name == 'index.html' else name}</loc>{changed}</url>")
    return "\n".join([*lines, "</urlset>"]) + "\n"


_NOT_HERE = """<article class="bd-article">
<section>
<h1>This page is not here</h1>
<p>The address may be misspelt, or the page may have moved. <a href="index.html">The first page</a> lists all chapters, and the
<a href="search.html">search</a> finds words in them.</p>
</section>
</article>"""


def _not_found(first: Path, published: Published) -> str:
    """The page for an address that is none: the first page's frame. A server shows it at any depth, so its links are
    taken from the address of the site where that is known."""
    page = BeautifulSoup(_read(first), "html.parser")
    for selector in ("article", "footer.prev-next-footer", "head > meta"):
        if page.select_one(selector) is None:
            raise LayoutError(first, f"an element {selector}")
    page.article.replace_with(BeautifulSoup(_NOT_HERE, "html.parser"))
    page.title.string = f"This page is not here — {TITLE}"
    of_the_first = [
        *page.select("footer.prev-next-footer, p.page-source, link[rel=canonical]"),
        *page.select("meta[name=description], meta[name='twitter:card'], meta[property^='og:']"),
        # its contents, in the side bar and for print
        *page.select("nav[id=pst-page-toc-nav] > *, nav[aria-label=Page] > *"),
    ]
    for tag in of_the_first:
        tag.decompose()
    page.head.meta.insert_after(page.new_tag("meta", attrs={"name": "robots", "content": "noindex"}))
    if published.site:
        page.head.insert(0, page.new_tag("base", href=published.site))
    return str(page)


def _search(script: Path) -> None:
    """Summaries of results show prose, neither TeX nor code; from a file, where nothing can be fetched, there are none."""
    text = _read(script)
    _expect(script, text, _LEFT_OUT)
    text = text.replace(_LEFT_OUT, _LEFT_OUT[:-1] + ', ".math", ".highlight", "svg", ".page-source", ".toc-drawer"]')
    text, found = re.subn(_SUMMARY, r"\1.catch(() => {});", text, count=1, flags=re.DOTALL)
    if not found:
        raise LayoutError(script, f"code that matches {_SUMMARY}")
    script.write_text(text, encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LayoutError(path, "such a file") from None
