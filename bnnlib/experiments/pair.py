"""Two runs side by side: ``bnn compare A B``.

A run is named by its record (``results/runs/s4-lenet5/seed0.json``), its run folder as a path or as ``bnn runs`` lists it
(``s4-lenet5/demo/seed0``), or recipe and seed (``s4-lenet5:1``; without a seed, seed 0).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnlib import recipes, records, storage
from bnnlib.experiments import in_columns, plan, report
from bnnlib.records import Record
from bnnlib.training import repeat, status

ROWS = 24  # epochs shown of a longer curve


def find(name: str, folder: Path = records.FOLDER) -> Record:
    """The record that ``name`` names. Raises :class:`RecordError` where there is none."""
    path = Path(name)
    if "/" in name and not path.exists() and (status.runs_folder() / name).is_dir():
        path = status.runs_folder() / name
    if path.is_dir():
        if (path / status.NAME).is_file() and not (path / "record.json").is_file():
            raise records.RecordError(f"{name} has no record yet: a run gets one when it is finished")
        path /= "record.json"
    elif path.suffix != ".json":
        if "/" in name:
            raise records.RecordError(f"there is no run {name!r}, neither as a path nor in {status.runs_folder()}; bnn runs lists those")
        recipe, _, seed = name.partition(":")
        if seed and not seed.isdigit():
            raise records.RecordError(f"{name!r} is no run: give a record's file, a run folder, or recipe:seed")
        if recipe not in recipes.names():
            recipes.load(recipe)  # says what was meant
        path = records.path_of(recipe, int(seed or 0), folder)
        if not path.is_file():
            have = [str(r.seed) for r in records.read_all(folder, recipe)]
            raise records.RecordError(
                f"{recipe} has no record of seed {seed or 0}; it has {'seeds ' + ', '.join(have) if have else 'none'}"
            )
    return records.read(path)


def table(a: Record, b: Record, seeds: list[Record]) -> str:
    """Figures and curves of two runs; of the same recipe, also whether they differ by more than two seeds do."""
    rows = [
        ("", "A", "B", "B - A"),
        ("recipe", a.recipe, b.recipe, ""),
        ("seed, profile", f"{a.seed}, {a.profile}", f"{b.seed}, {b.profile}", ""),
        ("data", f"{a.dataset.name}, {a.dataset.train:,}", f"{b.dataset.name}, {b.dataset.train:,}", ""),
        *(_figure(*row) for row in _figures(a, b)),
        ("machine", _machine(a), _machine(b), ""),
        ("", "", "", ""),
        ("epoch", "test %", "test %", ""),
    ]
    for epoch in _epochs(max(len(a.curve), len(b.curve))):
        ours = [r.curve[epoch - 1].test_top1 if epoch <= len(r.curve) else None for r in (a, b)]
        shown = [f"{v:.2f}" if v is not None else "-" for v in ours]
        rows.append((str(epoch), *shown, f"{ours[1] - ours[0]:+.2f}" if None not in ours else ""))
    lines = in_columns(rows)
    changed = _changed(a, b)
    if changed:
        lines += ["", "recipes differ in " + ", ".join(changed)]
    elif a.profile == b.profile == "full" and a.seed == b.seed:
        lines += ["", repeat.told(a, b, seeds)]
    elif a.profile == b.profile == "full":
        spread = repeat.expected_spread([r.top1_last for r in seeds])
        if spread is not None:
            lines += ["", f"two seeds of this recipe differ by up to {spread:.2f} points (95 %, from {len(seeds)} seeds)"]
    return "\n".join(lines)


def _figures(a: Record, b: Record):
    yield "top-1 %, last epoch", a.top1_last, b.top1_last, ".2f"
    yield f"top-1 %, best of {a.best_of}", a.top1_best, b.top1_best, ".2f"
    yield "training loss, last epoch", a.curve[-1].train_loss, b.curve[-1].train_loss, ".4f"
    yield "epochs", len(a.curve), len(b.curve), "d"
    yield "parameters", a.parameters.total, b.parameters.total, ",d"
    yield "minutes", a.wall_time_s / 60, b.wall_time_s / 60, ".1f"
    yield "images/s in training", a.images_per_second, b.images_per_second, ".0f"


def _figure(name: str, a: float, b: float, form: str) -> tuple[str, str, str, str]:
    return name, format(a, form), format(b, form), format(b - a, f"+{form}")


def _machine(record: Record) -> str:
    return f"{report.processor(record.hardware)[:34]}, {record.hardware.get('threads', '?')} threads"


def _epochs(count: int) -> list[int]:
    """All epochs of a short curve; of a longer one the first, the last, and some between."""
    step = -(-count // ROWS)
    return sorted({1, count, *range(step, count + 1, step)})


def _changed(a: Record, b: Record) -> list[str]:
    def flat(fields: dict, at: str = "") -> dict:
        found = {}
        for key, value in fields.items():
            if not at and key in recipes.ABOUT:
                continue
            found |= flat(value, f"{at}{key}.") if isinstance(value, dict) else {at + key: value}
        return found

    one, two = flat(a.resolved), flat(b.resolved)
    return [
        f"{key} ({records.plain(one.get(key, 'none'))} -> {records.plain(two.get(key, 'none'))})"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    ]


def draw(a: Record, b: Record, path: Path) -> None:
    """The two curves of test accuracy, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4))
    for record, label in ((a, "A"), (b, "B")):
        epochs = [e.epoch for e in record.curve]
        name = f"{label}: {record.recipe} seed {record.seed}"
        ax.plot(epochs, [e.test_top1 for e in record.curve], marker="." if len(epochs) < 30 else "", label=name)
    ax.set(xlabel="epoch", ylabel="test top-1 %")
    ax.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    a: Annotated[str, typer.Argument(help="a record, a run as bnn runs lists it, or recipe:seed")],
    b: Annotated[str, typer.Argument(help="the other")],
    folder: Annotated[Path, typer.Option(help="folder of the records", callback=plan.existing)] = records.FOLDER,
    figure: Annotated[Path | None, typer.Option(help="draw both curves into this file (.png, .svg, .pdf)")] = None,
) -> None:
    """Put the figures and curves of two runs side by side."""
    try:
        one, two = find(a, folder), find(b, folder)
        seeds = records.read_all(folder, one.recipe) if one.recipe == two.recipe else []
        said = table(one, two, seeds)
        if figure is not None:
            draw(one, two, figure)
            said += f"\n\ncurves: {figure}"
    except (ValueError, OSError) as error:
        print(f"error: {storage.in_words(error)}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(said)  # not above: a reader that stops early (`| head`) is no error


if __name__ == "__main__":
    app(prog_name="bnn compare")
