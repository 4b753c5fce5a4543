"""Published accuracies of 1-bit networks, and what this book reaches: the table on the page "Related work"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bnnlib.experiments import report, sources

# The nets of this book, under the network and data set of a paper that they are nearest to, and how they differ from it.
OURS = {
    "VGG-small on CIFAR-10": {
        "s2-student": "S2's net, not VGG-small; 20 epochs",
        "ours-vgg-20ep": "our net, not VGG-small; 20 epochs",
    }
}


def table(folder: Path) -> str:
    """Markdown: network, method, top-1 accuracy in %, where it is printed. ``folder``: the run records."""
    ours = {row.recipe.name: row for row in report.rows(folder)}
    lines = ["| network and data set | method | top-1 % | printed in |", "|---|---|---:|---|"]
    before = ""
    for net, method, value, where in _rows(ours):
        lines.append(f"| {net if net != before else ''} | {method} | {value} | {where} |")
        before = net
    return "\n".join(lines) + "\n"


def _rows(ours: dict[str, report.Row]) -> Iterator[tuple[str, str, str, str]]:
    listed = sources.literature()
    for net in dict.fromkeys(net for net, _ in listed):
        for f in (f for of, f in listed if of == net):
            notes = f.says.partition("with one bit, ")[2]
            yield net, f"{sources.LITERATURE[f.source]} {{cite}}`{f.source}`{', ' * bool(notes) + notes}", f.text, f.where
        for name, how in OURS.get(net, {}).items():
            if (row := ours.get(name)) and row.last:
                yield net, f"`{name}`: {how}", str(row.last), "a record of this book"
