"""The book, built once from two small chapters: what is on its pages, what is not, and what stops a build."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import safetensors.torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from bnnlib import __version__, recipes, records
from bnnlib.benchmarks import speed, speedups
from bnnlib.book import chapters
from bnnlib.book import site as book
from bnnlib.book.pages import cards, costs, guide, landing, offline, packed_files

ROOT = Path(__file__).resolve().parents[1]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
ALT = "Test accuracy against epoch: five curves that flatten."
TOC = """
format: jb-book
root: index
parts:
  - caption: Begin here
    chapters: [{file: notation}, {file: your-own-net}, {file: reproduce}, {file: scoreboard}, {file: curves}, {file: file-format}]
  - caption: MNIST
    numbered: true
    chapters: [{file: notebooks/one}, {file: notebooks/two}]
  - caption: Look up
    chapters: [{file: glossary}, {file: references}, {file: costs}, {file: cite}]
"""


def notebook(title, question, *cells):
    """A chapter as its author stores it."""
    parameters = 'profile = "stored"  # which\nseed = 0  # seed'
    made = [
        new_markdown_cell(f"# {title}\n\n{question}"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(
        cells=[*made, *cells], metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )


def publish(root, name, source, outputs=()):
    """Store a chapter, and beside it what running it leaves (without the kernel: the runner has tests of its
    own).

    outputs: what the code cells after the parameters show.
    """
    folder = root / "build" / "chapters" / "stored"
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(source, root / "notebooks" / f"{name}.ipynb")
    source = chapters.read(root / "notebooks" / f"{name}.ipynb")
    values = chapters.parameters(source)
    inputs = chapters.fingerprint(source, values, chapters.surroundings(root))
    source.cells.insert(
        2, new_code_cell("# Parameters\nprofile = 'stored'", metadata={"tags": ["injected-parameters"]})
    )
    shown = iter(outputs)
    for count, cell in enumerate((c for c in source.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        if not cell.metadata.get("tags") or cell.metadata.tags == ["hide-input"]:
            cell.outputs = [next(shown)]
    times = {
        "start_time": "2026-01-01",
        "end_time": "2026-01-01",
        "duration": 3.7,
        "exception": None,
        "parameters": values,
    }
    source.metadata |= {"papermill": times, "bnnlib": {"inputs": inputs, "parameters": values}}
    nbformat.write(source, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def figure_cell(alt=ALT):
    shown = {"image": {"alt": alt}, "figure": {"name": "fig-curve", "caption": "Accuracy of five seeds."}}
    return new_code_cell("plot()", metadata={"tags": ["hide-input"], "mystnb": shown})


def repository(folder):
    for name in ("notebooks", "kernels", "bnnlib", "results/runs"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", folder)
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("__pycache__", "live*"))
    (folder / "_toc.yml").write_text(TOC)
    # The page of what does not hold leads to chapters that are not here; nor is the page that needs packed networks.
    index = folder / "book" / "index.md"
    text = index.read_text().replace("what-does-not-hold.md", "scoreboard.md").replace("when-one-bit-pays.md", "scoreboard.md")
    index.write_text(text.replace("```{include} generated/live-hero.md\n```\n", ""))
    board = folder / "book" / "scoreboard.md"  # the pages of claims and curves need every record
    board.write_text(board.read_text().replace("claims.md", "index.md").replace("curves.md", "index.md"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def guide_not_run():
    """The page on nets of one's own is run by tests/test_guide.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guide, "run", lambda text, root: [f"block {i}" for i, _ in enumerate(guide.blocks(text))])
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository with two executed chapters."""
    folder = repository(tmp_path_factory.mktemp("book"))
    method = new_markdown_cell(
        "## The method\n\nAs {numref}`fig-curve` and {eq}`eq-one` show, {eq}`eq-sign` holds "
        "{cite}`rastegari2016xnor`, see {term}`STE`."
        "\n\n$$\n\\alpha = 1\n$$ (eq-one)"
    )
    image = new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})
    publish(
        folder,
        "one",
        notebook("LeNet-5", "How much is lost with $\\widetilde W$?", method, figure_cell()),
        [image],
    )
    html = new_output(
        "execute_result", {"text/html": "<table><tr><td>97</td></tr></table>"}, execution_count=3
    )
    publish(folder, "two", notebook("The MLP", "Are they equal?", new_code_cell("table")), [html])
    return folder


@pytest.fixture(scope="module")
def site(root):
    site, anew = book.build(root)
    assert anew
    return site


def page(site, name):
    return (site / name).read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------- what is
# there


def test_nothing_is_asked_of_other_hosts(site):
    assert offline.outside(site) == []
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "thebe" not in text.lower(), path
        assert "unpkg.com" not in text and "cdn." not in text, path


class Local(HTMLParser):
    """Every address on a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src") and value]


