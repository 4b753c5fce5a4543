"""Tables of the book: figures on the right, units in the head, nothing that Markdown would read otherwise."""

import re

import pandas as pd
import pytest

from bnnlib.book import chapters, tables
from bnnlib.paths import ROOT


def test_text_is_left_and_figures_are_right():
    rows = [
        {
            "net": "a|b",
            "top-1, %": 99.125,
            "seeds": 5,
            "spread": "99.1 ± 0.1*",
            "difference": -0.25,
            "note": "30 epochs",
        },
        {"net": "c", "top-1, %": None, "seeds": 12345, "spread": "–", "difference": 1.0, "note": ""},
    ]
    head, rule, first, second = tables.markdown(rows, digits={"top-1, %": 2, "difference": 2}).splitlines()
    assert head == "| net | top-1, % | seeds | spread | difference | note |"
    assert rule == "|---|---:|---:|---:|---:|---|"
    assert first == "| a\\|b | 99.12 | 5 | 99.1 ± 0.1* | −0.25 | 30 epochs |"
    assert second == "| c | – | 12,345 | – | 1.00 |  |"
    assert tables.markdown([{"mean |W|": 1.0}]).splitlines()[:2] == ["| mean \\|W\\| |", "|---:|"]


def test_a_frame_is_rows_and_a_caption_has_a_number():
    frame = pd.DataFrame({"layer": ["x"], "KiB": [float("nan")]})
    shown = tables.table(frame, "Sizes,\n  in KiB.", name="tab-x").data
    assert shown == "```{table} Sizes, in KiB.\n:name: tab-x\n\n| layer | KiB |\n|---|---|\n| x | – |\n```\n"
    assert tables.table(frame).data == tables.markdown(frame)
    folded = tables.table(frame, "Sizes, in KiB.", name="tab-x", folded="All sizes").data
    assert folded == f"::::{{dropdown}} All sizes\n{shown}::::\n"


def test_a_caption_with_code_in_it_leaves_the_table_a_table():
    from markdown_it import MarkdownIt

    for caption in ("`Left out`: images that an epoch did not reach.", "Sizes."):
        shown = tables.table([{"a": 1}], caption, name="tab-x").data
        (token,) = MarkdownIt().parse(shown)
        assert (token.type, token.info) == ("fence", f"{{table}} {caption}")


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([], {}, "a table without rows"),
        ([{"a": 1}, {"b": 1}], {}, r"same columns: \['a'\], but one has \['b'\]"),
        ([{"a": 1}], {"digits": {"c": 2}}, "no column c; it has a"),
        ([{"a": 1}], {"right": ["d"]}, "no column d; it has a"),
        ([{" ": "x", "a": 1}], {}, r"a name, also the first; these have \[' ', 'a'\]"),
    ],
)
def test_bad_tables_are_refused(rows, more, message):
    with pytest.raises(ValueError, match=message):
        tables.markdown(rows, **more)


def test_columns_of_typed_tables_have_names():
    """A screen reader says the column's name with each cell."""
    pages = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md")}
    for path in chapters.sources():
        pages[path.name] = "\n\n".join(cell.source for cell in chapters.read(path).cells if cell.cell_type == "markdown")
    heads = [(name, head) for name, text in pages.items() for head in re.findall(r"^(\|.*\|)\n\|[-:| ]+\|$", text, re.MULTILINE)]
    assert len(heads) > 10 and [each for each in heads if re.search(r"\|\s*\|", each[1])] == []


def test_layers_in_words():
    assert tables.layer("128->128 3x3 @32") == "3×3, 128 → 128, 32×32 pixels"
    assert tables.layer("stem") == "stem"
