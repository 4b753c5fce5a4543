"""The book in a real browser: pages fit, set their formulas, ask no other host, log nothing, and axe finds nothing serious.

Playwright drives the system's Chromium. The pages are those of build/html where that is built from what is here, else
the prose pages alone, built for this test."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from toolchains import in_chromium

from bnnlib import records
from bnnlib.book import chapters
from bnnlib.book import site as book

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = {"desktop": 1280, "phone": 390}
CHROMIUM_OPTIONS = ["--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files"]
SEEN = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  document.querySelectorAll('.bd-article details').forEach(d => { d.open = true; });
  const wide = [...document.querySelectorAll('.bd-article :is(pre, svg.drawn, .sd-card, p, ul)')];
  const page = document.documentElement;
  const tables = [...document.querySelectorAll('.bd-article table')].filter(t => t.offsetParent);
  const holder = t => t.closest('.pst-scrollable-table-container, .output, .all-runs') || t.parentElement;
  return {
    'is wider than the window': Math.max(0, page.scrollWidth - window.innerWidth),
    'blocks of code are cut': wide.filter(e => e.matches('pre') && e.scrollWidth > e.clientWidth + 1 && e.clientWidth).length,
    'tables are cut': window.innerWidth < 1000 ? 0 : tables.filter(t => t.offsetWidth > holder(t).clientWidth + 1).length,
    'figures scroll sideways': [...document.querySelectorAll('.bd-article figure')].filter(f => f.scrollWidth > f.clientWidth + 1).length,
    'captions are squeezed': tables.filter(t => t.caption && t.caption.offsetWidth < 0.6 * Math.min(t.offsetWidth, holder(t).clientWidth)).length,
    'formulas are tab stops': document.querySelectorAll('mjx-container[tabindex="0"]').length,
    'formulas are not set': document.querySelectorAll('mjx-merror').length
      + [...document.querySelectorAll('.bd-article .math')].filter(m => !m.querySelector('mjx-container')).length,
    'pictures have no text': document.querySelectorAll('.bd-article img:not([alt])').length,
  };
}"""
SERIOUS = {"serious", "critical"}
KEY_PAGES = {"index.html", "scoreboard.html", "reference/layers.html", "notebooks/lenet5-mnist.html"}

pytestmark = in_chromium


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    built = ROOT / "build" / "html"
    try:
        current = (built / ".staged").read_text() == book.digest_of(book.stage(ROOT), ROOT)
    except (OSError, book.BookError, chapters.ChapterError):
        current = False
    if current:
        return built
    root = tmp_path_factory.mktemp("prose")
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("__pycache__"))
    # Links into chapters, which are not built here, would be warnings, and warnings stop a build.
    for path in (root / "book").glob("*.md"):
        text = re.sub(r"\(notebooks/[\w-]+\.ipynb", "(index.md", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "results", root / "results")
    pages = ", ".join(f"{{file: {name}}}" for name in book.entries(ROOT / "_toc.yml") if "notebooks/" not in name)
    toc = f"format: jb-book\nroot: index\nchapters: [{pages.replace('{file: index}, ', '')}]\n"
    (root / "_toc.yml").write_text(toc)
    return book.build(root)[0]


