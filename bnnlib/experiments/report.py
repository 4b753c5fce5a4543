"""The scoreboard: records beside the sources' figures. ``python -m bnnlib.report`` prints it whole, ``--write
README.md`` puts its headline rows between the file's markers.

Accuracies are of the last epoch, as mean +- standard deviation over n seeds; where the source's figure is a
best epoch picked on the test set, ours picked the same way stands beside it and is what the verdict
compares. A verdict asks whether the source's figure could be one more run of ours, by the t interval of
:func:`bnnlib.experiments.statistics.prediction`; one run alone gets none. Every number comes from a record.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from bnnlib import recipes, records, storage
from bnnlib.experiments import statistics
from bnnlib.experiments.statistics import Spread
from bnnlib.paths import ROOT
from bnnlib.recipes import Recipe
from bnnlib.records import Record

START, END = "<!-- scoreboard:start -->", "<!-- scoreboard:end -->"


@dataclass(frozen=True)
class Row:
    """One recipe: its records, gathered. ``stale``: seeds whose record was made by an earlier version of the
    recipe."""

    recipe: Recipe
    last: Spread | None
    best: Spread | None
    stale: tuple[int, ...]
    best_on_test: bool = False  # whether the best epoch was picked on the test set, not on validation images
    prediction: statistics.Prediction | None = None  # of one more run; None for fewer than two, or without a figure
    p: float | None = None  # of the published figure, adjusted for all rows that have one

    @property
    def best_marked(self) -> str:
        """The best epoch's figure, with a star where it was picked on the test set."""
        return f"{self.best}{'*' if self.best_on_test else ''}"

    @property
    def compared(self) -> Spread | None:
        """What stands against the published figure: the best epoch where the source picked one, else the
        last."""
        return self.best if self.recipe.published.epoch == "best-on-test" else self.last

    @property
    def difference(self) -> float | None:
        """Ours less the source's, points; None where one of the two is missing."""
        if self.compared is None or self.recipe.published.top1 is None:
            return None
        return self.compared.mean - self.recipe.published.top1

    @property
    def verdict(self) -> str:
        """In words: whether the source's figure could be one more run of ours, with its p value."""
        if self.last is None:
            return "not run yet" if self.needs is None else "needs ImageNet: run this, below"
        if self.stale:
            return f"stale: recipe changed since seed {', '.join(map(str, self.stale))}"
        if self.difference is None:
            return "no figure to compare"
        apart = f"{self.difference:+.2f}".replace("-", "−")
        if self.prediction is None:
            return f"one run, {apart}"
        p = f"p = {self.p:.2g}" if self.p >= 0.001 else "p < 0.001"
        if self.p >= 1 - statistics.LEVEL:
            return f"no difference shown: {apart}, {p}"
        return f"{'above' if self.difference > 0 else 'below'} by {abs(self.difference):.2f}, {p}"

    @property
    def needs(self) -> str | None:
        """For a row without a record on ImageNet, which cannot be fetched: how to run it and what that takes."""
        if self.last is not None or self.recipe.dataset != "imagenet":
            return None
        cost = self.recipe.cost
        takes = f", about {cost.hours:g} h and {cost.memory_gb:g} GB on {cost.hardware}" if cost else ""
        return f"`python -m bnnlib.train {self.recipe.name} --data DIR`{takes}"


def rows(folder: Path = records.FOLDER, names: list[str] | None = None) -> list[Row]:
    """One row for each recipe that comes with the library, or for ``names``, in that order."""
    found: dict[str, list[Record]] = {}
    for record in records.read_all(folder):
        found.setdefault(record.recipe, []).append(record)
    return _rows(found, names or recipes.names())


def row(recipe: Recipe, runs: Sequence[Record]) -> Row:
    """The row of one recipe from its records, among the stored ones of all others. Raises :class:`RecordError` for one of
    another data set."""
    return chapter_rows({recipe.name: runs})[recipe.name]


def chapter_rows(runs: Mapping[str, Sequence[Record]]) -> dict[str, Row]:
    """The rows of some recipes from these records, among the stored ones of all others."""
    found: dict[str, Sequence[Record]] = {}
    for record in records.read_all():
        if record.recipe not in runs:
            found.setdefault(record.recipe, []).append(record)
    return dict(zip(runs, _rows({**found, **runs}, list(runs)), strict=True))


def family_of(record: Record) -> tuple:
    """What runs have in common that are taken to spread alike: the data, the topology and the number of epochs."""
    return record.dataset.fingerprint, record.profile, record.resolved["model"]["name"], len(record.curve)


def _rows(found: Mapping[str, Sequence[Record]], names: Sequence[str]) -> list[Row]:
    """Rows of ``names`` among all of ``found``: these give the families' deviations, and the tests that a p value is
    adjusted for."""
    known = set(recipes.names())
    found = {name: runs for name, runs in found.items() if runs and (name in known or name in names)}
    loaded = {name: recipes.load(name) for name in {*names, *found}}
    for name in names:
        for run in found.get(name, ()):
            if run.dataset.name != loaded[name].dataset:  # never one set's figure in another's row
                raise records.RecordError(
                    f"record of {name} seed {run.seed} is of {run.dataset.name}, the recipe of "
                    f"{loaded[name].dataset}: remove it"
                )
    predictions = {}
    for name, runs in found.items():
        if loaded[name].published.top1 is None:
            continue
        field = "top1_best" if loaded[name].published.epoch == "best-on-test" else "top1_last"
        alike = [[getattr(r, field) for r in of] for of in found.values() if family_of(of[0]) == family_of(runs[0])]
        values = [getattr(r, field) for r in runs]
        predictions[name] = statistics.prediction(values, loaded[name].published.top1, statistics.pooled(alike))
    adjusted = statistics.holm({name: one.p for name, one in predictions.items() if one is not None})
    return [_row(loaded[name], found.get(name, ()), predictions.get(name), adjusted.get(name)) for name in names]


