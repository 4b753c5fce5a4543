"""Pages that are generated, and what every page gets in the end."""

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import sphinx
from PIL import Image

from bnnlib.book.pages import commands, finish, offline, pdf, prune, reference, share

ROOT = Path(__file__).resolve().parents[1]
PAGE = """<!DOCTYPE html>
<html><head>
<meta charset="utf-8" />
<title>One &#8212; Book</title>
</head><body><nav id="pst-page-toc-nav" class="x"><ul><li>There</li></ul></nav>
<article class="bd-article"><h1>One <i>page</i><a class="headerlink" href="#one">#</a></h1>
<p>Short.</p>
<p><strong>The question.</strong> How much accuracy do <code>bits</code> cost when \\(n = 3\\)?</p>
<p><a href="notebooks/two.html#fig">Figure</a> <a href="#one">here</a> <a href="https://a.example/#b">out</a></p>
</article><footer class="prev-next-footer">next</footer></body></html>
"""


def site(folder: Path) -> Path:
    (folder / "notebooks").mkdir(parents=True)
    for name in ("index", "search", "notebooks/two"):
        (folder / f"{name}.html").write_text(PAGE)
    (folder / "_static").mkdir()
    shutil.copy(Path(sphinx.__file__).parent / "themes" / "basic" / "static" / "searchtools.js", folder / "_static")
    return folder


