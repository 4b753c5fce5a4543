"""The command line of training: ``bnn train``, which is ``python -m bnnlib.train``.

What trains is imported when a training starts, so that ``--help`` answers at once.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bnnlib import printable
from bnnlib.paths import folder_option
from bnnlib.training.progress import StandardError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    recipe: Annotated[str, typer.Argument(help="a recipe's name, or the path of a .yaml file")],
    seed: int = 0,
    profile: Annotated[str, typer.Option(help="full: as the recipe says; demo: minutes, it learns; quick: seconds")] = "full",
    data_root: Annotated[
        Path | None,
        typer.Option("--data", help="folder of the data sets; else $BNN_DATA, else the cache folder"),
    ] = None,
    out: Annotated[
        Path | None,
        folder_option("folder of the records of full runs", show_default="results/runs; of a recipe of your own: its run folder"),
    ] = None,
    runs: Annotated[
        Path | None,
        folder_option("folder of the run folders; else $BNN_RUNS, else the cache folder"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="change a field (optimizer.lr=0.001); may be repeated"
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="forget the checkpoint in the run folder")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="put the record in the place of the one that is there, which else stays")
    ] = False,
    accept_changed_code: Annotated[
        bool, typer.Option("--accept-changed-code", help="go on from a checkpoint that other code made")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
) -> None:
    """Train RECIPE, resuming where an earlier run of the same recipe and seed left off."""
    hold_standard_files()
    overrides = _overrides(recipe, profile, changes or [])  # before PyTorch is loaded, which takes seconds
    busy = _wait_passively_where_busy()
    import torch

    from bnnlib.training import checkpoint, loop

    if threads:
        torch.set_num_threads(threads)
    if busy and torch.get_num_threads() > 1:
        print(busy, file=StandardError(), flush=True)
    try:
        loop.train(
            recipe,
            seed=seed,
            profile=profile,
            data_root=data_root,
            out=out,
            runs=runs,
            overrides=overrides or None,
            restart=restart,
            replace=replace,
            accept_changed_code=accept_changed_code,
        )
    except loop.Interrupted as stopped:
        _fail(str(stopped), code=130, once=True)
    except (ValueError, FileNotFoundError, checkpoint.CheckpointError, checkpoint.RunBusy) as error:
        _fail(str(error), once=True)
    except loop.TrainingError as error:
        _fail(str(error))
    except OSError as error:
        _fail(
            f"{error.filename or 'a file'}: {error.strerror or error}; what was written before is whole, and the same command goes on "
            "from the last checkpoint, if there is one"
        )


def _overrides(recipe: str, profile: str, changes: list[str]) -> dict[str, Any]:
    """What ``--set`` changes, if there are such a recipe, such fields and such a profile."""
    from bnnlib import recipes

    try:
        overrides = dict(_change(text) for text in changes)
        recipes.load(recipe, overrides or None).for_profile(profile)
    except ValueError as error:
        _fail(str(error), once=True)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}", once=True)
    return overrides


def _wait_passively_where_busy() -> str:
    """Where other work keeps the cores busy, have OpenMP's threads sleep while they wait for one another: by default they
    spin, and each takes the core from the one it waits for (19 times slower was seen with two threads). It must be said
    before PyTorch is loaded. The numbers do not change. What was done is returned, in words."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    chosen = any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))
    if chosen or "torch" in sys.modules or load < 0.75 * cores:
        return ""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores): threads wait passively (OMP_WAIT_POLICY=passive); "
        "--threads 1 may be faster still"
    )


def hold_standard_files() -> None:
    """Put /dev/null in the place of standard files that are closed, whose numbers would go to the next files opened; and
    of a standard error that cannot be flushed when the process ends, which would turn its exit status into 120."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass

    def let_go() -> None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            os.dup2(handle, 2)

    atexit.register(let_go)


def _change(text: str) -> tuple[str, Any]:
    """``field=value`` of ``--set``, the value read as YAML."""
    from bnnlib import recipes

    field, equals, value = text.partition("=")
    if not equals:
        raise recipes.RecipeError(f"--set {text}: write it as field=value")
    return field, recipes.parse_value(value)


def _fail(text: str, code: int = 1, once: bool = False) -> None:
    """Print ``text`` and leave; ``once``: the first process alone prints it, for what all processes would print. The others
    wait to be stopped: a launcher stops every process when one leaves, and the first may not have printed yet."""
    if once and os.environ.get("RANK", "0") != "0":
        time.sleep(30)
    else:
        lines = (f"error: {text}" if code == 1 else text).split("\n")
        print("\n".join(map(printable, lines)), file=StandardError(), flush=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="bnn train")
