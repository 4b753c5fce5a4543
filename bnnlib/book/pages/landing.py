"""What the landing page and the scoreboard page include: the hero figure, the findings, and the ways in.

Every figure is computed from the records, the benchmark records and the packed files of ``root/results``. What
those do not hold is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bnnlib import __version__, recipes
from bnnlib.benchmarks import speedups
from bnnlib.benchmarks.speedups import Speedups, times
from bnnlib.book.pages.grid import card, grid
from bnnlib.deploy.sizes import Sizes, of
from bnnlib.experiments import report, sources

_CLAIMED_SPEED = round(sources.figure("S2", "operations").value)  # times faster inference
_CLAIMED_SIZE = round(sources.figure("S2", "smaller").value)  # times less memory for weights and activations


def sizes(recipe: str) -> Sizes:
    """The sizes as files of the recipe's network."""
    model = recipes.load(recipe).model
    return of(model.name, model.options)


# ------------------------------------------------------------------------------------------------ hero figure


def hero(root: Path) -> str:
    """The hero figure as MyST: how eight products become an XNOR and a count of ones, and the claimed speed-up
    beside the measured ones."""
    found = speedups.of_each_cpu(root / "results" / "bench")
    panels = [_products()]
    caption = "Eight products of ±1 take one XNOR and one count of ones."
    if found:
        panels.append(_bars(found))
        caption += (
            " The bars are speed-ups. S2, one of the five systems, claims the dashed one for inference. The others are measured on one core: the "
            "median 1-bit convolution with floats in and out (channels last), over PyTorch's float32 and over the best rival, which is the fastest of "
            f"PyTorch and ONNX Runtime in float32, bfloat16 and int8.{_makers(found)}"
        )
    return (
        "```{raw} html\n"
        f'<figure class="hero">\n<div class="hero-panels">\n{"".join(panels)}</div>\n'
        f"<figcaption>{caption}</figcaption>\n</figure>\n```\n"
    )


def _products() -> str:
    """Two rows of eight bits, their XNOR, and the popcount that gives the dot product."""
    a, b = (1, 0, 1, 1, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 1, 0)
    same = [int(x == y) for x, y in zip(a, b, strict=True)]
    ones = sum(same)
    parts = []
    for row, (name, bits, kind) in enumerate(
        [("inputs", a, "bit"), ("weights", b, "bit"), ("XNOR", same, "same")]
    ):
        y = 12 + 44 * row + (12 if row == 2 else 0)
        parts.append(f'<text x="0" y="{y + 21}">{name}</text>')
        for place, bit in enumerate(bits):
            x = 76 + 33 * place
            parts.append(f'<rect class="{kind}{bit}" x="{x}" y="{y}" width="29" height="30" rx="5"/>')
            parts.append(f'<text class="on{kind}{bit}" x="{x + 14.5}" y="{y + 21}">{bit}</text>')
    parts.append('<line x1="76" y1="94" x2="336" y2="94"/>')
    parts.append(
        f'<text x="0" y="170">popcount</text><text class="strong" x="76" y="170">{ones} ones of 8</text>'
    )
    parts.append(
        f'<text x="0" y="196">sum</text><text class="strong" x="76" y="196">2 · {ones} − 8 = {2 * ones - 8}</text>'
    )
    label = (
        f"Eight input bits and eight weight bits; their XNOR has {ones} ones, so the sum of the eight products "
        f"of plus and minus one is {2 * ones - 8}."
    )
    return f'<svg viewBox="0 0 340 206" role="img" aria-label="{label}">{"".join(parts)}</svg>\n'


_PICTURE_STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1f2328}.strong{font-weight:650}line{stroke:#6b7280}"
    "rect{stroke:#2463eb;stroke-width:1.5;fill:#fff}.bit1{fill:#2463eb}.same0,.same1{stroke:#0b7a43}.same1{fill:#0b7a43}"
    ".onbit0,.onbit1,.onsame0,.onsame1{text-anchor:middle}.onbit1,.onsame1{fill:#fff;font-weight:650}"
)


def picture() -> str:
    """The left panel of the hero figure as a file of its own, for the README; on white in either theme."""
    drawn = _products().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="510" ', 1)
    head, _, rest = drawn.partition(">")
    head = head.replace('viewBox="0 0 340 206"', 'viewBox="-12 -6 364 218"')
    ground = '<path d="M-12-6h364v218h-364z" fill="#fff"/>'
    return f"{head}><style>{_PICTURE_STYLE}</style>{ground}{rest}"