@pytest.fixture
def window(chromium):
    """A function that opens a window; what it logs and whom it asks is in its ``told``."""
    opened = []

    def make(width: int, scheme: str = "light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 600
        )
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.told = []
        page.on("console", lambda m: page.told.append(f"logs {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: page.told.append(f"raises {error}"))
        page.on("request", lambda r: page.told.append(f"asks {r.url}") if r.url.startswith("http") else None)
        opened.append(context)
        return page

    yield make
    for context in opened:
        context.close()


def pages(site):
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]


def accessible(page, name: str, screen: str) -> list[str]:
    """Serious findings of axe in what is ours on a page; on the phone of contrast in the dark, on a few pages."""
    from axe_playwright_python.sync_playwright import Axe

    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
    if screen == "phone":
        if name not in KEY_PAGES:
            return []
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        rules = {"type": "rule", "values": ["color-contrast"]}
    ours = {"include": [["article"]], "exclude": [["svg"], ["mjx-container"], ["pre"]]}
    # without preload, axe fetches no style sheets itself, which a page opened from a folder may not
    found = Axe().run(page, context=ours, options={"resultTypes": ["violations"], "runOnly": rules, "preload": False})
    return [
        f"axe: {v['id']}, {len(v['nodes'])}: {v['nodes'][0]['html'][:120]}"
        for v in found.response["violations"]
        if v["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("screen", WIDTHS)
def test_every_page_fits_asks_and_logs_nothing_and_is_accessible(site, window, screen):
    page, wrong = window(WIDTHS[screen]), {}
    for path in pages(site):
        page.told.clear()
        page.goto(path.as_uri())
        seen = page.evaluate(SEEN)
        told = [f"{count} {what}" for what, count in seen.items() if count]
        if page.locator("article").count():
            told += accessible(page, path.relative_to(site).as_posix(), screen)
        told += page.told
        if told:
            wrong[path.relative_to(site).as_posix()] = told
    assert not wrong, json.dumps(wrong, indent=1, ensure_ascii=False)


def test_the_theme_turns_dark_without_an_error(site, window):
    page = window(WIDTHS["desktop"], "dark")
    page.goto((site / "index.html").as_uri())
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert not page.told


class _Ids(HTMLParser):
    """Every id of a page, and every address on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.addresses.append(given["href"])


def test_every_anchor_that_is_linked_is_there(site):
    read = {path.resolve(): _Ids(path.read_text(encoding="utf-8")) for path in pages(site)}
    wrong = []
    for path, found in read.items():
        for address in found.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not parts.fragment:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target in read and unquote(parts.fragment) not in read[target].ids:
                wrong.append(f"{path.name} -> {address}")
    assert not wrong, wrong


@pytest.mark.parametrize(("word", "where"), [("popcount", "glossary.html"), ("fingerprint", "glossary.html")])
def test_the_search_finds_words(site, window, word, where):
    page = window(WIDTHS["desktop"])
    page.goto(f"{(site / 'search.html').as_uri()}?q={word}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('#search-results').textContent.includes('finished')")
    links = page.eval_on_selector_all(
        "#search-results li a", "found => found.map(a => a.getAttribute('href'))"
    )
    assert any(link.startswith(where) for link in links), links
    assert not page.told


def test_the_table_of_all_runs_filters(site, window):
    page = window(WIDTHS["desktop"])
    page.goto((site / "scoreboard.html").as_uri())
    page.wait_for_selector(".all-runs input[type=search]")
    before = page.locator(".all-runs tbody tr").count()
    page.fill(".all-runs input[type=search]", "cifar10 NIN")  # few runs: fewer than stand on a page of the table
    page.wait_for_function(f"document.querySelectorAll('.all-runs tbody tr').length < {before}")
    assert all("NIN" in text for text in page.locator(".all-runs tbody tr").all_inner_texts())
    assert not page.told


def test_the_learning_curves_tell_the_value_that_is_pointed_at(site, window):
    page = window(WIDTHS["desktop"])
    page.goto((site / "curves.html").as_uri())
    page.select_option("#curves-second", "")
    run = records.read_all(recipe=page.input_value("#curves-first"))[0]
    page.locator("#curves-plot").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    third = run.curve[2].test_top1
    said = page.inner_text("#curves-told")
    assert f"seed {run.seed}, epoch 3: test accuracy {float(f'{third:.5g}'):g} % (" in said
    page.locator("#curves-mark").hover(force=True)
    assert page.inner_text("#curves-told") == said, "the pointer finds the point that the keys did"
    page.select_option("#curves-value", "lr")
    page.keyboard.press("Tab")
    assert page.locator("#curves-plot polyline").count() == len(records.read_all(recipe=run.recipe))
    assert not page.told


def test_folded_code_opens(site, window):
    if not (site / "notebooks" / "lenet5-mnist.html").is_file():
        pytest.skip("the chapters are not built")
    page = window(WIDTHS["desktop"])
    page.goto((site / "notebooks" / "lenet5-mnist.html").as_uri())
    code = page.locator("details.hide pre").first
    assert not code.is_visible()
    page.locator("details.hide summary").first.click()
    assert code.is_visible()
    solution = page.locator(".solution.admonition").first
    assert "Solution" in solution.inner_text()


def test_a_chapter_opens_with_its_answer_and_what_unfolds_is_quiet(site, window):
    """The theme's own rules are strong: some of book.css had no effect beside them."""
    if not (site / "notebooks" / "lenet5-mnist.html").is_file():
        pytest.skip("the chapters are not built")
    page = window(WIDTHS["desktop"])
    page.goto((site / "notebooks" / "lenet5-mnist.html").as_uri())

    def style(selector: str, name: str) -> str:
        return page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")

    assert style(".tag_answer", "borderLeftWidth") == "4px"
    for box in (".admonition.cost", "details.hide", "div.proof.admonition", ".solution.admonition"):
        assert page.locator(box).count() == 0 or style(box, "boxShadow") == "none", box
    assert style("details.hide summary p", "fontSize") == "13px"
    table = page.locator(".admonition.cost table")
    assert not table.is_visible()
    page.locator(".admonition.cost .admonition-title").click()
    table.wait_for(state="visible")


def test_a_number_keeps_its_unit(site, window):
    if not (site / "notebooks" / "lenet5-mnist.html").is_file():
        pytest.skip("the chapters are not built")
    page = window(WIDTHS["phone"])
    page.goto((site / "notebooks" / "lenet5-mnist.html").as_uri())
    told = page.locator(".tag_answer").inner_text()
    assert re.search("\\d\xa0±\xa0\\d", told) and not re.search(r"\d [%±]", told)