def repository(folder: Path) -> Path:
    for name in ("book/index.md", "notebooks/two.ipynb"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


# ---------------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_reference_page_has_every_name_with_signature_and_docstring(name):
    text = reference.page(name)
    assert "```text" not in text, "a docstring that could not be set"
    title, _, modules = reference.PAGES[name]
    assert text.startswith(f"# {title}\n")
    for module, names in modules.items():
        assert f"\n## {module}\n" in text
        for each in names:
            entry = text[text.index(f"\n### {each}\n") :]
            assert re.match(
                rf"\n### {each}\n\n```python\n{each}\b.*?```\n\n````\{{eval-rst\}}\n\S", entry, re.DOTALL
            ), each
    assert str(ROOT) not in text and "object at 0x" not in text
    assert (
        max(
            len(line)
            for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
            for line in block.splitlines()
        )
        < 110
    )


def test_the_reference_lists_all_that_a_net_of_ones_own_is_made_of():
    from bnnlib import layers, quantizers
    from bnnlib.book import tables
    from bnnlib.deploy.tensorkinds import SUPPORTED

    listed = {module: set(names) for _, _, modules in reference.PAGES.values() for module, names in modules.items()}
    public = {name for name in layers.__all__ if inspect.isclass(getattr(layers, name)) or inspect.isfunction(getattr(layers, name))}
    assert public <= listed["bnnlib.layers"], public - listed["bnnlib.layers"]
    of_quantizers = {name for name, value in vars(quantizers).items() if getattr(value, "__module__", "") == quantizers.__name__}
    own = {name for name in of_quantizers if not name.startswith("_") and getattr(quantizers, name).__name__ == name}  # no older name
    assert own <= listed["bnnlib.quantizers"], own - listed["bnnlib.quantizers"]
    text = reference.page("deploy")
    for row in SUPPORTED:
        assert "| " + " | ".join(tables.powers(cell).replace("|", "\\|") for cell in row) + " |" in text


def test_a_name_that_the_library_has_not_stops_the_build(monkeypatch):
    monkeypatch.setitem(reference.PAGES, "layers", ("T", "A", {"bnnlib.layers": ("NoLayer",)}))
    with pytest.raises(AttributeError, match="NoLayer"):
        reference.page("layers")


def test_docstrings_are_read_as_what_they_are():
    assert reference.docstring("See :func:`~bnnlib.layers.x` and `y`.") == (
        "````{eval-rst}\nSee ``bnnlib.layers.x`` and ``y``.\n````"
    )
    assert ":Parameters: **a**" in reference.docstring("Do.\n\nArgs:\n    a: a number.")
    assert reference.docstring("A list:\n* one\n    two").startswith("```text\n")
    assert reference.docstring("") == ""


def test_every_command_is_on_the_page_of_commands():
    from bnnlib.cli import MODULES

    text = commands.page()
    for command in (*MODULES, "recipes", "deploy run", "chapters run"):
        assert re.search(rf"^#+ bnn {command}\n\n```text\nUsage: bnn {command} ", text, re.MULTILINE), command
    assert str(ROOT) not in text and "╭" not in text


# ------------------------------------------------------------------------------------------------- finish


def test_without_addresses_pages_name_no_host(tmp_path):
    built, root = site(tmp_path / "site"), repository(tmp_path / "root")
    finish.finish(built, root, finish.Published())
    text = (built / "index.html").read_text()
    assert '<meta name="description" content="How much accuracy do bits cost when n = 3?">' in text
    assert "canonical" not in text and "og:" not in text and "Edit this page" not in text
    assert not (built / "_cards").exists()
    assert not (built / "sitemap.xml").exists() and offline.outside(built) == []
    missing = (built / "404.html").read_text()
    assert "This page is not here" in missing and "How much" not in missing and "There" not in missing
    assert "prev-next" not in missing and "<base" not in missing


def test_with_addresses_pages_can_be_found_edited_and_run(tmp_path):
    built, root = site(tmp_path / "site"), repository(tmp_path / "root")
    where = finish.Published("https://a.example/book/", "https://github.com/o/n")
    finish.finish(built, root, where)
    first, two = (built / "index.html").read_text(), (built / "notebooks" / "two.html").read_text()
    assert '<link rel="canonical" href="https://a.example/book/">' in first
    assert '<meta property="og:title" content="One page">' in two
    assert '<meta property="og:image" content="https://a.example/book/_cards/notebooks-two.png">' in two
    with Image.open(built / "_cards" / "notebooks-two.png") as card:
        assert card.size == (1200, 630) and len(card.convert("RGB").getcolors(2**20)) > 50, "it is drawn on"
    assert sorted(path.name for path in (built / "_cards").iterdir()) == ["index.png", "notebooks-two.png"]
    assert (
        'href="https://github.com/o/n/edit/main/book/index.md">Edit this page' in first
        and "Binder" not in first
    )
    assert "mybinder.org/v2/gh/o/n/main?labpath=notebooks/two.ipynb" in two and "Colab" in two
    listed = re.findall("<loc>(.*?)</loc>", (built / "sitemap.xml").read_text())
    assert listed == ["https://a.example/book/", "https://a.example/book/notebooks/two.html"]
    assert '<base href="https://a.example/book/"/>' in (built / "404.html").read_text()
    assert offline.outside(built) == [], "links load nothing"


def test_buttons_of_the_side_bar_have_names(tmp_path):
    built = site(tmp_path / "site")
    path = built / "index.html"
    button = '<summary><span class="toctree-toggle" role="presentation"></span></summary>'
    bar = f'<nav><a href="x.html">Layers</a><details open="open">{button}</details><a href="y.html">Nets</a><details>{button}</details></nav>'
    path.write_text(path.read_text().replace("<article", bar + "<article", 1))
    finish.finish(built, repository(tmp_path / "root"), finish.Published())
    assert re.findall('<summary aria-label="(.*?)">', path.read_text()) == ["Pages of Layers", "Pages of Nets"]


def test_a_summary_of_a_search_result_is_prose_and_may_be_missing(tmp_path):
    built = site(tmp_path / "site")
    finish.finish(built, repository(tmp_path / "root"), finish.Published())
    script = (built / "_static" / "searchtools.js").read_text()
    assert script.count('[".headerlink", "script", "style", ".math", ') == 1 and script.count("      }).catch(() => {});\n  Search.output") == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("_static/searchtools.js", '[".headerlink", "script", "style"]', '[".headerlink"]', r'\[".headerlink", "script", "style"\]'),
        ("_static/searchtools.js", "data, searchTerms, anchor", "data, anchor", "code that matches .*makeSearchSummary.*"),
        ("_static/searchtools.js", None, None, "such a file"),
        ("notebooks/two.html", "</title>", "</Title>", "</title>"),
        ("notebooks/two.html", "</article>", "</Article>", "</article>"),
        ("notebooks/two.html", "</article>", '</article><summary><b class="toctree-toggle"></b></summary>', "side bar whose buttons match .*"),
        ("notebooks/two.html", "<p>Short.</p>", '<ul class="citation-list"></ul>', '<div role="list" class="citation-list">'),
        ("index.html", "prev-next-footer", "previous-and-next", "an element footer.prev-next-footer"),
        ("index.html", None, None, "such a file"),
    ],
)
def test_what_sphinx_makes_in_another_way_is_named(tmp_path, name, old, new, expected):
    built = site(tmp_path / "site")
    path = built / name
    path.write_text(path.read_text().replace(old, new)) if old else path.unlink()
    with pytest.raises(finish.LayoutError, match=f"{name}: expected {expected}; Sphinx or its theme has changed"):
        finish.finish(built, repository(tmp_path / "root"), finish.Published())


