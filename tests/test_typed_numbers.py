"""No result is typed: a number in prose comes from a cell, from the sources' table, or from a list of constants with reasons.

Looked at are the Markdown cells of ``notebooks/`` and the pages ``book/*.md``, less what is no prose: formulas, code, roles,
directives, links' targets, comments and citations. A number there must be one of

* a figure of a source (``bnnlib/experiments/sources.py``), in a paragraph that names the source (S1 to S5), or of a paper that
  the text cites;
* a constant: an entry of ``tests/typed_numbers.yml``, for every page or for this one, with the reason why it cannot change.

Everything else is a result, or might be taken for one. It belongs into a code cell that ends in ``Markdown(f"...")`` with the
tag ``hide-input``, or into a page that the build makes.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

import nbformat
import pytest
import yaml

from bnnlib.experiments import sources

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("typed_numbers.yml")
NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:[×x]\d+)+|\d[\d,]*\d(?:\.\d+)?|\d(?:\.\d+)?)(?:e[+-]?\d+)?(?!\w)")
# What is no prose, in the order in which it is taken out.
NO_PROSE = [
    r"<!--.*?-->",
    r"(?ms)^(`{3,}|~{3,}).*?^\1`*\s*$",  # fenced code and directives with backticks
    r"(?s)\$\$.*?\$\$(?:\s*\([\w-]+\))?",
    r"\$[^$\n]+(?:\n[^$\n]+)?\$",
    r"\{[\w:+-]+\}`[^`]*`",  # roles
    r"(`+)(?!`).*?(?<!`)\1(?!`)",  # code
    r"(?m)^:{3,}.*$|^:[\w-]+:.*$",  # directives and their options
    r"\]\([^)]*\)|\[[\w@-]+\]:\s.*|<https?://[^>]*>|https?://\S+|arXiv[: ]\s*\d{4}\.\d{4,5}",
    r"(?m)^\s*\d+\.\s",  # numbers of a list
    r"(?m)^#+ +\d+(?:\.\d+)*\s",  # numbers of a heading
    r"\b[A-Za-z][\w-]*-\d+\b",  # names: LeNet-5, AVX-512, CIFAR-10
    r"(?i)\b(?:chapter|section|epoch|block|layer|exercise)s? \d+(?:(?:,| and| to) \d+)*",
    r"\b\d+-(?:bit|byte|word|way|dimensional|layer)\b",
]


def pages() -> dict[str, list[tuple[str, str]]]:
    """Every page, by name: where each of its texts stands, and the text."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        found[path.stem] = [(f"cell {cell.id}", cell.source) for cell in cells if cell.cell_type == "markdown"]
    for path in sorted((ROOT / "book").glob("*.md")):
        found[path.stem] = [("the page", path.read_text(encoding="utf-8"))]
    return found


def typed(text: str, constants: Container[str] = ()) -> Iterator[tuple[str, str]]:
    """The typed numbers of a text, each with the words around it: no constants, and no figures of a source that the
    paragraph names."""
    cited = {source for source in sources.LITERATURE if re.search(rf"\{{cite(?::\w+)?\}}`[^`]*\b{source}\b", text)}
    for pattern in NO_PROSE:
        text = re.sub(pattern, lambda m: "  " + "\n" * m[0].count("\n"), text)
    for paragraph in re.split(r"\n\s*\n", text):
        figures = quoted(paragraph) | {f.value for source in cited for f in sources.figures(source)}
        for part in re.split(r"\n(?=\s*[-*] |\|)", paragraph):
            for number in NUMBER.finditer(part):
                value = number[0]
                if value in constants or as_number(value) in figures:
                    continue
                around = part[max(0, number.start() - 40) : number.end() + 30]
                yield value, " ".join(around.split())


def as_number(text: str) -> float | None:
    """What a number in prose is worth; None for a size such as 3×3."""
    return None if re.search("[×x]", text) else float(text.replace(",", ""))


def quoted(text: str) -> set[float]:
    """The figures of the sources that a text names."""
    named = {name for name in sources.SOURCES if re.search(rf"\b{name}\b", text)}
    return {figure.value for source in named for figure in sources.figures(source)}


def listed() -> dict:
    return yaml.safe_load(LIST.read_text(encoding="utf-8"))


def found_on(name: str, texts: list[tuple[str, str]], constants: dict) -> list[str]:
    """What is typed on a page, a line each."""
    allowed = {str(n) for n in constants.get("everywhere", {})} | {str(n) for n in constants.get(name, {})}
    lines = []
    for where, text in texts:
        for value, around in typed(text, allowed):
            lines.append(f"{name}, {where}: {value}   ... {around} ...")
    return lines


PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_no_number_is_typed(name):
    constants = listed()
    lines = found_on(name, PAGES[name], constants)
    if name in constants["unmended"]:
        assert lines, f"{name} has no typed number left: take it off the list 'unmended' in {LIST.name}"
        return
    assert not lines, (
        f"{len(lines)} typed numbers. Compute each in a cell that shows Markdown, or name the source in the paragraph, or add a "
        f"constant with its reason to tests/{LIST.name}:\n" + "\n".join(lines)
    )


def test_every_constant_has_a_reason_and_is_there():
    constants = listed()
    for page, numbers in constants.items():
        if page == "unmended":
            assert set(numbers) <= set(PAGES)
            continue
        assert page == "everywhere" or page in PAGES, f"{page} is no page"
        for number, reason in numbers.items():
            assert isinstance(reason, str) and len(reason) > 5, f"{page}: {number} has no reason"
        if page != "everywhere" and page not in constants["unmended"]:
            used = {v for _, text in PAGES[page] for v, _ in typed(text)}
            spare = {str(n) for n in numbers} - used
            assert not spare, f"{page}: {', '.join(sorted(spare))} stand on the list and not on the page"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("It reaches 74.03 % here.", ["74.03"]),
        ("worth **+3.99 points**, −2 at least, and 1,024 runs", ["3.99", "2", "1,024"]),
        ("| a | 12 |\n|---|---:|\n| b | 13.5 |", ["12", "13.5"]),
        ("$x = 3$, `y = 4`, {eq}`eq-5`, $a\n= 5$, [six](six-6.md), S1, AVX-512, LeNet-5, 1-bit", []),
        ("$$\n17\n$$ (eq-a)\n\n```python\n18\n```\n\n:::{note}\n:class: x2\n19\n:::", ["19"]),
        ("a 5×7 kernel, 3x3, batch of 128", ["5×7", "3x3", "128"]),
        ("1. first\n2. second, 30 of them", ["30"]),
        ("S1 reports 70.35 % and not 70.36", ["70.36"]),
        ("S1 uses 5e-4, S2 1e-3.\n\nOne uses 5e-4", ["5e-4"]),
        ("{cite}`rastegari2016xnor` has 44.2 % and 44.3", ["44.3"]),
        ("Somebody reports 70.35 %", ["70.35"]),
        ("chapter 3 and section 4", []),
    ],
)
def test_the_rule(text, numbers):
    assert [value for value, _ in typed(text)] == numbers
