"""The command line of the chapters: ``bnn chapters``, ``python -m bnnlib.chapters``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bnnlib.book.chapters import PROFILES, ChapterError, check, read, run, source_problems, sources, times
from bnnlib.paths import ROOT, folder_to_write


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bnn chapters", description="Run and check the chapters."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    runs = commands.add_parser("run", help="execute chapters into build/chapters/<profile>/")
    runs.add_argument("names", nargs="*", metavar="NAME", help="chapters to run (all)")
    runs.add_argument("--profile", choices=PROFILES, default="stored", help="what a chapter does (stored)")
    runs.add_argument("--seed", type=int, default=0, help="seed that the chapters are given (0)")
    runs.add_argument(
        "-p", dest="given", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"),
        help="a parameter of the chapter; may be repeated",
    )
    runs.add_argument("--out", type=folder_to_write, help="folder of the executed chapters (build/chapters/<profile>)")
    runs.add_argument("--jobs", type=int, help="chapters at a time (one a core)")
    runs.add_argument("--force", action="store_true", help="run chapters that are up to date, too")

    checks = commands.add_parser("check", help="refuse executed chapters that may not be published")
    checks.add_argument(
        "paths", nargs="*", type=Path, metavar="PATH", help="executed notebooks (all of the profile)"
    )
    checks.add_argument(
        "--profile", choices=PROFILES, default="stored", help="profile they must be of (stored)"
    )

    kept = commands.add_parser("times", help="keep how long the executed chapters took, as results/chapters.json")
    kept.add_argument("profiles", nargs="*", metavar="PROFILE", help="profiles that every chapter was run in (quick, demo)")

    commands.add_parser("sources", help="refuse notebooks that may not be committed")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _arguments().parse_args(arguments)
    if options.command == "run":
        return _run_command(options)
    if options.command == "times":
        print(times.keep(options.profiles or ["quick", "demo"]))
        return 0
    if options.command == "check":
        paths = options.paths or [ROOT / "build" / "chapters" / options.profile / p.name for p in sources()]
        found = [line for path in paths for line in check(path, profile=options.profile)]
    else:
        paths = sources()
        found = [line for path in paths for line in source_problems(read(path), path.stem)]
    for line in found:
        print(line, file=sys.stderr)
    print(f"chapters checked: {len(paths)}; problems: {len(found)}")
    return 1 if found else 0


def _run_command(options: argparse.Namespace) -> int:
    if options.jobs is not None and options.jobs < 1:
        raise ChapterError(f"--jobs {options.jobs}: must be 1 or more")
    failures = 0
    outcomes = run(
        options.names,
        profile=options.profile,
        seed=options.seed,
        given=dict(options.given),
        out=options.out,
        jobs=options.jobs,
        force=options.force,
    )
    count = len(options.names or sources())
    for done, outcome in enumerate(outcomes, 1):
        state = "FAILED" if outcome.error else "up to date" if outcome.skipped else f"{outcome.seconds:.1f} s"
        print(f"{done:2}/{count} {outcome.name:32} {options.profile:8} {state}", flush=True)
        if outcome.error:
            print(outcome.error, file=sys.stderr, flush=True)
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ChapterError as mistake:
        sys.exit(f"error: {mistake}")
    except KeyboardInterrupt:
        print(
            "interrupted: chapters that were done are kept; the same command runs the rest", file=sys.stderr
        )
        sys.exit(130)