def test_every_address_within_the_site_is_there(site):
    for path in site.rglob("*.html"):
        for address in Local(path.read_text(encoding="utf-8")).found:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            assert (path.parent / unquote(parts.path)).exists(), f"{path.name} -> {address}"


def test_mathjax_is_there_and_pruned(site):
    mathjax = site / "_static" / "mathjax"
    assert "_static/mathjax/tex-chtml.js" in page(site, "notation.html")
    assert (mathjax / "tex-chtml.js").exists() and list(mathjax.rglob("*.woff"))
    assert (mathjax / "input/tex/extensions/boldsymbol.js").exists(), "fetched when a formula needs it"
    assert sum(path.stat().st_size for path in mathjax.rglob("*") if path.is_file()) < 4e6


def test_a_chapter_as_a_reader_sees_it(site):
    text = page(site, "notebooks/one.html")
    assert f'alt="{ALT}"' in text
    assert "Fig. 1.1</span>" in text or "Fig. 1.1" in text
    assert re.search(r'href="#equation-eq-one"[^>]*>\(1\.1\)', text)
    assert re.search(r'href="../notation.html#equation-eq-sign"', text)
    assert "Show the code" in text
    assert "# Parameters" not in text, "papermill's own cell"
    assert "<table><tr><td>97</td></tr></table>" in page(site, "notebooks/two.html")


def test_no_path_of_this_machine_is_published(site, root):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".ipynb", ".md", ".js"):
            assert str(root) not in path.read_text(encoding="utf-8", errors="replace"), path


def test_the_first_page_maps_the_chapters_and_shows_the_scoreboard(site):
    text = page(site, "index.html")
    for link in ("notebooks/one.html", "notebooks/two.html", "reproduce.html", "scoreboard.html"):
        assert f'href="{link}"' in text
    assert "How much is lost with" in text and "Chapter 1, MNIST · 1\xa0min" in text
    assert "XNOR has 5 ones" in text and "64 times faster?" in text
    assert "s4-lenet5" not in text, "the scoreboard has a page of its own"
    assert "s4-alexnet" in page(site, "scoreboard.html")
    assert '<span class="pre">make</span> <span class="pre">book</span>' in text


def test_the_bibliography_lists_every_paper(site):
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE)
    text = page(site, "references.html")
    assert len(keys) == len(set(keys)) == text.count('<div class="citation"')


def test_the_picture_of_the_readme_is_that_of_the_first_page():
    assert (ROOT / "book" / "_static" / "bits.svg").read_text() == landing.picture()
    assert "book/_static/bits.svg" in (ROOT / "README.md").read_text()


def test_the_citation_file_has_the_librarys_version():
    import yaml

    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert told["version"] == __version__ and told["license"] == "MIT" and told["authors"]
    assert {"cff-version", "message", "title", "type"} <= set(told)


def test_the_icon_is_there(site):
    assert (site / "_static" / "logo.svg").exists()
    assert 'rel="icon" href="_static/logo.svg"' in page(site, "index.html")


# ------------------------------------------------------------------------------------------------ what stops
# it


def test_nothing_is_built_twice_from_the_same_pages(root, site):
    before = (site / "index.html").stat().st_mtime_ns
    assert book.build(root) == (site, False)
    assert (site / "index.html").stat().st_mtime_ns == before


def test_a_warning_stops_the_build_and_leaves_the_site(tmp_path):
    root = repository(tmp_path)
    (root / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: other}]\n")
    (root / "book" / "index.md").write_text("# Title\n\n{doc}`nowhere` {cite}`nobody2020`\n")
    (root / "book" / "other.md").write_text("# Other\n\n{term}`unheard of`\n")
    old = root / "build" / "html" / "index.html"
    old.parent.mkdir(parents=True)
    old.write_text("the old site")
    with pytest.raises(book.BookError) as caught:
        book.build(root)
    for what in ("index.md:3", "nowhere", "nobody2020", "other.md:3", "unheard of"):
        assert what in str(caught.value)
    assert old.read_text() == "the old site"


