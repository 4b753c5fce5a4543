"""The net in the reader's browser: Chromium, pages opened from a folder, no host asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from toolchains import in_chromium

from bnnlib import data
from bnnlib.book.live import digits, pictures
from bnnlib.book.live import page as live
from bnnlib.deploy import operations

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("playwright.sync_api")
pytestmark = in_chromium
STARTED = "document.querySelector('.live').dataset.state"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages with nothing but a part of the book's each."""
    made = tmp_path_factory.mktemp("site")
    pages, files, wrong = live.parts(ROOT)
    assert not wrong
    for name, content in files.items():
        (made / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (made / "src" / name).write_bytes(content)
    for path in (ROOT / "book" / "live").glob("*.js"):
        shutil.copy(path, made / "src" / "live")
    (made / "_static").mkdir()
    live.copy_scripts(made / "src", made)
    shutil.copy(ROOT / "book" / "_static" / "live.css", made / "_static")
    for name in ("page", "hero", "picture"):
        body = pages[f"live-{name}"].removeprefix("```{raw} html\n").removesuffix("```\n")
        if name == "picture":
            body += '<script defer src="_static/live/start.js"></script>'
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="stylesheet" href="_static/live.css">'
        (made / f"{name}.html").write_text(f"<!doctype html><html lang=en data-theme=light><head>{head}</head><body>{body}</body></html>")
    return made


@pytest.fixture
def visit(chromium, folder):
    """Opens a page, running, and sees to it that nothing was logged and no host asked."""
    contexts, wrong = [], []

    def opened(name: str, wait: bool = True, **options):
        contexts.append(chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto((folder / f"{name}.html").as_uri())
        if wait:
            page.wait_for_function(STARTED)
            assert page.evaluate(STARTED) == "live", page.locator("[data-part=wrong]").text_content()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def digit():
    return live.net_of(ROOT, live.DIGIT)


def answers(page, images: np.ndarray) -> np.ndarray:
    """Logits of the page's net for uint8 images, in the order [H][W][C]."""
    return np.array(page.evaluate("images => images.map(x => [...document.querySelector('.live').view.net.run(x)])", images.reshape(len(images), -1).tolist()))


def test_100_images_give_python_s_logits_to_the_bit(visit, digit):
    images = data.load("digits").test.images[:100].numpy()
    page = visit("page")
    found = answers(page, images)
    expected = np.concatenate([live.logits(digit, image[None]) for image in images])
    assert np.array_equal(found.astype(np.float32), expected)
    assert np.array_equal(found.argmax(1), digit.net(live.seen(digit, images)).numpy().argmax(1))


def test_the_float_twin_gives_the_same_logits(visit, digit):
    images = data.load("digits").test.images[:20].numpy()
    both = visit("page").evaluate(
        "images => { const { net, twin } = document.querySelector('.live').view; return images.map(x => [net.run(x), twin.run(x)]); }",
        images.reshape(20, -1).tolist(),
    )
    for binary, float_ in both:
        assert binary == float_


def test_a_drawing_becomes_the_same_image_as_in_python(visit):
    drawings = [digits.drawing(d, style, 3) for d in range(10) for style in digits.STYLES]
    drawings += [[[(0.5, 0.5)]], [[(0.1, 0.9), (0.1, 0.9)]], [[(0.2, 0.2), (0.8, 0.2)]]]
    found = visit("page").evaluate("all => all.map(strokes => [...bnnLive.digitImage(strokes)])", drawings)
    for strokes, image in zip(drawings, found, strict=True):
        # the last step rounds: the order of a sum may move one pixel of thousands by 1
        assert np.abs(np.array(image) - digits.image(strokes).ravel().astype(int)).max() <= 1


def test_written_digits_are_read(visit):
    """Ten drawings in each style: the page's own way to its answer, at least 47 of 50 right."""
    wanted = [(d, digits.drawing(d, style, 0)) for style in digits.STYLES for d in range(10)]
    script = "all => all.map(strokes => { const { view } = document.querySelector('.live'); view.pad.set(strokes); return view.answer; })"
    found = visit("page").evaluate(script, [strokes for _, strokes in wanted])
    right = sum(answer == d for (d, _), answer in zip(wanted, found, strict=True))
    assert right >= 0.94 * len(wanted), [(d, a) for (d, _), a in zip(wanted, found, strict=True) if a != d]


def draw(page, strokes) -> None:
    box = page.locator("[data-part=pad] canvas").bounding_box()
    for stroke in strokes:
        for k, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if k == 0:
                page.mouse.down()
        page.mouse.up()


@pytest.mark.parametrize("name", ["page", "hero"])
def test_a_stroke_of_the_mouse(visit, name, record_property):
    page = visit(name)
    draw(page, digits.drawing(4, "slanted", 2))
    assert page.locator("[data-part=answer] b").text_content() == "4"
    assert page.locator(".live-best").text_content().startswith("4")
    page.wait_for_function("document.querySelector('.live').view.times")
    times = page.evaluate("document.querySelector('.live').view.times")
    record_property("milliseconds an image", json.dumps(times))
    assert times["binary"] > 0 and "an image on this device" in page.locator("[data-part=time]").text_content()
    page.get_by_role("button", name="Clear").click()
    assert page.locator("[data-part=answer]").text_content() == "Draw a digit."


def test_by_touch_on_a_phone(visit):
    page = visit("page", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    box = page.locator("[data-part=pad] canvas").bounding_box()
    session = page.context.new_cdp_session(page)
    for stroke in digits.drawing(7, "plain", 0):
        for k, (x, y) in enumerate(stroke):
            point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
            session.send("Input.dispatchTouchEvent", {"type": "touchMove" if k else "touchStart", "touchPoints": [point]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.locator("[data-part=answer] b").text_content() == "7"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_by_keyboard(visit):
    page = visit("page")
    pad = page.locator("[data-part=pad] canvas")
    pad.focus()
    page.keyboard.press("6")
    assert page.locator("[data-part=answer] b").text_content() == "6"
    page.keyboard.press("Delete")
    for key in ["ArrowUp"] * 9 + [" "] + ["ArrowDown"] * 18 + [" "]:
        page.keyboard.press(key)
    assert page.locator("[data-part=answer] b").text_content() == "1"
    page.keyboard.press("Backspace")
    assert page.locator("[data-part=answer]").text_content() == "Draw a digit."


def test_one_sum_is_the_kernel_s(visit, digit):
    """Every bit of layer 2, from the sums that the page counts bit by bit; and the sum that it says is numpy's."""
    page = visit("page")
    strokes = digits.drawing(5, "plain", 4)
    page.evaluate("strokes => document.querySelector('.live').view.pad.set(strokes)", strokes)
    sums = np.array(page.evaluate("""() => { const { view } = document.querySelector('.live'), all = [];
      for (let f = 0; f < 50; ++f) for (let y = 0; y < 8; ++y) for (let x = 0; x < 8; ++x) all.push(view.sum(f, view.window(y, x)));
      return all; }""")).reshape(50, 8, 8)
    graph, image = digit.net.graph, digits.image(strokes)[None, None]
    slots = digit.net.values(live.seen(digit, image), ["conv2.layer.input", "fc1.layer.input"])
    weights = np.unpackbits(graph.tensors["conv2.layer.weight"], axis=1, count=500, bitorder="little").astype(int) * 2 - 1
    signs = torch.from_numpy(weights.reshape(50, 20, 5, 5)).float()
    expected = torch.nn.functional.conv2d(slots["conv2.layer.input"].float() * 2 - 1, signs)[0]
    assert np.array_equal(sums, expected.numpy())
    t = {name: torch.from_numpy(array) for name, array in graph.tensors.items() if array.dtype == np.float32}
    column = lambda name: t[name].reshape(-1, 1, 1)  # noqa: E731
    x = torch.from_numpy(sums).float() * column("conv2.layer.scale") + column("conv2.layer.bias")
    x = torch.nn.functional.max_pool2d(x[None], 2)[0]
    x = torch.where(x > 0, x, x * column("conv2.act.slope"))
    low, high = (t[f"fc1.layer.input.{end}"] for end in ("low", "high"))
    low, high = (b.permute(2, 0, 1) if b.ndim == 3 else b.reshape(-1, 1, 1) for b in (low, high))
    assert torch.equal((x >= low) & (x <= high), slots["fc1.layer.input"][0])


def test_a_filter_and_its_place_can_be_chosen(visit):
    page = visit("page")
    page.locator("[data-part=filter]").fill("17")
    page.locator("[data-part=row]").fill("8")
    said = page.locator("[data-part=sum]").text_content()
    same = int(said.split(" of ")[0])
    assert page.evaluate("(({ view }) => view.place.filter === 16 && view.place.y === 7)(document.querySelector('.live'))")
    assert f"= {2 * same - 500}." in said
    page.locator("[data-part=layer2] canvas").hover(position={"x": 3, "y": 3})
    assert page.locator("[data-part=filter-said]").text_content() == "1"


def test_pictures_are_named_as_python_names_them(visit, tmp_path):
    net = live.net_of(ROOT, live.PICTURE)
    examples = pictures.drawn()
    page = visit("picture")
    found = answers(page, np.stack(list(examples.values())))
    for logits, picture in zip(found, examples.values(), strict=True):
        assert np.array_equal(logits.astype(np.float32), live.logits(net, picture.transpose(2, 0, 1)[None].copy())[0])
    page.locator("[data-picture=ship]").click()
    assert page.locator("[data-part=answer] b").text_content() == "ship"
    page.locator("[data-part=layer]").fill("6")
    assert "512 maps of 8 × 8" in page.locator("[data-part=maps-said]").text_content()
    page.wait_for_function("document.querySelector('[data-part=answer-float]').textContent === 'ship'", timeout=60_000)


def test_a_picture_of_one_s_own(visit, tmp_path):
    from PIL import Image

    page = visit("picture")
    ship = Image.fromarray(pictures.drawn()["ship"]).resize((640, 640), Image.Resampling.BOX)
    wide = Image.new("RGB", (900, 640))
    wide.paste(ship, (130, 0))
    wide.save(tmp_path / "mine.png")
    page.locator("[data-part=file]").set_input_files(tmp_path / "mine.png")
    page.wait_for_function("document.querySelector('[data-part=photo] canvas').ariaLabel?.includes('mine.png')")
    assert page.locator("[data-part=answer] b").text_content() == "ship"
    (tmp_path / "none.png").write_bytes(b"no picture")
    page.locator("[data-part=file]").set_input_files(tmp_path / "none.png")
    page.wait_for_function("!document.querySelector('[data-part=wrong]').hidden")
    assert "none.png cannot be read as a picture" in page.locator("[data-part=wrong]").text_content()


@pytest.mark.parametrize("name", ["page", "hero", "picture"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, name, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(name)
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    if theme == "dark":  # the harness has no theme of its own
        page.add_style_tag(content="body { background: #121212; color: #ced6dd; --pst-color-text-base: #ced6dd; "
                           "--pst-color-text-muted: #9ca4af; --pst-color-surface: #29313d; } a { color: #6cc5d6; }")  # fmt: skip
    found = axe.run(page, context=".live", options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    assert not [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]


def test_without_scripts_the_page_shows_a_digit_s_way(visit):
    page = visit("page", wait=False, java_script_enabled=False)
    assert page.locator("[data-part=answer]").text_content().startswith(str(live.EXAMPLE))
    for part in ("pad", "seen", "layer1", "layer2", "layer3", "bits-in", "bits-weight", "bits-equal"):
        assert page.locator(f"[data-part={part}] svg").is_visible()
    assert not page.get_by_role("button", name="Clear").is_visible()


def test_without_webassembly_a_sentence_says_so(visit, chromium, folder):
    page = chromium.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto((folder / "page.html").as_uri())
    page.wait_for_function(STARTED)
    assert "does not run WebAssembly with SIMD. What you see is a still picture" in page.locator("[data-part=wrong]").text_content()
    page.close()


def test_a_damaged_file_is_refused(visit, chromium, folder):
    page = visit("page")
    said = page.evaluate("""async () => {
      const packed = Uint8Array.from(atob(bnnLive.data.digit.packed), c => c.charCodeAt(0));
      const whole = await bnnLive.isWhole(packed);
      packed[packed.length - 5] ^= 1;
      const damaged = await bnnLive.isWhole(packed), found = [whole, damaged];
      for (const bytes of [packed.slice(0, 5000), packed.slice(0, packed.length - 1)])
        try { bnnLive.readPacked(bytes); found.push('read'); } catch (error) { found.push(error.message); }
      return found;
    }""")
    assert said[:2] == [True, False]
    assert all("does not fit" in text or "header" in text for text in said[2:])


RUN = {
    "operations": {"map", "real_conv", "binary_conv", "max_pool", "avg_pool", "bit_pool", "bit_pad"},
    "stages": {"scale", "bias", "affine", "relu", "clamp", "prelu", "step", "residual", "max_pool", "avg_pool", "store", "sign", "threshold", "bits"},
}
"""What the page's engine runs; it refuses the rest of the library's operations."""


def test_what_the_engine_does_not_know_is_refused_by_name(visit):
    page = visit("page")

    def told(change: str) -> str:
        return page.evaluate(f"""() => {{
          const {{ net }} = document.querySelector('.live').view, graph = structuredClone(net.graph);
          {change};
          try {{ new bnnLive.Network(net.exports, {{ ...net, graph }}); return ''; }} catch (error) {{ return error.message; }}
        }}""")

    for kind in set(operations.OPERATIONS) - RUN["operations"]:
        assert f"has the operation {kind}, which this page does not run; the Python library runs it" in told(f"graph.ops[1].kind = '{kind}'")
    for kind in set(operations.STAGES) - RUN["stages"]:
        assert f"has the stage {kind}, which this page" in told(f"graph.ops[0].stages.unshift({{ op: '{kind}' }})")
    assert "the kind of weight float8" in told("graph.ops.find(op => op.kind === 'real_conv').attributes.weights = 'float8'")
    assert "has 2 inputs, and this page runs networks with one" in told("graph.inputs.push(graph.inputs[0])")
    assert "is of version 9 of the format" in told("graph.version = 9")
    both = told("graph.ops[0].kind = 'join'; graph.ops[1].kind = 'move'; graph.ops[0].stages.push({ op: 'gelu' })")
    assert both.startswith("the network has the operation join, move and the stage gelu, which")
    alone = "kind => bnnLive.notRun({ inputs: [0], outputs: [0], ops: [{ kind, attributes: { weights: 'int8' }, stages: [] }] })"
    known = page.evaluate(f"ops => ops.map({alone})", sorted(RUN["operations"]))
    assert not any(known)


def test_a_page_whose_net_cannot_run_says_why_and_stands_still(chromium, folder):
    page = chromium.new_page()
    page.add_init_script("""
      let live = { };
      Object.defineProperty(live, 'readPacked', { get: () => this.read, set: read => {
        this.read = bytes => { const net = read(bytes); net.graph.ops[0].kind = 'resample'; return net; };
      }});
      globalThis.bnnLive = live;
    """)
    page.goto((folder / "page.html").as_uri())
    page.wait_for_function(STARTED)
    assert page.evaluate(STARTED) == "still"
    said = page.locator("[data-part=wrong]")
    assert said.is_visible() and said.text_content() == (
        "The net does not run here: the network has the operation resample, which this page does not run; the Python library "
        "runs it. What you see is a still picture."
    )
    page.close()


def test_nothing_is_loaded_before_the_reader_comes_near(chromium, folder):
    page = chromium.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
    far = (folder / "page.html").read_text().replace("<body>", '<body><div style="height:5000px"></div>')
    (folder / "far.html").write_text(far)
    page.goto((folder / "far.html").as_uri())
    page.wait_for_timeout(300)
    assert sorted(asked) == ["far.html", "live.css", "start.js"]
    page.locator(".live").scroll_into_view_if_needed()
    page.wait_for_function(STARTED)
    assert "data-digit.js" in asked and "data-picture.js" not in asked
    page.close()