def _bars(found: list[Speedups]) -> str:
    """The claim and what was measured, as bars to one scale."""
    rows = [("claimed by S2", _CLAIMED_SPEED, "claim", times(_CLAIMED_SPEED))]
    for one in found:
        for kind, name, what in (("ours", "over_float32", "float32"), ("limit", "over_best", "the best rival")):
            median = getattr(one, name)[1]
            rows.append((f"{one.core}, over {what}", median, kind, one.mark(name) + times(median)))
    step = 36
    parts = []
    for row, (name, value, kind, told) in enumerate(rows):
        y, width = step * row, 290 * value / _CLAIMED_SPEED
        parts.append(f'<text x="0" y="{y + 12:.1f}">{name}</text>')
        parts.append(f'<rect class="{kind}" x="0" y="{y + 16:.1f}" width="{width:.1f}" height="14.0" rx="3"/>')
        parts.append(f'<text class="strong" x="{width + 6:.1f}" y="{y + 28:.1f}">{told}</text>')
    label = "Speed-up of a 1-bit layer: " + "; ".join(f"{name} {told}" for name, _, _, told in rows) + "."
    return f'<svg viewBox="0 0 340 {step * len(rows)}" role="img" aria-label="{label}">{"".join(parts)}</svg>\n'


def _makers(found: list[Speedups]) -> str:
    """Whose the cores are: a reader may not know their names."""
    makers = {"Zen": "Zen is AMD's", "Emerald": "Emerald Rapids is Intel's"}
    named = ", ".join(dict.fromkeys(makers[word] for one in found if (word := one.core.split()[0]) in makers))
    return f" {named}." if named else ""


# --------------------------------------------------------------------------------------------------- findings


def findings(root: Path, chapters: Iterable[str]) -> str:
    """Three findings as cards of a grid; a card links to its chapter where ``chapters`` has it."""
    there = set(chapters)
    cards = []
    # The first has a table, which takes the whole width.
    for columns, (title, text, chapter) in ((12, _speed(root)), ("12 12 6 6", _size()), ("12 12 6 6", _scale(root))):
        cards.append(card(title, text, f"notebooks/{chapter}" if chapter in there else None, options={"columns": columns}))
    return grid(cards)


def _speed(root: Path) -> tuple[str, str, str]:
    found = speedups.of_each_cpu(root / "results" / "bench")
    if not found:
        return (
            f"{_CLAIMED_SPEED} times faster?",
            f"S2 claims {_CLAIMED_SPEED} times. `make bench` measures this machine.",
            "one-bit-at-a-time",
        )
    text = (
        f"S2 claims **{_CLAIMED_SPEED}×**. Measured, for single layers with floats in and out, over the best rival of each and over "
        f"PyTorch's float32:\n\n{speedups.table(found)}"
    )
    return f"{_CLAIMED_SPEED} times faster?", text, "one-bit-at-a-time"


def _size() -> tuple[str, str, str]:
    theirs, ours = sizes("s2-student"), sizes("ours-vgg-20ep")
    text = (
        f"S2 claims **{_CLAIMED_SIZE}×**. Its convolutions shrink {theirs.latent / theirs.bits:.0f}×, but its whole "
        f"file shrinks **{theirs.factor:.1f}×**, since its classifier stays real-valued "
        f"({theirs.fp32 / theirs.int8:.1f}× with that as int8). Our net for the same data shrinks "
        f"{ours.factor:.0f}×, and **{ours.fp32 / ours.int8:.0f}×** with int8."
    )
    return f"{_CLAIMED_SIZE} times smaller?", text, "shipping-one-bit"


def _scale(root: Path) -> tuple[str, str, str]:
    folder = root / "results" / "runs"
    text = "S2's code detaches its learned scale from the gradient, so the scale stays at **1**."
    names = ["s2-student", "s2-student-learned", "s2-ablation-shortcut-kd-mean"]
    one, learned, mean = (row.last for row in report.rows(folder, names))

    def said(spread: report.Spread) -> str:
        return f"{spread} % ({'one run' if spread.n == 1 else f'{spread.n} runs'})"

    if one and learned and mean:
        text += (
            f" With the scale at 1 the net reaches {said(one)}. With a scale that does learn it reaches {said(learned)}, "
            f"and with the mean of |W|, which S2 replaced, {said(mean)}."
        )
    return "A learned scale that never learns", text, "bireal-distillation"


def citation() -> str:
    """The book as a BibTeX entry, with the library's version."""
    return f"""```bibtex
@misc{{bnn-reproduced,
  title = {{Binary neural networks, reproduced}},
  note  = {{Executable book and the bnnlib library, version {__version__}}},
  year  = {{2026}}
}}
```
"""


def start(chapters: Iterable[str]) -> str:
    """The three ways in, as a grid of cards; the first chapter is the one to read."""
    first = next(iter(chapters), None)
    cards = [
        card("Read", "Begin with chapter 1. You need Python and the idea of a gradient.", f"notebooks/{first}" if first else "notation"),
        card("Run", "`make book` rebuilds every figure from the stored records. No long training, no GPU.", "reproduce"),
        card("Build", "Make a net of binary layers, train it, and ship it as one file of bits.", "your-own-net"),
    ]
    return grid(cards, "1 1 3 3")
