"""The book in a real browser: no page is wider than its window, asks another host, or logs an error.

Chromium is driven over its debugging pipe, without a driver package. The pages are those of build/html where that
is built from what is here, else the prose pages alone, built for this test."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from bnnlib.book import chapters
from bnnlib.book import site as book

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
READY = """(async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const code = [...document.querySelectorAll('.bd-article pre')];
  document.querySelectorAll('.bd-article details').forEach(d => { d.open = true; });
  return {
    page: [document.documentElement.scrollWidth, window.innerWidth],
    cut: code.filter(pre => pre.clientWidth && pre.scrollWidth > pre.clientWidth + 1).length,
    stops: document.querySelectorAll('mjx-container[tabindex="0"]').length,
    unset: document.querySelectorAll('mjx-merror').length,
  };
})()"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("BNN_REQUIRE_TOOLS"), reason="Chromium is not installed"
)


class Browser:
    """One page of a headless Chromium that can reach no host."""

    def __init__(self, profile: Path) -> None:
        to_it, ours_out = os.pipe()
        ours_in, from_it = os.pipe()

        def hand_over() -> None:  # Chromium reads commands from descriptor 3 and answers on 4
            read, write = os.dup(to_it), os.dup(from_it)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"],
            preexec_fn=hand_over,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_it)
        os.close(from_it)
        self.out, self.input = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb", 0)
        self.numbers, self.rest, self.events, self.session = itertools.count(1), b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.out.close()
        self.input.close()

    def _message(self) -> dict:
        while b"\0" not in self.rest:
            part = self.input.read(1 << 16)
            if not part:
                raise EOFError("Chromium has ended")
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **values) -> dict:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": values}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, script: str):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def visit(self, address: str, width: int) -> dict:
        """Open ``address`` in a window of ``width`` and return what :data:`READY` finds, ``errors`` that were
        logged, and the ``hosts`` that were asked."""
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        self.events.clear()
        self.call("Page.navigate", url=address)
        until = time.monotonic() + 60
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until, f"{address} does not load"
            self.call("Runtime.evaluate", expression="0")
        found = self.evaluate(READY)
        errors, hosts = [], []
        for event in self.events:
            values = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                errors.append(values["exceptionDetails"])
            elif event["method"] == "Runtime.consoleAPICalled" and values["type"] == "error":
                errors.append([argument.get("value") for argument in values["args"]])
            elif event["method"] == "Log.entryAdded" and values["entry"]["level"] == "error":
                errors.append(values["entry"]["text"])
            elif event["method"] == "Network.requestWillBeSent":
                asked = values["request"]["url"]
                hosts += [asked] if asked.startswith(("http:", "https:", "ws:", "wss:")) else []
        return {**found, "errors": errors, "hosts": hosts}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    built = ROOT / "build" / "html"
    try:
        current = (built / ".staged").read_text() == book._digest(book.stage(ROOT), ROOT)
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
    pages = ", ".join(f"{{file: {name}}}" for name in book.entries(ROOT / "_toc.yml") if "/" not in name)
    toc = f"format: jb-book\nroot: index\nchapters: [{pages.replace('{file: index}, ', '')}]\n"
    (root / "_toc.yml").write_text(toc)
    return book.build(root)[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


@pytest.mark.parametrize("screen", WIDTHS)
def test_every_page_fits_and_asks_and_logs_nothing(site, browser, screen):
    wrong = {}
    for path in sorted(site.rglob("*.html")):
        if "_static" in path.parts:
            continue
        found = browser.visit(path.as_uri(), WIDTHS[screen])
        told = [f"page is {found['page'][0]} wide"] if found["page"][0] > found["page"][1] else []
        told += [f"asks {asked}" for asked in found["hosts"]] + [f"logs {error}" for error in found["errors"]]
        told += [f"{found['cut']} blocks of code are cut"] if found["cut"] else []
        told += [f"{found['stops']} formulas are tab stops"] if found["stops"] else []
        told += [f"{found['unset']} formulas are not set"] if found["unset"] else []
        if told:
            wrong[path.relative_to(site).as_posix()] = told
    assert not wrong, json.dumps(wrong, indent=1)


def test_the_theme_turns_dark_without_an_error(site, browser):
    address = (site / "index.html").as_uri()
    browser.visit(address, WIDTHS["desktop"])
    browser.evaluate("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    try:
        found = browser.visit(address, WIDTHS["desktop"])
        assert browser.evaluate("document.documentElement.dataset.theme") == "dark"
        assert not found["errors"]
    finally:
        browser.evaluate("localStorage.clear()")
