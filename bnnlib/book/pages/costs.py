"""How long, how much, on what: trainings from their records, chapters from their last execution."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnnlib.benchmarks import record as bench_record
from bnnlib.benchmarks import speed
from bnnlib.book import opening, tables
from bnnlib.book.pages import cards
from bnnlib.paths import ROOT
from bnnlib.training import progress

_CPU = re.compile(r"[A-Z][^|;,\n]*? family \d+ model \d+")  # a CPU in a table
KEPT_LATER = "AMD EPYC"  # how records name a processor that were written before they kept its model


def _place(hardware: Mapping[str, Any]) -> str:
    """What a run ran on, a CPU by the name of its core."""
    from bnnlib.experiments import report

    cpu, *rest = report.machine(hardware).split(", ")
    return ", ".join([speed.named(cpu), *rest])


def key(cpus: Iterable[str]) -> str:
    """What the names of processors stand for: a sentence for each that a table names by its core, and for the older records.

    >>> key(["AMD EPYC family 25 model 17"])
    'Processors go by the names of their cores. Zen 4: AMD EPYC family 25 model 17.\\n\\n'
    """
    cpus = set(cpus)
    told = [f"{core}: {cpu}" for cpu in cpus if (core := speed.named(cpu)) != cpu]
    told += [f"{KEPT_LATER}: older records, in which the model was not kept"] * (KEPT_LATER in cpus)
    return f"Processors go by the names of their cores. {'. '.join(sorted(told))}.\n\n" if told else ""


def runs_table(known: Iterable, found: Iterable) -> str:
    """What each recipe that was run takes and gives, from the records, as a Markdown table."""
    from bnnlib.experiments import report

    found = list(found)
    rows = []
    for recipe in known:
        runs = [record for record in found if record.recipe == recipe.name]
        if not runs:
            continue
        spent: dict[str, list[float]] = {}  # by machine: a mean over different ones is the time of none
        for record in sorted(runs, key=lambda record: _place(record.hardware)):
            spent.setdefault(_place(record.hardware), []).append(record.wall_time_s)
        rows.append(
            {
                "network": f"{recipe.title}<br>`{recipe.name}`",
                "data": recipe.dataset,
                "epochs": recipe.epochs,
                "seeds": f"{len(runs)} of {max(len(runs), recipe.seeds)}",
                "time a seed": "; ".join(progress.duration(statistics.fmean(seconds)) for seconds in spent.values()),
                "on": "; ".join(spent),
                "top-1, %": str(report.Spread.of([record.top1_last for record in runs])),
            }
        )
    return tables.markdown(rows) + "\n" if rows else "*None yet.*\n"  # times of several machines wrap, as figures do not


WAYS = {"bf16": "bfloat16", "fp32": "float32", "bf16-compile": "bfloat16, compiled", "fp32-compile": "float32, compiled"}
DIGITS = {"ours, ms": 2, "PyTorch's best, ms": 2, "over ours": 2}


def steps(folder: Path) -> str:
    """What a step of training takes with the kernels and with PyTorch's convolutions, from the benchmark records in a folder, a table
    for each processor."""
    from bnnlib import recipes

    told = []
    for record in bench_record.newest_of_each(list(folder.glob("training-*.json"))):
        rows = []
        for run in record["runs"]:
            for case in run["cases"]:
                best = speed.best_rival(case)
                recipe = recipes.load(case["recipe"])
                rows.append(
                    {
                        "network": recipe.title + ("" if recipe.precision == "bf16-mixed" else " (in float32)"),
                        "threads": run["threads"],
                        "ours, ms": case["times"]["bits"]["median_us"] / 1000 / case["batch"],
                        "PyTorch's best, ms": case["times"][best]["median_us"] / 1000 / case["batch"],
                        "which is": WAYS[best],
                        "over ours": speed.ratio(case, best, "bits").median,
                    }
                )
        cases = [case for run in record["runs"] for case in run["cases"]]
        told.append(f"{speed.core(record)} ({bench_record.origin(record, cases)}):\n\n{tables.markdown(rows, digits=DIGITS)}\n")
    return "\n".join(told) if told else "*Not measured yet: `bnn bench training`.*\n"


def pending(known: Iterable, found: Iterable) -> str:
    """Recipes without a record, and how to run them, as one folded list; empty where there are none."""
    from bnnlib.experiments import report

    run = {record.recipe for record in found}
    lines = [f"- {recipe.title}: {report.command(recipe)}" for recipe in known if recipe.name not in run]
    if not lines:
        return ""
    return ":::{dropdown} Recipes without a record here, and how to run them\n" + "\n".join(lines) + "\n:::\n"


def totals(found: Iterable) -> str:
    """All recorded runs together: how many, how long, on what."""
    found = list(found)
    if not found:
        return "*None yet.*\n"
    rows = []
    for place in sorted({_place(record.hardware) for record in found}):
        runs = [record for record in found if _place(record.hardware) == place]
        hours = sum(record.wall_time_s for record in runs) / 3600
        epochs = sum(len(record.curve) for record in runs)
        rows.append({"machine": place, "runs": len(runs), "epochs": epochs, "hours": hours})
    whole = {key: sum(row[key] for row in rows) for key in ("runs", "epochs", "hours")}
    rows.append({"machine": "**all**", **whole})
    cpus = {record.hardware["cpu"] for record in found if "gpu" not in record.hardware and "cpu" in record.hardware}
    return key(cpus) + tables.markdown(rows, digits={"hours": 1}) + "\n"


def chapter_times(notebooks: Iterable[Path], root: Path = ROOT) -> str:
    """How long each chapter took: when last run on this machine, else by the record of another."""
    rows = [
        {
            "chapter": cards.opening(path)[0],
            **{f"`{profile}`": opening.time_of(path.stem, profile, root) for profile in ("stored", "quick", "demo")},
        }
        for path in notebooks
    ]
    if not rows:
        return ""
    text = tables.markdown(rows, right=list(rows[0])[1:]) + "\n"
    return key(_CPU.findall(text)) + _CPU.sub(lambda found: speed.named(found[0]), text)
