"""One look for every table of the book: a caption, text on the left, figures on the right, real minus signs.

    tables.table(rows, "Bits of each layer.", digits={"KiB": 1})

``rows`` are mappings from column to value, a pandas frame, or records of one. A column of numbers stands on the
right, with as many decimals as ``digits`` says; whole numbers have thousands separated by commas. A header carries the
unit of its column (``file, kB``). Text is Markdown, so a cell may cite or hold a formula.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from bnnlib.statistics import signed as signed

if TYPE_CHECKING:
    from IPython.display import Markdown

ABSENT = "–"
DATA_SETS = {"mnist": "MNIST", "cifar10": "CIFAR-10", "tiny-imagenet": "Tiny-ImageNet"}  # in words
_RAISED = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FIGURE = re.compile(r"[-+−]?[\d,]+(\.\d+)?((×10)?[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?( ± [\d.]+)?[*?]?( ?[%×])?")
_POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e\+?([-−]?)0*(\d+)\b")


def number(value: Any, digits: int | None = None) -> str:
    """A value as a table and a sentence show it; None and NaN are a dash.

    >>> number(1234567), number(-0.314, 2), number(99.256, 1), number(None), number(7.0, 1)
    ('1,234,567', '−0.31', '99.3', '–', '7.0')
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "−")
    if isinstance(value, Real):
        return (f"{value:,.{digits}f}" if digits is not None else f"{value:,g}").replace("-", "−")
    return str(value)


def span(values: Collection[float], digits: int, sign: str = "") -> str:
    """From the lowest to the highest of some numbers, as text; one number where the two read alike. ``sign``: "+" for a sign of each.

    >>> span([2, 1.234, 1.5], 2), span([1.234, 1.226], 1), span([-0.5, 0.25], 2, "+")
    ('1.23 to 2.00', '1.2', '−0.50 to +0.25')
    """
    low, high = (f"{value:{sign}.{digits}f}".replace("-", "−") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def powers(text: str) -> str:
    """Powers of ten as they are written by hand; code stays as it is.

    >>> powers("1e-05"), powers("−2.4e+12"), powers("p = 1.7e-20, `lr1e-3`"), powers("p = 2e-10")
    ('10⁻⁵', '−2.4×10¹²', 'p = 1.7e-20, `lr1e-3`', 'p = 2×10⁻¹⁰')
    """

    def raised(found: re.Match[str]) -> str:
        factor = "" if found[1] == "1" else f"{found[1]}×"
        return f"{factor}10{(found[2] + found[3]).translate(_RAISED)}"

    return text if "`" in text else _POWER.sub(raised, text)


def markdown(rows: Any, *, digits: Mapping[str, int] | None = None, right: Iterable[str] = ()) -> str:
    """``rows`` as a Markdown table. ``right``: columns of text that are figures all the same.

    >>> print(markdown([{"layer": "conv2", "weights": 25000, "KiB": 3.05}], digits={"KiB": 1}))
    | layer | weights | KiB |
    |---|---:|---:|
    | conv2 | 25,000 | 3.0 |

    Raises ``ValueError`` where there are no rows, where they differ in their columns, or for a column without a name.
    """
    if hasattr(rows, "to_dict"):
        rows = rows.to_dict("records")
    rows = [dict(row) for row in rows]
    if not rows:
        raise ValueError("a table without rows: say in a sentence why there are none")
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"rows of a table have the same columns: {columns}, but one has {list(row)}")
    if not all(str(column).strip() for column in columns):
        raise ValueError(f"every column of a table has a name, also the first; these have {columns}")
    unknown = {*(digits or {}), *right} - set(columns)
    if unknown:
        raise ValueError(f"the table has no column {', '.join(sorted(unknown))}; it has {', '.join(columns)}")
    shown = [[powers(number(row[c], (digits or {}).get(c))).replace("|", "\\|") for c in columns] for row in rows]
    held = {c: [line[i] for line in shown] for i, c in enumerate(columns)}
    rules = ["---:" if c in right or _figures(cells) else "---" for c, cells in held.items()]
    lines = [[str(c).replace("|", "\\|") for c in columns], *shown]
    text = [f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines]
    return "\n".join([text[0], f"|{'|'.join(rules)}|", *text[1:]])


def _figures(cells: Iterable[str]) -> bool:
    """Whether a column holds figures alone, and at least one."""
    told = [cell.replace("*", "").strip() for cell in cells if cell not in (ABSENT, "")]
    return bool(told) and all(_FIGURE.fullmatch(cell) for cell in told)


def captioned(table: str, caption: str, name: str | None = None) -> str:
    """A Markdown table with a numbered caption, as MyST; ``{numref}`name``` refers to it."""
    label = f":name: {name}\n" if name else ""
    fence = "~~~" if "`" in caption else "```"  # code in a caption would end a fence of backticks
    return f"{fence}{{table}} {' '.join(caption.split())}\n{label}\n{table}\n{fence}\n"


def table(
    rows: Any,
    caption: str | None = None,
    *,
    name: str | None = None,
    digits: Mapping[str, int] | None = None,
    right: Iterable[str] = (),
    folded: str = "",
) -> Markdown:
    """``rows`` as what a cell shows: see the module, :func:`markdown` and :func:`captioned`. ``folded``: the words that a
    page shows in place of the table until a reader opens it."""
    from IPython.display import Markdown

    text = markdown(rows, digits=digits, right=right)
    if caption:
        text = captioned(text, caption, name)
    return Markdown(f"::::{{dropdown}} {folded}\n{text}::::\n" if folded else text)


def file_size(count: int) -> str:
    """Bytes in words.

    >>> file_size(83_022), file_size(9_230_040)
    ('83 kB', '9.2 MB')
    """
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def layer(name: str) -> str:
    """A layer of a benchmark in words.

    >>> layer("128->256 3x3 @16"), layer("8192->1024")
    ('3×3, 128 → 256, 16×16 pixels', '8192 → 1024')
    """
    found = re.fullmatch(r"(\d+) ?-> ?(\d+)(?: (\d+)x(\d+))?(?: @(\d+))?(.*)", name)
    if found is None:
        return name
    inputs, outputs, high, wide, size, rest = found.groups()
    parts = [f"{high}×{wide}"] if high else []
    parts.append(f"{inputs} → {outputs}")
    parts += [f"{size}×{size} pixels"] if size else []
    return ", ".join(parts) + rest.replace("->", "→")