def test_a_site_without_an_article_is_refused(tmp_path):
    built = site(tmp_path / "site")
    for path in built.rglob("*.html"):
        path.write_text(path.read_text().replace("article", "main"))
    with pytest.raises(finish.LayoutError, match="site: expected pages with an <article>"):
        finish.finish(built, repository(tmp_path / "root"), finish.Published())


def test_a_title_is_that_of_the_article():
    number, anchor = '<span class="section-number">2. </span>', '<a class="headerlink">#</a>'
    assert finish._title(f'<h1>A</h1><a href="#">x</a><article><h1 id="b">{number}B <i>c</i>{anchor}</h1>') == "B c"
    assert finish._title("<h1>A</h1><article><h1>B</h1><p>C <a>") == "B"
    assert finish._title("<h1>A</h1><article><p>") == finish.TITLE


def test_the_picture_of_a_card_is_the_same_each_time_and_takes_long_words():
    first = share.draw("A title", "A question?", "The book")
    assert first == share.draw("A title", "A question?", "The book") != share.draw("Another", "A question?", "The book")
    assert share.draw("word " * 40, "more " * 200, "A book with a long title and more words") and share.draw("", "", "")


@pytest.mark.parametrize("name", ["BNN_SITE_URL", "BNN_REPOSITORY_URL"])
def test_an_address_that_is_none_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "name.example")
    with pytest.raises(finish.AddressError, match=f"{name} is 'name.example': it must be an address"):
        finish.Published.here()
    monkeypatch.setenv(name, "https://name.example/x.git/")
    assert "https://name.example/x" in (finish.Published.here().repository + finish.Published.here().site)


def test_a_page_says_when_its_source_was_last_changed():
    dates = finish.changes(ROOT)
    if not dates:
        pytest.skip("no checkout")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", dates["book/index.md"])
    assert finish.changes(Path("/")) == {}
    assert finish.source_of("notebooks/lenet5-mnist.html", ROOT) == "notebooks/lenet5-mnist.ipynb"
    assert finish.source_of("reference/layers.html", ROOT) is None
    assert finish.source_of("changelog.html", ROOT) == "CHANGELOG.md"


def table(columns: int) -> str:
    head = "".join(f'<th class="head"><p>Column <em>{i}</em></p></th>' for i in range(columns))
    cells = "".join(f"<td><p>{i}</p></td>" for i in range(columns))
    return f'<table class="table">\n<thead>\n<tr>{head}</tr></thead>\n<tbody>\n<tr>{cells}</tr><tr>{cells}</tr></tbody>\n</table>'


