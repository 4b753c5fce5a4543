"""The tables of a chapter's runs: what each recipe reached, how two recipes differ, and which runs are still to be made.

    results.accuracies(found.records, "Test accuracy.", name="tab-vgg-runs")
    results.differences([("a ReLU added", "s1-vgg-5ep-relu", "s1-vgg-5ep-identity")], found.records, "Differences.")
    results.pending(found.records)      # a folded list with the commands, nothing where all is run

A row stands only where there is a record. Networks go by their titles. Statistics are those of
:mod:`bnnlib.statistics`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bnnlib import recipes, statistics
from bnnlib.book import tables
from bnnlib.book.studies import evidence
from bnnlib.experiments import report
from bnnlib.records import Record

if TYPE_CHECKING:
    from IPython.display import Markdown

Runs = Mapping[str, Sequence[Record]]


def title(recipe: str, found: Sequence[Record] = ()) -> str:
    """The recipe's title; of quick and demo runs without the number of epochs, which is that of a full run."""
    full = recipes.load(recipe).title
    return full if all(r.profile == "full" for r in found) else re.sub(r", \d+ epochs\b", "", full)


def accuracies(
    runs: Runs,
    caption: str,
    name: str | None = None,
    *,
    source: str = "source",
    top5: bool = False,
    titles: Mapping[str, str] | None = None,
) -> Markdown:
    """A row for each recipe of ``runs`` that has a record: mean ± standard deviation over its runs, and the source's figure
    with a verdict where a recipe has one. ``top5``: top-5 of the last epoch in place of the best epoch's top-1.

    Quick and demo runs stand in the table, which then says so in place of ``caption``, and are compared with nothing. Without a
    record: a sentence.
    """
    from IPython.display import Markdown

    runs = {recipe: found for recipe, found in runs.items() if found}
    if not runs:
        return Markdown("*There is no run to show.*")
    stated = {recipe: recipes.load(recipe).published for recipe in runs}
    compared = any(figure.top1 is not None for figure in stated.values())
    full = {recipe: found for recipe, found in runs.items() if all(r.profile == "full" for r in found)}
    verdicts = report.chapter_rows(full)
    rows = []
    for recipe, found in runs.items():
        figure = stated[recipe]
        row = {"network": (titles or {}).get(recipe, title(recipe, found))}
        if compared:
            star = "*" if figure.epoch == "best-on-test" else ""
            row[f"{source} %"] = tables.ABSENT if figure.top1 is None else f"{figure.top1:.2f}{star}"
        row["last epoch %"] = str(statistics.Spread.of(r.top1_last for r in found))
        field, head = ("top5_last", "top-5 %") if top5 else ("top1_best", "best epoch %*")
        row[head] = str(statistics.Spread.of(getattr(r, field) for r in found))
        row["runs"] = len(found)
        if compared:
            brief = next((r.profile for r in found if r.profile != "full"), None)
            told = f"{brief} run" if brief else verdicts[recipe].verdict
            row[f"against {source}"] = "" if figure.top1 is None else told
        rows.append(row)
    short = {r.profile: len(r.curve) for found in runs.values() for r in found if r.profile != "full"}
    for profile, epochs in short.items():
        caption = f"Test accuracy of the {profile} runs, after {epochs} epoch{'s' * (epochs > 1)}. No number here is a result."
    star = "" if top5 and not any("*" in str(cell) for row in rows for cell in row.values()) else " *: chosen on the test set."
    return tables.table(rows, f"{caption}{star}", name=name)


def differences(
    pairs: Iterable[tuple[str, str, str]],
    runs: Runs,
    caption: str,
    name: str | None = None,
    *,
    family: Iterable[str] | None = None,
) -> Markdown:
    """A row for each pair (words, recipe, recipe) of which both have records: first less second, in points, with its 95 %
    interval, and p adjusted by Holm's method for the table's rows of two runs or more.

    ``family``: recipes that are taken to spread alike. One run has no p value: its interval is from the choice of test images
    alone. Runs of different processors or versions of PyTorch are marked.
    """
    from IPython.display import Markdown

    among = {recipe: runs[recipe] for recipe in family} if family is not None else None
    found = {}
    for words, first, second in pairs:
        one = evidence.difference(runs.get(first, ()), runs.get(second, ()), family=among)
        if one is not None:
            found[words] = one
    if not found:
        return Markdown("*There is no pair of runs to compare.*")
    adjusted = statistics.holm({words: one.p for words, one in found.items() if one.p is not None})
    rows = [
        {
            "change": words + ("†" if one.settings else ""),
            "accuracies %": f"{one.values[0]:.2f}, {one.values[1]:.2f}",
            "difference, points": str(one),
            "runs": f"{one.seeds[0]} and {one.seeds[1]}",
            "p": "one run" if one.one_run else statistics.p_in_words(adjusted[words], named=False),
        }
        for words, one in found.items()
    ]
    notes = []
    if any(one.one_run for one in found.values()):
        notes.append(
            "One run: both of one seed where they share one; ± is for another choice of test images, not for another seed."
        )
    if any(one.settings for one in found.values()):
        notes.append("†: the runs were made on different processors or versions of PyTorch.")
    return tables.table(rows, " ".join([caption, *notes]), name=name, right=["difference, points"])


def pending(runs: Runs | Iterable[str]) -> Markdown:
    """The recipes without a record, folded, each with the command that makes one; nothing where there are none."""
    from IPython.display import Markdown

    names = [n for n, found in runs.items() if not found] if isinstance(runs, Mapping) else list(runs)
    if not names:
        return Markdown("")
    lines = [f"- {recipe.title}: {report.command(recipe)}{_cost(recipe)}" for recipe in map(recipes.load, names)]
    text = "\n".join(lines)
    return Markdown(f":::{{dropdown}} Runs of this chapter that are still to be made, and their commands\n{text}\n:::\n")


def _cost(recipe: recipes.Recipe) -> str:
    cost = recipe.cost
    return f" (about {cost.hours:g} h on {cost.hardware})" if cost else ""