def _row(recipe: Recipe, runs: Sequence[Record], prediction: statistics.Prediction | None, p: float | None) -> Row:
    if not runs:
        return Row(recipe, None, None, ())
    return Row(
        recipe,
        Spread.of([r.top1_last for r in runs]),
        Spread.of([r.top1_best for r in runs]),
        tuple(r.seed for r in runs if recipe.changed_since(r.resolved)),
        any(r.best_of == "test" for r in runs),
        prediction,
        p,
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
    "p: the probability that one more run of ours would lie as far from our mean as the source's figure, or farther: t "
    "interval, deviation pooled over recipes of the same topology, data and epochs, adjusted by Holm's method for all "
    "rows of two runs or more."
)


def headline_table(folder: Path = records.FOLDER, *, links: bool = False) -> str:
    """The rows that have both a published figure and a record, as a Markdown table. ``links``: to the recipes'
    files."""
    lines = [
        "| network | claimed % | measured % | seeds | verdict |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows(folder):
        if row.last is None or group(row) != "headlines":
            continue
        r, star = row.recipe, "*" if row.recipe.published.epoch == "best-on-test" else ""
        name = _title(r)
        if links:
            name = f"[{name}]({recipes.file_of(r.name).relative_to(ROOT).as_posix()})"
        cells = [f"{r.source}, {r.dataset}: {name}", f"{r.published.top1:g}{star}", f"{row.compared}{star}"]
        lines.append(f"| {' | '.join(cells)} | {row.last.n} | {row.verdict} |")
    return (
        "\n".join(lines)
        + "\n\n\\* best epoch, picked on the test set by the source; ours is picked the same way. All are top-1 accuracies. "
        + HOW_P
        + "\n"
    )


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
        parts.append(
            "\n".join([f"### {GROUPS[name]}\n", f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *lines])
        )
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


def command(recipe: Recipe) -> str:
    """The command that trains a recipe, as Markdown code, and what has to be trained before it."""
    return f"`python -m bnnlib.train {recipe.name}`{_teacher_first(recipe)}"


def _teacher_first(recipe: Recipe) -> str:
    return f", after `{recipe.distill.teacher}`" if recipe.distill else ""


def machine(hardware: Mapping[str, Any]) -> str:
    """What a run ran on, in words.

    >>> machine({"cpu": "AMD EPYC", "threads": 2})
    'AMD EPYC, 2 threads'
    """
    parts = [records.plain(hardware.get("gpu") or hardware.get("cpu", "unknown processor"))]
    for kind in ("processes", "threads"):
        count = hardware.get(kind, 1)
        if isinstance(count, int) and count > 1 and not (kind == "threads" and "gpu" in hardware):
            parts.append(f"{count} {kind}")
    return ", ".join(parts)


def setting(record: Record) -> str:
    """Where a run was made, as far as its arithmetic may depend on it: the processor and the version of PyTorch."""
    part = records.plain(record.hardware.get("gpu") or record.hardware.get("cpu", "unknown processor"))
    return f"{part} with PyTorch {record.versions.get('torch', 'unknown')}"


def first_epoch_reaching(record: Record, top1: float) -> int | None:
    """The first epoch after which test top-1 is at least ``top1`` %; None where none is."""
    return next((e.epoch for e in record.curve if e.test_top1 >= top1), None)


def with_table(text: str, table: str) -> str:
    """``text`` with what stands between its markers replaced. Raises ``ValueError`` where the markers are
    not there once each, in order."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the text needs one {START} and, after it, one {END}")
    return text[: text.index(START) + len(START)] + "\n" + table + text[text.index(END) :]


def existing(folder: Path) -> Path:
    """``folder`` of ``--folder``, if there is one."""
    if folder != records.FOLDER and not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}")
    return folder


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    write: Annotated[
        Path | None, typer.Option(help="put the headline rows between this file's markers")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="fail if this file's table is not what the records say")
    ] = None,
    folder: Annotated[Path, typer.Option(help="folder of the records", callback=existing)] = records.FOLDER,
) -> None:
    """Print the scoreboard, or write its headline rows into a file, or check that a file has them."""
    try:
        for row in rows(folder):
            if row.stale:
                print(
                    f"stale: {row.recipe.name} changed since seed {', '.join(map(str, row.stale))} was run",
                    file=sys.stderr,
                )
        if write is None and check is None:
            print(markdown_table(folder))
        for path in (p for p in (write, check) if p is not None):
            text = path.read_text(encoding="utf-8")
            new = with_table(text, headline_table(folder, links=True))
            if path == write:
                storage.write_atomically(path, new.encode())
            elif new != text:
                print(
                    f"error: the scoreboard in {path} is not what the records say: python -m bnnlib.report --write {path}",
                    file=sys.stderr,
                )
                raise typer.Exit(1)
    except (ValueError, OSError) as error:
        print(f"error: {storage.reason(error)}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="bnn report")