def test_chapters_that_may_not_be_published(tmp_path):
    root = repository(tmp_path)
    with pytest.raises(
        book.BookError, match="one has not been run\n.*two has not been run\n.*bnnlib.chapters run"
    ):
        book.stage(root)
    image = new_output("display_data", {"image/png": PNG})
    publish(root, "one", notebook("One", "Why?", figure_cell(alt="")), [image])
    path = publish(root, "two", notebook("Two", "Why?"))
    with pytest.raises(book.BookError, match="figure without alt text"):
        book.stage(root)
    done = nbformat.read(path, 4)
    done.metadata.papermill.parameters["profile"] = "quick"
    nbformat.write(done, path)
    with pytest.raises(book.BookError, match="'quick', asked for is 'stored'"):
        book.stage(root)
    (root / "results" / "runs" / "new.json").write_text("{}")
    with pytest.raises(book.BookError, match="one has changed since it was run, or what it depends on"):
        book.stage(root)


def test_a_page_that_is_not_there_is_named(tmp_path):
    root = repository(tmp_path)
    (root / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: prologue}]\n")
    with pytest.raises(book.BookError, match="lists prologue, but there is no book/prologue.md"):
        book.stage(root)


def test_a_chapter_opens_with_its_question(tmp_path):
    root = repository(tmp_path)
    path = publish(root, "one", notebook("One", "## A section at once"))
    with pytest.raises(chapters.ChapterError, match="one must open with a title .* the question"):
        cards.chapter_cards([path])
    path = publish(root, "two", notebook("Two: a title", "**The question.** How\nmany?\n\nMore."))
    assert (
        "{grid-item-card} Two: a title\n:link: notebooks/two\n:link-type: doc\n\nHow many?\n:::{card-footer}\n1 min to read\n"
        in cards.chapter_cards([path])
    )
    assert "\n\nWhy so many?\n:::" in cards.chapter_cards([path], {"two": "Why so many?"})
    (root / "_toc.yml").write_text(TOC)
    assert "\nChapter 2, MNIST · 1 min\n" in cards.chapter_cards([path], places=book.places(root / "_toc.yml"))


@pytest.mark.parametrize(
    "html",
    [
        "<script src='https://unpkg.com/x.js'></script>",
        "<link rel='stylesheet' href='//fonts.example/css'>",
        "<link rel=preconnect href='https://fonts.example'>",
        "<img alt='x' src='http://example.org/a.png'>",
        "<iframe src='https://example.org'></iframe>",
        "<style>@import 'https://example.org/a.css';</style>",
        "<p style='background: url(https://example.org/a.png)'>",
        "<script>const URL = 'https://cdn.example/x.js'</script>",
    ],
)
def test_what_a_page_would_load_is_found(tmp_path, html):
    (tmp_path / "a.html").write_text(
        f"<html><a href='https://example.org'>a link loads nothing</a>{html}</html>"
    )
    assert len(offline.outside(tmp_path)) == 1


def test_links_and_style_sheets(tmp_path):
    (tmp_path / "a.html").write_text(
        "<link rel=canonical href='https://example.org'><a href='https://example.org'>x</a>"
    )
    assert offline.outside(tmp_path) == []
    (tmp_path / "a.css").write_text("@font-face { src: url(https://example.org/a.woff) }")
    assert offline.outside(tmp_path) == ["a.css: url(https://example.org/a.woff)"]


# ------------------------------------------------------------------------------------------------------
# tables


def test_the_table_of_runs_is_read_from_the_records(a_record):
    recipe = recipes.load("s4-lenet5")
    runs = []
    for seed, (last, seconds) in enumerate([(90.0, 60), (91.0, 240)]):
        epoch = a_record().curve[0].model_copy(update={"test_top1": last, "epoch": 1})
        fields = {
            "seed": seed,
            "top1_last": last,
            "top1_best": last,
            "curve": [epoch],
            "wall_time_s": seconds,
        }
        runs.append(a_record(**fields, hardware={"cpu": "A CPU", "threads": 2}))
    (row,) = costs.runs_table([recipe], runs).splitlines()[2:]
    assert row == (
        "| LeNet-5, binary<br>`s4-lenet5` | mnist | 60 | 2 of 5 | 2 min | A CPU, 2 threads | 90.50 ± 0.71 |"
    )
    assert costs.runs_table([recipe], []) == "*None yet.*\n"
    assert "python -m bnnlib.train s4-lenet5" in costs.pending([recipe], []) and costs.pending([recipe], runs) == ""
    assert costs.totals(runs).splitlines()[2:] == ["| A CPU, 2 threads | 2 | 2 | 0.1 |", "| **all** | 2 | 2 | 0.1 |"]


