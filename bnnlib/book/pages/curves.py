"""The learning curves of every recorded run in one figure in which a reader points at values: the page "Learning curves"."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnnlib import recipes, records
from bnnlib.experiments import report
from bnnlib.records import Record

SCRIPT = Path(__file__).with_name("curves.js")
VALUES = {
    "test_top1": "test accuracy, %",
    "train_top1": "training accuracy, %",
    "test_loss": "test loss",
    "train_loss": "training loss",
    "lr": "learning rate",
}
FIRST = "s2-student", "s1-vgg-lr1e-3"  # what the page shows at first, where they have records


def data(folder: Path) -> list[dict[str, Any]]:
    """Every recipe that has records in ``folder``, as the script reads it: its name and title, its data set, and for each run
    the seed, the machine and each of :data:`VALUES` after every epoch, to five significant digits."""
    known = set(recipes.names())
    return [
        {
            "name": name,
            "title": recipes.load(name).title if name in known else name,
            "data": found[0].dataset.name,
            "runs": [_run(record) for record in found],
        }
        for name, found in records.by_recipe(folder).items()
    ]


def _run(record: Record) -> dict[str, Any]:
    values = {field: [_short(getattr(epoch, field)) for epoch in record.curve] for field in VALUES}
    return {"seed": record.seed, "machine": report.processor(record.hardware), **values}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def page(folder: Path) -> str:
    """The figure, its choices and its data, as MyST; a sentence where there are no records."""
    found = data(folder)
    if not found:
        return "*None yet.*\n"
    names = [recipe["name"] for recipe in found]
    first, second = (name if name in names else "" for name in FIRST)
    parts = [
        '<div class="curves" id="curves" hidden>',
        '<div class="curves-choices">',
        f'<label>network <select id="curves-first">{_choices(found, first or names[0])}</select></label>',
        f'<label>beside it <select id="curves-second"><option value="">nothing</option>{_choices(found, second)}</select></label>',
        '<label>value <select id="curves-value">'
        + "".join(f'<option value="{field}">{label}</option>' for field, label in VALUES.items())
        + "</select></label>",
        "</div>",
        '<svg id="curves-plot" role="group" tabindex="0" aria-label="Learning curves, one line a run. The arrow keys go from '
        'epoch to epoch and from run to run." viewBox="0 0 720 380"></svg>',
        '<output id="curves-told" for="curves-first curves-second curves-value">Point at a curve.</output>',
        "</div>",
        "<noscript><p>This figure needs scripts. The chapters show the curves of their networks without.</p></noscript>",
        f'<script type="application/json" id="curves-data">{_embedded(found)}</script>',
        f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
    ]
    text = "\n".join(line for part in parts for line in part.splitlines() if line.strip())
    return f"```{{raw}} html\n{text}\n```\n"


def _embedded(found: Sequence[dict[str, Any]]) -> str:
    """JSON that ends no script element and opens none."""
    return json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")


def _choices(found: Sequence[dict[str, Any]], chosen: str) -> str:
    groups: dict[str, list[str]] = {}
    for recipe in found:
        mark = " selected" if recipe["name"] == chosen else ""
        name, title = html.escape(recipe["name"]), html.escape(recipe["title"])
        groups.setdefault(recipe["data"], []).append(f'<option value="{name}"{mark}>{title} ({name})</option>')
    return "".join(f'<optgroup label="{html.escape(data)}">{"".join(options)}</optgroup>' for data, options in groups.items())