def test_cells_of_wide_tables_know_their_column():
    both = finish.stacked(f"<p>{table(4)}</p>{table(6)}")
    assert both.startswith(f"<p>{table(4)}</p>"), "narrow ones stay"
    assert both.count("data-stacked") == 1 and both.count('data-column="Column 5"><p>5</p>') == 2
    assert "data-long" not in both and "data-empty" not in both
    assert finish.stacked(table(6).replace("<p>2</p>", "<p></p>", 1)).count('data-column="Column 2" data-empty=""') == 1
    text = "a claim with its evidence, told in words that fill more than a line"
    assert finish.stacked(table(6).replace("<p>2</p>", f"<p><em>{text}</em></p>")).count(f'data-column="Column 2" data-long=""><p><em>{text}') == 2
    figures = table(3).replace("<td><p>1", '<td class="text-right"><p>0.99 (0.93 to 1.06)').replace("<td><p>2", '<td class="text-right"><p>1.00 (0.97 to 1.02)')
    assert finish.stacked(figures).count('data-column="Column 2"') == 2, "figures that a phone would cut"
    assert finish.stacked(figures.replace(' class="text-right"', "")).count("data-stacked") == 0, "text wraps"
    assert finish.stacked(table(3).replace("<p>1</p>", f"<p>{'x' * 40}</p>")).count("data-stacked") == 1, "so does no long word"
    spanned = table(6).replace("<td>", '<td colspan="2">', 1)
    assert finish.stacked(spanned) == spanned


# ------------------------------------------------------------------------------------------ icons, and the PDF


def test_icons_that_no_page_names_go(tmp_path):
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir(parents=True)
    (tmp_path / "a.html").write_text('<i class="fa-solid fa-bars"></i>')
    (scripts / "fontawesome.js").write_text(
        'x={bars:[4,5,[],"f0","M1"],"cc-visa":[4,5,[1],"f1",["M1","M2"]],sun:[1,2,[],"f2","M"]};'
    )
    assert prune.icons(tmp_path) == 1
    assert (scripts / "fontawesome.js").read_text() == 'x={bars:[4,5,[],"f0","M1"],};'
    assert prune.icons(tmp_path / "nowhere") == 0


def test_links_stay_within_the_whole_book(tmp_path):
    text = pdf.document(site(tmp_path), ["index", "notebooks/two"])
    assert '<div id="p0">' in text and '<li><a href="#p1">One page' in text
    assert '<a href="#p1-fig">Figure</a>' in text and '<a href="#p0-one">here</a>' in text
    assert '<a href="https://a.example/#b">out</a>' in text
    assert '<a href="notebooks/notebooks/two.html#fig">' in text, (
        "no page of the book: as it was, from the root"
    )


@pytest.mark.skipif(pdf.chromium() is None, reason="Chromium is not installed")
def test_the_book_is_printed_and_linked(tmp_path):
    built = site(tmp_path / "site")
    (built / "index.html").write_text(PAGE.replace("Short.", pdf.MARK))
    made = pdf.make(built, ["index", "notebooks/two", "absent"], pdf.chromium())
    assert made.read_bytes().startswith(b"%PDF-") and not list(built.glob(".whole*"))
    pdf.link(built, made)
    assert f'<a href="{pdf.NAME}">The whole book as one PDF</a>' in (built / "index.html").read_text()
    pdf.link(built, None)
    (built / "index.html").write_text(PAGE.replace("Short.", pdf.MARK))
    pdf.link(built, None)
    assert "whole-book" not in (built / "index.html").read_text()


def test_help_that_fails_is_said(monkeypatch):
    monkeypatch.setattr(commands, "ROOT", Path("/nowhere"))
    commands.helps.cache_clear()
    with pytest.raises((RuntimeError, OSError, json.JSONDecodeError)):
        commands.helps()
    commands.helps.cache_clear()
