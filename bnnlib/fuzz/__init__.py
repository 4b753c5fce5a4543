"""Attack the library with random input: ``python -m bnnlib.fuzz [--minutes M] [--seed S] [--only KIND]``.

=============== ==================================================================================================
kind            what a case is, and what must come of it
=============== ==================================================================================================
``file``        a packed file, changed: a network that runs, or ``DeployError``; a file whose checksum was not mended
                is never read
``graph``       a random network: on every kernel variant the values of an interpreter in float64, to the last bit;
                or tables for the executor with a number changed: refused, or they run on arrays that end where memory does
``checkpoint``  a checkpoint, changed: ``CheckpointError``, or a dict
``data``        a file of a data set, changed: ``DataError``, or images
``yaml``        a recipe, changed: ``RecipeError``, or a recipe
``kernels``     ``tests/kernels/fuzz.cpp`` under the address and undefined-behaviour sanitizers; needs a checkout
=============== ==================================================================================================

Cases run in a child process that may take a gigabyte more than it begins with, and a minute a case; a case that ends it is
a finding, as is any exception that is not the one above. A case is a function of (seed, kind, number) alone: what is
printed with a finding reproduces it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer

from bnnlib.fuzz.cases import CASES

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 1 << 30  # bytes beyond what a child begins with
CASE_SECONDS = 60
KERNEL_CASES = 20  # of a process of the kernels' fuzz, for each variant
CHILD = [sys.executable, "-m", "bnnlib.fuzz"]


def child(kind: str, seed: int, first: int, count: int, until: float) -> None:
    """Run cases, a line before each; the line after a finding ends with what it is."""
    case = CASES[kind]
    said = os.fdopen(os.dup(1), "w", buffering=1)
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-") as base:
        for number in range(first, first + count):
            if time.monotonic() > until:
                break
            said.write(f"case {number}\n")
            folder = Path(base) / str(number)
            folder.mkdir()
            draw = random.Random(f"{seed} {kind} {number}")
            if number == first:
                with contextlib.suppress(Exception):
                    case(random.Random("warm"), folder)  # what the first case imports is not its memory
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                limit = pages * resource.getpagesize() + MEMORY
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(CASE_SECONDS)  # which ends the process
            try:
                case(draw, folder)
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                said.write("finding " + json.dumps(f"{type(error).__name__}: {str(error)[:1500]} ({place})") + "\n")
            signal.alarm(0)
            shutil.rmtree(folder, ignore_errors=True)
        said.write("end\n")


def hunt(kind: str, seed: int, first: int, count: int, seconds: float, program: list[str] | None = None) -> tuple[int, list[tuple[int, str]]]:
    """(number of cases, findings as (number, what)) of one kind, in child processes one after another."""
    tried, findings, until = 0, [], time.monotonic() + seconds
    while tried < count and time.monotonic() < until:
        arguments = ["--child", kind, "--seed", seed, "--case", first + tried, "--cases", count - tried, "--seconds", until - time.monotonic()]
        with tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run([*(program or CHILD), *map(str, arguments)], stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment())
            errors.seek(0)
            complaint = errors.read()[-1500:]
        lines = [line for line in done.stdout.splitlines() if line.startswith(("case ", "finding ", "end"))]
        number = first + tried
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "case":
                number, tried = int(rest), int(rest) - first + 1
            elif word == "finding":
                findings.append((number, json.loads(rest)))
        if not lines:
            findings.append((number, f"no case was begun, exit status {done.returncode}: {complaint}"))
            break
        if lines[-1] != "end":
            name = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit status {done.returncode}"
            findings.append((number, f"the process ended by {name}{' (more than a minute)' if name == 'SIGALRM' else ''}: {complaint}"))
        elif done.returncode == 0:
            break
    return tried, findings


def _environment() -> dict[str, str]:
    """As ours, with the library found from any folder, and few threads: each takes address space."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1"}


def hunt_kernels(seed: int, count: int, seconds: float) -> tuple[int, list[tuple[int, str]]]:
    """The same of ``tests/kernels/fuzz.cpp``; a case is one process of it."""
    source, until = ROOT / "tests" / "kernels" / "fuzz.cpp", time.monotonic() + seconds
    if not source.is_file() or shutil.which("g++") is None:
        print("kernels: left out, for it needs g++ and a checkout", flush=True)
        return 0, []
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-") as folder:
        program = Path(folder) / "fuzz"
        flags = "-std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined".split()
        made = subprocess.run(["g++", *flags, f"-I{ROOT / 'kernels'}", str(source), "-o", str(program)], capture_output=True, text=True)
        if made.returncode:
            return 0, [(0, f"it does not compile: {made.stderr[-1500:]}")]
        tried, findings = 0, []
        while tried < count and (time.monotonic() < until or not tried):
            done = subprocess.run([str(program), str(KERNEL_CASES), str(seed + tried)], capture_output=True, text=True)
            if done.returncode:
                findings.append((tried, (done.stdout + done.stderr)[-1500:]))
            tried += 1
    return tried, findings


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0, help="shared by the kinds")] = 10,
    seed: Annotated[int | None, typer.Option(help="of all cases; without it a new one, which is printed")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a kind; may be repeated")] = None,
    cases: Annotated[int, typer.Option(min=1, help="at most so many of each kind")] = 10**9,
    case: Annotated[int, typer.Option(min=0, help="the first case's number; with --cases 1 to reproduce a finding")] = 0,
    child_: Annotated[str | None, typer.Option("--child", hidden=True)] = None,
    seconds: Annotated[float, typer.Option(hidden=True)] = 0,
) -> None:
    """Attack the library with random input; exit status 1 where something is found."""
    seed = secrets.randbits(31) if seed is None else seed
    if child_ is not None:
        child(child_, seed, case, cases, time.monotonic() + seconds)
        return
    kinds = only or [*CASES, "kernels"]
    if unknown := set(kinds) - {*CASES, "kernels"}:
        raise typer.BadParameter(f"no kind {sorted(unknown)[0]!r}: choose of {', '.join([*CASES, 'kernels'])}", param_hint="--only")
    print(f"seed {seed}", flush=True)
    total, found = 0, 0
    for kind in kinds:
        started, share = time.monotonic(), 60 * minutes / len(kinds)
        tried, findings = hunt_kernels(seed + case, cases, share) if kind == "kernels" else hunt(kind, seed, case, cases, share)
        spent = time.monotonic() - started
        print(f"{kind}: {tried} cases, {60 * tried / max(spent, 1e-9):.0f} a minute, {len(findings)} findings", flush=True)
        for number, what in findings:
            print(f"  python -m bnnlib.fuzz --only {kind} --seed {seed} --case {number} --cases 1\n    {what}", flush=True)
        total, found = total + tried, found + len(findings)
    print(f"{total} cases, {found} findings", flush=True)
    if found:
        raise typer.Exit(1)