# ------------------------------------------------------------------------------------------------ this
# repository


def test_every_chapter_is_in_the_table_of_contents():
    listed = {Path(entry).stem for entry in book.entries(ROOT / "_toc.yml") if entry.startswith("notebooks/")}
    assert {path.stem for path in chapters.sources()} <= listed


def test_a_cards_question_has_at_most_25_words_and_every_chapter_has_one():
    questions = cards.questions(ROOT)
    assert {path.stem for path in chapters.sources()} <= set(questions)
    assert all(question.endswith("?") and len(question.split()) <= 25 for question in questions.values())


def test_an_older_packed_file_says_nothing_of_its_images(tmp_path):
    for about in ({}, {"images": None}, {"images": {}}):
        assert packed_files.Net(tmp_path / "none.safetensors", about, "A net", 1.0, False).whitening == 0


def test_packed_nets_have_a_figure_with_a_place_for_each_name():
    from bnnlib.book import tables
    from bnnlib.book.pages import sizes

    shown = sizes.accuracy_against_size(ROOT)
    assert shown.count("<svg") == 2 and 'class="drawn narrow"' in shown and "var(--book-ours)" in shown
    for net in packed_files.nets(ROOT):
        assert 0 <= net.whitening < net.size
        assert f"{net.title} ({tables.DATA_SETS[net.about['dataset']]})" in shown
    assert sizes.accuracy_against_size(ROOT / "tests") == "*None yet.*\n"


def test_the_findings_are_computed_from_the_records(tmp_path):
    whole = landing.findings(ROOT, ["shipping-one-bit"])
    assert whole.count(":link:") == 1, "only chapters that are there are linked"
    found = speedups.of_each_cpu(ROOT / "results" / "bench")
    columns = {"over_best": "channels_last", "bits_over_best": "bits", "over_float32": "channels_last"}
    for one, record in zip(found, speed.newest(ROOT / "results" / "bench"), strict=True):
        cells = []
        for name, ours in columns.items():
            rival = speed.eager_fp32 if name == "over_float32" else speed.best_rival
            guess = not all(speed.ratio(layer, rival(layer), ours).paired for layer in record["runs"][0]["layers"])
            low, _, high = getattr(one, name)
            cells.append(f"{'≈' * guess}{speedups.times(low).rstrip('×')} to {speedups.times(high)}")
        assert f"| {one.core} | {' | '.join(cells)} |\n" in whole
    assert whole.index("best rival") < whole.index("PyTorch's float32")
    assert f"{landing.sizes('s2-student').factor:.1f}×" in whole and "the net reaches" in whole
    bare = landing.findings(tmp_path, [])
    assert "`make bench` measures" in bare and "the net reaches" not in bare


def test_a_packed_net_is_listed_with_its_size_and_the_accuracy_of_its_file():
    table, files = packed_files.packed_nets(ROOT)
    net = ROOT / "results" / "models" / "s1-vgg.safetensors"
    assert files["models/s1-vgg.safetensors"] == net.read_bytes()
    answers = safetensors.torch.load_file(ROOT / "results" / "predictions" / "s1-vgg.safetensors")
    right = 100 * (answers["classes"][:, 0] == answers["labels"]).double().mean().item()  # int8 runs otherwise where bf16 is rounded
    row = next(line for line in table.splitlines() if "`s1-vgg " in line)
    assert f"{net.stat().st_size / 1e6:.1f} MB | int8 | {right:.2f} | this file" in row


def test_records_and_tables_of_contents_that_are_damaged(tmp_path):
    broken = tmp_path / "_toc.yml"
    broken.write_text("root: [")
    with pytest.raises(book.BookError, match="_toc.yml"):
        book.entries(broken)
    root = repository(tmp_path / "root")
    (root / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    path = records.path_of("s4-lenet5", 0, root / "results" / "runs")
    path.parent.mkdir()
    path.write_text(json.dumps({"recipe": "s4-lenet5"}))
    with pytest.raises(records.RecordError, match="is damaged"):
        book.stage(root)
