"""What lies in the run folders, and what trains in them now: ``bnn runs``."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bnnlib import printable
from bnnlib.experiments import in_columns
from bnnlib.training import status
from bnnlib.training.progress import duration


@dataclass(frozen=True)
class Row:
    """A run folder. ``left``: seconds to its end, by its own pace; ``state``: training, stopped or finished."""

    name: str
    profile: str
    seed: int
    epoch: int
    epochs: int
    top1: float | None
    left: float
    state: str
    age: float
    folder: Path


def rows(folder: Path, now: float | None = None) -> list[Row]:
    """The runs in ``folder`` that left a checkpoint, the newest first. Those of earlier versions, which kept no status
    beside it, are left out."""
    now, found = now or time.time(), []
    for path in folder.glob(f"*/*/seed*/{status.NAME}"):
        try:
            told = status.read(path)
        except (OSError, ValueError):
            continue
        done = told.epoch + told.share
        left = told.seconds / done * (told.epochs - done) if done else 0.0
        training = is_locked(path.parent)
        state = "training" if training else "finished" if told.epoch >= told.epochs else "stopped"
        shown = (told.recipe, path.parent.parent.name, told.seed, told.epoch, told.epochs, told.top1)
        found.append(Row(*shown, left, state, now - path.stat().st_mtime, path.parent))
    return sorted(found, key=lambda row: row.age)


def is_locked(folder: Path) -> bool:
    """Whether a process trains in a run folder."""
    try:
        with open(folder / "lock", "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def table(found: list[Row]) -> str:
    """The rows, for a terminal."""
    lines = [("run", "epoch", "top-1 %", "left", "state", "last checkpoint")]
    for row in found:
        top1 = "-" if row.top1 is None else f"{row.top1:.2f}"
        left = "-" if row.state == "finished" else duration(row.left)
        seen = f"{duration(row.age)} ago"
        name = f"{row.name}/{row.profile}/seed{row.seed}"
        lines.append((name, f"{row.epoch}/{row.epochs}", top1, left, row.state, seen))
    return "\n".join(in_columns(lines))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    runs: Annotated[Path | None, typer.Option(file_okay=False, help="folder of the run folders; else $BNN_RUNS, else the cache folder")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with the folders")] = False,
) -> None:
    """List the run folders: how far each run is, its last accuracy, and how long it will still take."""
    folder = status.runs_folder(runs)
    found = rows(folder)
    if as_json:
        print(json.dumps([{**row.__dict__, "folder": str(row.folder)} for row in found], indent=1))
        return
    if not found:
        print(f"no run in {printable(str(folder))} yet: bnn train RECIPE begins one", file=sys.stderr)
        return
    print(table(found))
    print("\nbnn compare puts two of them side by side; a profile with digits behind it has changed values (--set)")
    print(f"in {printable(str(folder))}; curves: tensorboard --logdir {printable(str(folder))}")


if __name__ == "__main__":
    app(prog_name="bnn runs")
