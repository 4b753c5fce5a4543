"""The scoreboard in Markdown: the rows of :mod:`bnnlib.experiments.report` as tables."""

from __future__ import annotations

from pathlib import Path

from bnnlib import recipes, records
from bnnlib.experiments.report import Row, command, rows
from bnnlib.paths import ROOT
from bnnlib.recipes import Recipe

GROUPS = {
    "headlines": "Figures that a source states",
    "ours": "Our own nets",
    "ablations": "Ablations: one thing changed",
    "short": "Short runs: fewer epochs than the source",
    "other": "Nets without a published figure",
}


def group(row: Row) -> str:
    """The group of :data:`GROUPS` that a recorded row belongs to."""
    recipe = row.recipe
    if recipe.published.top1 is not None:
        return "headlines"
    if recipe.factors:
        return "ablations"
    if recipe.source == "ours":
        return "ours"
    return "short" if recipe.shortens else "other"


HOW_P = (
    "p: the probability that one more run of ours would lie as far from our mean as the source's figure, or farther (t "
    "interval, deviation pooled over recipes of the same network, data and epochs; S1's network with S2's shortcuts, scales or "
    "teacher counts as the same, a real-valued twin as another), raised by Holm's method because all rows of two runs or more are "
    "tested at once; raised, it is no longer the probability of one run."
)
IN_SHORT = (
    "p: how likely one more run of ours is to lie as far from our mean as the source's figure; a small p speaks for a difference. "
    "The [scoreboard](scoreboard.md) says how it is computed."
)


def markdown_table(folder: Path = records.FOLDER, names: list[str] | None = None) -> str:
    """The scoreboard as one Markdown table; by default of every recipe that has a record or a published
    figure."""
    lines = [
        "| recipe | source | data | source's top-1 % | ours, last epoch | ours, best epoch | seeds | verdict |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    notes, needs = ["\\* best epoch, picked on the test set."], []
    for row in rows(folder, names):
        r = row.recipe
        if names is None and row.last is None and r.published.top1 is None:
            continue
        if row.needs:
            needs.append(f"- {row.needs}")
        if r.published.doubt:
            notes.append(f"? `{r.name}`: {r.published.doubt}.")
        marks = ("*" if r.published.epoch == "best-on-test" else "") + ("?" if r.published.doubt else "")
        published = "–" if r.published.top1 is None else f"{r.published.top1:g}{marks}"
        ours = (str(row.last), row.best_marked, str(row.last.n)) if row.last else ("–", "–", "0")
        lines.append(
            f"| `{r.name}` {_title(r)} | {r.source} | {r.dataset} | {published} | {' | '.join(ours)} | {row.verdict} |"
        )
    if needs:
        notes.append("Rows that need ImageNet; hours and memory are estimates:\n\n" + "\n".join(needs))
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def headline_table(folder: Path = records.FOLDER, *, links: bool = False, how: str = HOW_P) -> str:
    """The rows that have both a published figure and a record, as a Markdown table. ``links``: to the recipes'
    files. ``how``: what is said below it of p."""
    lines = [
        "| network | claimed % | measured % | seeds | verdict |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows(folder):
        if row.last is None or group(row) != "headlines":
            continue
        r, star = row.recipe, "*" if row.recipe.published.epoch == "best-on-test" else ""
        name = _linked(r) if links else _title(r)
        cells = [f"{r.source}, {r.dataset}: {name}", f"{r.published.top1:g}{star}", f"{row.compared}{star}"]
        lines.append(f"| {' | '.join(cells)} | {row.last.n} | {row.verdict} |")
    return (
        "\n".join(lines)
        + "\n\n\\* best epoch, picked on the test set by the source; ours is picked the same way. All are top-1 accuracies. "
        + how
        + "\n"
    )


def own_table(folder: Path = records.FOLDER) -> str:
    """Our own nets that have a record, as a Markdown table with links to their recipes."""
    lines = ["| network | measured % | seeds |", "|---|---:|---:|"]
    for row in rows(folder):
        if row.last is not None and group(row) == "ours":
            r = row.recipe
            lines.append(f"| {r.dataset}: {_linked(r)} | {row.last} | {row.last.n} |")
    return "\n".join(lines) + "\n"


def grouped_tables(folder: Path = records.FOLDER) -> str:
    """The scoreboard for reading: a Markdown table for each of :data:`GROUPS`, then a folded list of the
    published figures that have no record."""
    gathered: dict[str, list[str]] = {name: [] for name in GROUPS}
    pending, notes = [], []
    for row in rows(folder):
        r, p = row.recipe, row.recipe.published
        if row.last is None:
            if p.top1 is not None:
                pending.append(f"- {r.source}: {_title(r)}, {p.top1:g} %. {row.needs or command(r)}")
                notes += [f"- {_title(r)}: {p.doubt}."] if p.doubt else []
            continue
        cells = [f"{_title(r)}<br>`{r.name}`"]
        where = group(row)
        if where == "headlines":
            cells.append(f"{p.top1:g}{'*' if p.epoch == 'best-on-test' else ''}")
        cells += [str(row.last), row.best_marked, str(row.last.n)]
        cells += [row.verdict] if where == "headlines" else []
        cells.append(f"{r.source}, {r.dataset}")
        gathered[where].append(f"| {' | '.join(cells)} |")
    parts = []
    for name, lines in gathered.items():
        if not lines:
            continue
        stated = name == "headlines"
        figures = [*(["claimed %"] if stated else []), "last epoch %", "best epoch %", "seeds"]
        head = ["network", *figures, *(["verdict"] if stated else []), "source, data"]
        rule = ["---", *["---:"] * len(figures), *["---"] * (len(head) - len(figures) - 1)]
        table = "\n".join([f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *lines])
        if name == "ablations":  # longer than all others together
            table = f":::{{dropdown}} All {len(lines)}, one row a recipe\n{table}\n:::"
        parts.append(f"### {GROUPS[name]}\n\n{table}")
    parts.append(f"\\* best epoch, picked on the test set; without *, picked on validation images. {HOW_P}")
    if pending:
        listed = "\n".join(
            [*pending, *(["", "Doubts about the published figure:", "", *notes] if notes else [])]
        )
        parts.append(
            f":::{{dropdown}} Published figures without a record here, and how to make one\n{listed}\n:::"
        )
    return "\n\n".join(parts) + "\n"


def _title(recipe: Recipe) -> str:
    """As a table in Markdown takes it, to which a | would end the cell."""
    return recipe.title.replace("|", "\\|")


def _linked(recipe: Recipe) -> str:
    """The title as a link to the recipe's file, from the root of the repository."""
    return f"[{_title(recipe)}]({recipes.file_of(recipe.name).relative_to(ROOT).as_posix()})"
