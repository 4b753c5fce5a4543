"""The parts of the page that stand still: pictures of a net at work, written digits, and what there is where nothing compiles."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bnnlib.book.live import digits, pictures, still
from bnnlib.book.live import page as live
from bnnlib.book.live.module import ModuleError

ROOT = Path(__file__).resolve().parents[1]


def painted(svg: str, opacity: str | None = None) -> set[tuple[int, int]]:
    """The cells that the paths of an SVG fill, of one opacity."""
    cells = set()
    for path, said in re.findall(r'class="live-one" d="([^"]*)"(?: opacity="([^"]*)")?', svg):
        if opacity is not None and said != opacity:
            continue
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1", path):
            cells |= {(int(y), int(x) + i) for i in range(int(length))}
    return cells


def test_maps_paint_the_bits_that_are_one():
    bits = np.random.default_rng(0).integers(0, 2, (4, 3, 7))
    expected = {(k // 3 * 5 + y, k % 3 * 4 + x) for k in range(7) for y in range(4) for x in range(3) if bits[y, x, k]}
    svg = still.maps(bits, 3, "seven maps", "moving", [(2, 1, 0, 1, 1), (None, 0, 0, 2, 2)])
    assert painted(svg) == expected
    assert 'viewBox="0 0 11 14"' in svg and svg.count("live-mark") == 8


def test_maps_of_grey_round_up_to_eighths():
    svg = still.maps(np.array([[[0.0], [0.001], [0.5], [0.51], [1.0]]]), 1, "grey", "moving")
    assert painted(svg, "0.125") == {(0, 1)}
    assert painted(svg, "0.5") == {(0, 2)}
    assert painted(svg, "0.625") == {(0, 3)}
    assert painted(svg, "") == {(0, 4)}


def test_a_drawing_s_place_and_size_do_not_matter():
    strokes = digits.drawing(5, "shaky")
    moved = [[(0.3 * x + 0.6, 0.3 * y + 0.1) for x, y in stroke] for stroke in strokes]
    assert np.abs(digits.image(strokes).astype(int) - digits.image(moved)).max() <= 1


@pytest.mark.parametrize("digit", range(10))
def test_an_image_is_as_mnist_s(digit):
    """Its ink lies in 20 by 20 pixels, but for the edge of the line, with the centre of mass in the middle."""
    image = digits.image(digits.drawing(digit, "small in a corner")).astype(float)
    assert image.max() == 255
    rows, columns = (np.flatnonzero(image.max(axis) > 127) for axis in (1, 0))
    assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21
    at = np.arange(28) + 0.5
    assert (image.sum(1) @ at / image.sum(), image.sum(0) @ at / image.sum()) == pytest.approx((14, 14), abs=0.1)


def test_odd_drawings():
    assert not digits.image([]).any() and not digits.image([[]]).any()
    dot = digits.image([[(0.9, 0.1)]])
    assert 4 <= (dot > 127).sum() <= 9 and (dot > 127)[12:16, 12:16].any()
    assert digits.drawing(3, "wide", 2) == digits.drawing(3, "wide", 2) != digits.drawing(3, "wide", 4)


def test_there_is_a_picture_of_each_class():
    drawn = pictures.drawn()
    assert list(drawn) == live.net_of(ROOT, live.PICTURE).about["images"]["classes"]
    assert all(picture.shape == (32, 32, 3) and picture.dtype == np.uint8 for picture in drawn.values())


def test_the_sum_that_stands_still_is_the_largest():
    bits = np.random.default_rng(1).integers(0, 2, (12, 12, 20)).astype(bool)
    net = live.net_of(ROOT, live.DIGIT)
    weights = np.unpackbits(net.net.graph.tensors["conv2.layer.weight"], axis=1, count=500, bitorder="little")
    equal = [
        ((bits[y : y + 5, x : x + 5].transpose(2, 0, 1).ravel() == weights[f]).sum(), (f, y, x))
        for f in range(50) for y in range(8) for x in range(8)
    ]  # fmt: skip
    place, found = live.strongest(net, bits)
    assert found["equal"].sum() == max(count for count, _ in equal)
    assert (found["equal"].sum(), place) in equal


def test_where_nothing_compiles_the_page_stands_still(monkeypatch, tmp_path):
    def refuse():
        raise ModuleError("there is no compiler")

    monkeypatch.setattr(live.kernels, "build", refuse)
    monkeypatch.setattr(live, "preparation", lambda net: "| table |\n")
    pages, files, wrong = live.parts(ROOT)
    assert wrong == "there is no compiler" and not files
    for name in ("live-page", "live-hero", "live-picture"):
        assert "<script" not in pages[name] and "{{" not in pages[name]
        assert "A still picture of what the net does." in pages[name]
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "start.js").touch()
    live.copy_scripts(tmp_path, tmp_path / "site")
    assert not (tmp_path / "site").exists()
