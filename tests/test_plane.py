"""The figure with sliders in the chapter on the gradient: its script computes what the chapter does, and a reader can work it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toolchains import in_chromium

from bnnlib.book.studies import jacobians, plane

PAGE = (
    "<!doctype html><html lang=en><head><meta charset=utf-8><title>t</title><meta name=viewport content='width=device-width'></head><body>"
    "<figure id=still><svg class=drawn width=10 height=10></svg><figcaption>Words.</figcaption></figure>{}</body></html>"
)


@pytest.mark.parametrize("gradient", ["corrected", "paper"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_descent_is_minus_the_gradient_times_the_jacobian_of_the_formula(gradient, whole):
    torch.manual_seed(0)
    for w in torch.rand(20, 2, dtype=torch.float64) * 3 - 1.5:
        alpha = w.abs().mean()
        g = alpha * torch.where(w < 0, -1.0, 1.0) - torch.tensor(plane.TARGET, dtype=w.dtype)
        jacobian = jacobians.formula(w, gradient, slope=None if whole else 0)
        assert torch.allclose(plane.descent(w[None], gradient, whole=whole)[0], -(g @ jacobian))


def test_without_scripts_it_takes_no_room_and_names_no_host():
    text = plane.live("fig").data
    assert text.startswith("<div class='plane' hidden") and "http" not in text


@pytest.fixture
def page(chromium, tmp_path):
    """The figure on a page of its own, on a phone; nothing is logged and no host is asked."""
    context, wrong = chromium.new_context(viewport={"width": 390, "height": 900}, has_touch=True), []
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
    (tmp_path / "page.html").write_text(PAGE.format(plane.live("still").data), encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    context.close()
    assert not wrong


@in_chromium
def test_the_script_computes_what_the_chapter_does(page):
    random = np.random.default_rng(0)
    points = np.concatenate([random.uniform(-1.5, 1.5, (200, 2)), [[0, 0], [0, -1], [1, -1], [-1, 0.5]]])
    targets = random.uniform(-1, 1, points.shape)
    given = json.dumps([points.tolist(), targets.tolist()])
    for kind in plane.COMPARED:
        for whole in (False, True):
            ask = f"(([w, t]) => w.map((p, i) => bnnPlane.descent(p, '{kind}', t[i], {json.dumps(whole)})))({given})"
            found = page.evaluate(ask)
            expected = [
                plane.descent(torch.from_numpy(w[None]), kind, tuple(t), whole)[0].numpy()
                for w, t in zip(points, targets, strict=True)
            ]
            assert np.allclose(found, expected, rtol=1e-12, atol=1e-14), (kind, whole)


@in_chromium
def test_it_begins_where_the_still_figure_does_and_takes_its_place(page):
    values = page.eval_on_selector_all(".plane input[type=range]", "all => all.map(one => Number(one.value))")
    assert values == [*plane.WEIGHTS, *plane.TARGET]
    assert page.locator("#still .plane").count() == 1 and not page.locator("#still > svg.drawn").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert not page.locator(".plane").is_visible() and page.locator("#still > svg.drawn").is_visible()


@in_chromium
def test_keys_and_pointer_move_the_point_and_the_words_follow(page):
    said = page.locator(".plane-said")
    before = said.inner_text()
    page.locator(".plane input[type=range]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".plane label output").first.inner_text() == "−0.39" and said.inner_text() != before
    box = page.locator(".plane svg").first.bounding_box()
    grip = page.locator(".plane-grip").first.bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (32 + 300 * 1.6 / 2.2) / 340, box["y"] + box["height"] * (4 + 300 * 0.6 / 2.2) / 342, steps=4)
    page.mouse.up()
    w1, w2 = (float(t.replace("−", "-")) for t in page.locator(".plane label output").all_inner_texts()[:2])
    assert abs(w1 - 0.5) < 0.03 and abs(w2 - 0.5) < 0.03
    before = said.inner_text()
    page.get_by_label("with the part through the sign").check()
    assert said.inner_text() != before and "corrected" in said.inner_text()
