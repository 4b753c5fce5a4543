"""Build the book: stage its pages, run Jupyter Book, and leave a site that asks nothing of the network.

    python -m bnnlib.book

Prose pages come from ``book/``, chapters from ``build/chapters/stored/`` (``python -m bnnlib.chapters run``
puts them there), tables from the records. They are laid out in ``build/src`` in the order of ``_toc.yml``,
built with warnings as errors, and become ``build/html``; a build that fails leaves the site that was there.
Nothing is built twice from the same pages (``--force`` does).
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
import yaml

from bnnlib import __version__, storage
from bnnlib.book import chapters
from bnnlib.book.live import page as live
from bnnlib.book.pages import (
    board,
    cards,
    chapter,
    claims,
    commands,
    costs,
    curves,
    figures,
    finish,
    guide,
    landing,
    literature,
    offline,
    packed_files,
    pays,
    pdf,
    prune,
    reference,
    sizes,
)
from bnnlib.paths import ROOT

_BUILT_BY = (
    *("jupyter-book", "sphinx", "myst-nb"),
    *("sphinx-book-theme", "pydata-sphinx-theme", "sphinx-mathjax-offline"),
)


class BookError(Exception):
    """A book that cannot be built; the message says what is missing or wrong, and what to do."""


def entries(toc: Path) -> list[str]:
    """The pages that a table of contents lists, root first."""
    try:
        content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    except OSError as error:
        raise BookError(f"table of contents: {storage.in_words(error)}") from None
    except yaml.YAMLError as error:
        raise BookError(f"table of contents {toc}: {error}") from None

    def walk(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from walk(child)

    return list(walk(content))


def places(toc: Path) -> dict[str, str]:
    """Of each page in a numbered part of a table of contents: its number as a chapter, and the part's name."""
    parts = yaml.safe_load(toc.read_text(encoding="utf-8")).get("parts", [])
    numbered = [(chapter["file"], part["caption"]) for part in parts if part.get("numbered") for chapter in part["chapters"]]
    return {page: f"Chapter {number}, {part}" for number, (page, part) in enumerate(numbered, 1)}


# ------------------------------------------------------------------------------------------------- staging


def stage(root: Path = ROOT, toc: Path | None = None) -> dict[str, bytes]:
    """What the book is built from: path below ``build/src`` to content.

    Raises :class:`BookError` for a page or an executed chapter that is missing, and for a chapter that is out
    of date or does not pass the gate.
    """
    toc = toc or root / "_toc.yml"
    files = {
        path.relative_to(root / "book").as_posix(): path.read_bytes()
        for path in sorted((root / "book").rglob("*"))
        if path.is_file()
        and path.relative_to(root / "book").parts[0] != "_ext"
        and not path.name.startswith(".")
        and path.name != "questions.yml"
    }
    for name, content in files.items():
        if name.endswith(".md"):
            files[name] = content.replace(b"{{ version }}", __version__.encode())
    shared = chapters.surroundings(root)
    if guide.PAGE in files:
        files[guide.PAGE] = guide.page(files[guide.PAGE].decode(), shared, root).encode()
    notebooks, wrong = [], []
    whole = _whole_pages()
    for entry in entries(toc):
        if entry in whole:
            files[f"{entry}.md"] = whole[entry]().encode()
        if not entry.startswith("notebooks/"):
            if not {f"{entry}.md", f"{entry}.ipynb", entry} & set(files):
                wrong.append(f"{toc.name} lists {entry}, but there is no book/{entry}.md")
            continue
        path = root / "build" / "chapters" / "stored" / f"{Path(entry).stem}.ipynb"
        if not path.is_file():
            wrong.append(f"chapter {path.stem} has not been run")
        elif not chapters.is_current(path, root, shared):
            wrong.append(f"chapter {path.stem} has changed since it was run, or what it depends on has")
        else:
            wrong += chapters.check(path)
            notebooks.append(path)
            files[f"{entry}.ipynb"] = chapter.as_page(path)
    if wrong:
        raise BookError("\n".join([*wrong, "chapters are run by: python -m bnnlib.chapters run --profile stored"]))
    files |= {f"generated/{name}.md": text.encode() for name, text in _generated(root, notebooks, places(toc)).items()}
    table, nets = packed_files.packed_nets(root)
    files |= {"generated/packed-nets.md": table.encode()} | nets
    files |= {f"pictures/{name}.{kind}": drawn for name, (kind, drawn) in cards.pictures(notebooks).items()}
    if "live.md" in files:
        pages, scripts, wrong = live.parts(root)
        files |= {f"generated/{name}.md": text.encode() for name, text in pages.items()} | scripts
        if wrong:
            print(f"note: the page live.md stands still: {wrong}", file=sys.stderr)
    files["_toc.yml"] = toc.read_bytes()
    return files


