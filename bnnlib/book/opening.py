"""How a chapter opens: its question, its answer from a cell below, and what running it costs.

The first cell of a chapter states its question. A cell tagged ``answer``, wherever the numbers are known, puts out the
answer as Markdown or as a figure, and the page shows it below the question. The second cell, tagged ``cost``, calls
:func:`cost`. CONTRIBUTING has the pattern cell by cell.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bnnlib.book.chapters import times
from bnnlib.paths import ROOT
from bnnlib.training.progress import duration

if TYPE_CHECKING:
    from IPython.display import Markdown


def cost(chapter: str, does: Mapping[str, str], *, trains: Iterable[str] = (), needs: str = "") -> Markdown:
    """The box, folded, that says what each profile of a chapter does and how long it takes; its title has the first one's time.

    does: profile to what it does, in words. trains: recipes of which the last profile in ``does`` trains one seed; its time
    is theirs, the mean of the recorded runs. The time of every other profile is that of :func:`time_of`.
    needs: data and anything else that the reader must have.
    """
    from IPython.display import Markdown

    return Markdown(box(chapter, dict(does), list(trains), needs, ROOT))


def box(chapter: str, does: Mapping[str, str], trains: list[str], needs: str, root: Path) -> str:
    """The Markdown of :func:`cost`, for the chapters and records below ``root``."""
    from bnnlib.book import tables

    rows = []
    for profile, words in does.items():
        time = _mark(profile, time_of(chapter, profile, root))
        if trains and profile == list(does)[-1]:
            time = _trained(trains, root / "results" / "runs") or time
        default = " (the default)" if profile == "stored" else ""
        rows.append({"profile": f"`{profile}`{default}", "what it does": words, "time": time})
    needs = f"\n\n{needs}" if needs else ""
    title = f"What this chapter costs: {rows[0]['time']}"
    return f":::{{admonition}} {title}\n:class: cost dropdown\n\n{tables.markdown(rows)}{needs}\n:::\n"


def _trained(names: list[str], folder: Path) -> str:
    """Hours of the recipes' recorded runs, a seed of each, and what they ran on: on CPUs and on GPUs, where all recipes ran
    on one; else of every recipe where it ran."""
    from bnnlib import records
    from bnnlib.experiments import hours, report

    found = [records.read_all(folder, recipe=name) for name in names]
    if not all(found):
        return ""
    kinds = [[[r for r in runs if r.hardware.get("device") == kind] for runs in found] for kind in hours.KINDS]
    told = []
    for groups in [groups for groups in kinds if all(groups)] or [found]:
        seconds = sum(statistics.fmean(r.wall_time_s for r in runs) for runs in groups)
        places = sorted({report.machine(r.hardware) for runs in groups for r in runs})
        told.append(f"{duration(seconds)} ({'; '.join(places)})")
    return "; or ".join(told)


def time_of(chapter: str, profile: str, root: Path = ROOT) -> str:
    """How long the chapter took when it last ran in a profile on this machine; else on the machine of the record, named; else
    a dash."""
    seconds = times.last_run(chapter, profile, root)
    if seconds is not None:
        return duration(seconds)
    known = times.of_record(chapter, profile, root)
    return "–" if known is None else f"{duration(known[0])} ({known[1]})"


def _mark(profile: str, time: str) -> str:
    """A time that :func:`with_times` can find again. (A chapter does not know its own while it runs.)"""
    return f"<!--{profile}-->{time}<!--/-->"


def with_times(text: str, seconds: Mapping[str, float]) -> str:
    """The box's text with the times of profiles in ``seconds`` in place of those it was made with.

    >>> with_times("| <!--stored-->–<!--/--> |", {"stored": 12.3})
    '| 12 s |'
    """

    def put(found: re.Match[str]) -> str:
        return duration(seconds[found[1]]) if found[1] in seconds else found[2]

    return re.sub(r"<!--(\w+)-->(.*?)<!--/-->", put, text)
