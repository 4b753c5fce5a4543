"""The command line of the chapters: ``bnn chapters``, ``python -m bnnlib.chapters``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bnnlib.book.chapters import PROFILES, ChapterError, check, read, run, source_problems, sources, times
from bnnlib.paths import ROOT, folder_option

app = typer.Typer(help="Run and check the chapters.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Profile = StrEnum("Profile", PROFILES)


def _checked(command: Callable) -> Callable:
    """What a user can do something about is a line on stderr, not a traceback."""

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ChapterError as mistake:
            print(f"error: {mistake}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("interrupted: chapters that were done are kept; the same command runs the rest", file=sys.stderr)
            raise typer.Exit(130) from None

    return call


class _WithPairs(TyperCommand):
    """A command with ``-p PARAMETER VALUE``, as papermill has it. Typer has no option of two words that may be repeated, so the
    two are made one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _paired(args))


def _paired(words: Sequence[str]) -> list[str]:
    """``-p`` with the two words behind it as one.

    >>> _paired(["one", "-p", "seed", "-1", "-p", "net=a", "--force", "-p", "rate", "--", "-p", "a", "b"])
    ['one', '-p', 'seed=-1', '-p', 'net=a', '--force', '-p', 'rate', '--', '-p', 'a', 'b']
    """
    made, left = [], list(words)
    while left and left[0] != "--":
        made.append(left.pop(0))
        if made[-1] == "-p" and len(left) > 1 and "=" not in left[0] and not left[1].startswith("--"):
            made.append(f"{left.pop(0)}={left.pop(0)}")
    return made + left


def _pairs(given: list[str] | None) -> dict[str, str]:
    """Parameter to value."""
    for each in given or []:
        if "=" not in each:
            raise typer.BadParameter(f"{each} has no value: give the parameter and its value", param_hint="-p")
    return {name: value for name, _, value in (each.partition("=") for each in given or [])}


@app.command(name="run", cls=_WithPairs)
@_checked
def _run(
    names: Annotated[list[str] | None, typer.Argument(help="chapters to run", show_default="all")] = None,
    profile: Annotated[Profile, typer.Option(help="what a chapter does")] = Profile.stored,
    seed: Annotated[int, typer.Option(help="seed that the chapters are given")] = 0,
    given: Annotated[list[str] | None, typer.Option("-p", metavar="PARAMETER VALUE", help="a parameter of the chapter; may be repeated")] = None,
    out: Annotated[
        Path | None,
        folder_option("folder of the executed chapters", show_default="build/chapters/<profile>"),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="chapters at a time", show_default="one a core")] = None,
    force: Annotated[bool, typer.Option("--force", help="run chapters that are up to date, too")] = False,
) -> None:
    """Execute chapters into build/chapters/<profile>/."""
    outcomes = run(names or [], profile=profile.value, seed=seed, given=_pairs(given), out=out, jobs=jobs, force=force)
    count, failed = len(names or sources()), False
    for done, outcome in enumerate(outcomes, 1):
        state = "FAILED" if outcome.error else "up to date" if outcome.skipped else f"{outcome.seconds:.1f} s"
        print(f"{done:2}/{count} {outcome.name:32} {profile:8} {state}", flush=True)
        if outcome.error:
            print(outcome.error, file=sys.stderr, flush=True)
            failed = True
    if failed:
        raise typer.Exit(1)


@app.command(name="check")
@_checked
def _check(
    paths: Annotated[list[Path] | None, typer.Argument(help="executed notebooks", show_default="all of the profile")] = None,
    profile: Annotated[Profile, typer.Option(help="profile they must be of")] = Profile.stored,
) -> None:
    """Refuse executed chapters that may not be published."""
    paths = paths or [ROOT / "build" / "chapters" / profile / path.name for path in sources()]
    _tell(len(paths), [line for path in paths for line in check(path, profile=profile.value)])


@app.command(name="times")
@_checked
def _times(
    profiles: Annotated[list[str] | None, typer.Argument(help="profiles that every chapter was run in", show_default="quick, demo")] = None,
) -> None:
    """Keep how long the executed chapters took, as results/chapters.json."""
    print(times.keep(profiles or ["quick", "demo"]))


@app.command(name="sources")
@_checked
def _sources() -> None:
    """Refuse notebooks that may not be committed."""
    paths = sources()
    _tell(len(paths), [line for path in paths for line in source_problems(read(path), path.stem)])


def _tell(count: int, found: list[str]) -> None:
    """Print the problems of ``count`` chapters, and leave with status 1 where there are some."""
    for line in found:
        print(line, file=sys.stderr)
    print(f"chapters checked: {count}; problems: {len(found)}")
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="bnn chapters")