def _write(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# ------------------------------------------------------------------------------------------ generated tables


def _generated(root: Path, notebooks: list[Path], numbers: Mapping[str, str]) -> dict[str, str]:
    """The tables that prose pages include, by name."""
    from bnnlib import recipes, records
    from bnnlib.experiments import scoreboard

    folder = root / "results" / "runs"
    listed = [path.stem for path in notebooks]
    known, found = [recipes.load(name) for name in recipes.names()], records.read_all(folder)
    return {
        "hero": landing.hero(root),
        "start": landing.start(listed),
        "findings": landing.findings(root, listed),
        "citation": landing.citation(),
        "pays-accuracy": pays.accuracy(folder),
        "pays-files": pays.files(),
        "pays-others": pays.others(folder),
        "pays-nets": pays.whole_nets(root / "results" / "bench"),
        "headlines": scoreboard.headline_table(folder, how=scoreboard.IN_SHORT),
        "claims": claims.page(root, listed, numbers),
        "literature": literature.table(folder),
        "scoreboard": scoreboard.grouped_tables(folder),
        "sizes": sizes.accuracy_against_size(root),
        "curves": curves.page(folder),
        "all-runs": board.sortable(folder),
        "runs": costs.runs_table(known, found),
        "pending": costs.pending(known, found),
        "totals": costs.totals(found),
        "training-steps": costs.steps(root / "results" / "bench"),
        "chapters": cards.chapter_cards(notebooks, cards.questions(root), cards.pictures(notebooks), numbers),
        "chapter-times": costs.chapter_times(notebooks, root),
        "reference": reference.home(),
        "supported": reference.supported(),
    }


def _whole_pages() -> dict[str, Callable[[], str]]:
    """Pages that are generated from end to end, and made where the table of contents lists them."""
    pages = {f"reference/{name}": functools.partial(reference.page, name) for name in reference.PAGES}
    return pages | {
        "reference/commands": commands.page,
        "changelog": lambda: (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


# ------------------------------------------------------------------------------------------------ building


def build(
    root: Path = ROOT, toc: Path | None = None, *, force: bool = False, printer: str | None = None
) -> tuple[Path, bool]:
    """Build the site and return ``build/html`` and whether anything had to be done.

    printer: the Chromium that prints the whole book into one PDF; None: no PDF. Raises :class:`BookError` with Sphinx's
    warnings when there are any.
    """
    root = Path(root).resolve()
    toc = Path(toc).resolve() if toc else root / "_toc.yml"
    files = stage(root, toc)
    site, source, work = (root / "build" / name for name in ("html", "src", "book"))
    mark = site / ".staged"
    digest = digest_of(files, root)
    if not force and mark.is_file() and mark.read_text() == digest:
        return site, False
    _write(source, files)
    _jupyter_book(root, source, work)
    built = work / "_build" / "html"
    figures.inline(built)
    live.copy_scripts(source, built)
    finish.finish(built, root, finish.Published.here())
    prune.prune(built)
    loads = offline.outside(built)
    if loads:
        raise BookError("pages load from other hosts:\n" + "\n".join(loads))
    pdf.link(built, pdf.make(built, entries(toc), printer) if printer else None)
    (built / ".staged").write_text(digest)
    _swap(built, site)
    shutil.rmtree(work)
    return site, True


def digest_of(files: dict[str, bytes], root: Path) -> str:
    """All that the site is made from: pages, settings, extension, and the versions of what makes it."""
    digest = hashlib.sha256()
    extra = [root / "_config.yml", Path(__file__), *sorted((root / "book" / "_ext").glob("*.py"))]
    extra += sorted(Path(landing.__file__).parent.glob("*.py"))
    for name, content in [*sorted(files.items()), *((path.name, path.read_bytes()) for path in extra)]:
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    digest.update(repr((finish.Published.here(), finish.changes(root))).encode())
    for package in _BUILT_BY:
        digest.update(metadata.version(package).encode())
    return digest.hexdigest()


def _jupyter_book(root: Path, source: Path, work: Path) -> None:
    """Run Jupyter Book over all pages: after a change of one, warnings of the others must still be seen."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # The first import is for what it leaves out; see there.
    start = "import bnnlib.book.chapters; from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", str(source)]
    command += [f"--config={root / '_config.yml'}", f"--toc={source / '_toc.yml'}", f"--path-output={work}"]
    command += ["-W", "-n", "--keep-going", "--all"]
    environment = os.environ | {"NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in (done.stderr or done.stdout).splitlines()]
        told = [line for line in lines if re.search(r"WARNING|ERROR|SEVERE|[Ee]rror:", line)] or lines[-20:]
        raise BookError(
            "Jupyter Book complains:\n" + "\n".join(line.replace(f"{source}/", "") for line in told)
        )


def _swap(new: Path, site: Path) -> None:
    """Put ``new`` in the place of ``site``; at no time is there half a site."""
    old = site.with_name(".html.old")
    shutil.rmtree(old, ignore_errors=True)
    site.parent.mkdir(parents=True, exist_ok=True)
    if site.exists():
        os.replace(site, old)
    os.replace(new, site)
    shutil.rmtree(old, ignore_errors=True)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    toc: Annotated[Path | None, typer.Option(help="another table of contents", show_default="_toc.yml")] = None,
    force: Annotated[bool, typer.Option("--force", help="build although nothing has changed")] = False,
    no_pdf: Annotated[bool, typer.Option("--no-pdf", help="do not print the book (printed where Chromium is installed)")] = False,
) -> None:
    """Build the book into build/html."""
    started = time.monotonic()
    try:
        pages = len(entries(toc or ROOT / "_toc.yml"))
        printer = None if no_pdf else pdf.chromium()
        print("the pages: up to two minutes where something has changed", flush=True)
        site, anew = build(ROOT, toc, force=force, printer=printer)
    except (BookError, chapters.ChapterError, finish.AddressError, finish.LayoutError, guide.GuideError, pdf.PdfError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise typer.Exit(1) from None
    what = f"{pages} pages in {time.monotonic() - started:.0f} s" if anew else "up to date"
    print(f"{site / 'index.html'}  ({what})")


if __name__ == "__main__":
    app(prog_name="bnn book")
