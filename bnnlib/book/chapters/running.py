"""Chapters are executed here, several at a time, each in a process of its own."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat

from bnnlib.book.chapters import solutions
from bnnlib.book.chapters.freshness import fingerprint, surroundings
from bnnlib.book.chapters.gate import problems
from bnnlib.book.chapters.notebooks import ChapterError, parameters, read, source, sources
from bnnlib.book.chapters.values import resolve
from bnnlib.paths import ROOT

_CELL_LIMIT = 600  # seconds a cell may take, except in the profiles demo and full, where cells train


@dataclass(frozen=True)
class Outcome:
    """What became of one chapter; ``error`` is empty when it ran, or needed no run, and passed the gate."""

    name: str
    output: Path
    seconds: float = 0.0
    skipped: bool = False
    error: str = ""


@dataclass(frozen=True)
class _Task:
    origin: Path
    output: Path
    values: dict[str, Any]
    inputs: str
    profile: str
    threads: int


def run(
    names: Iterable[str] = (),
    *,
    profile: str = "stored",
    seed: int = 0,
    given: Mapping[str, Any] | None = None,
    out: Path | None = None,
    jobs: int | None = None,
    force: bool = False,
    root: Path = ROOT,
) -> Iterator[Outcome]:
    """Execute chapters (all of them when ``names`` is empty) and yield an :class:`Outcome` as each is done.

    given: further parameters, name to value. out: folder of the executed notebooks. jobs: chapters at a time.
    Raises :class:`ChapterError` before anything runs for an unknown chapter or parameter.
    """
    root = Path(root).resolve()
    origins = [source(name, root) for name in names] or sources(root)
    out = Path(out).resolve() if out else root / "build" / "chapters" / profile
    jobs = jobs or min(len(origins), os.cpu_count() or 1) or 1
    shared = surroundings(root)
    tasks, skipped = [], []
    for origin in origins:
        notebook = read(origin)
        defaults = parameters(notebook, origin.stem)
        values = resolve(defaults, {"profile": profile, "seed": seed, **(given or {})}, origin.stem)
        inputs = fingerprint(notebook, values, shared)
        output = out / origin.name
        if not force and _has_mark(output, inputs):
            os.utime(output)  # for make and snakemake, which go by times
            skipped.append(Outcome(origin.stem, output, skipped=True))
        else:
            threads = max(1, (os.cpu_count() or 1) // jobs)
            tasks.append(_Task(origin, output, values, inputs, profile, threads))
    yield from skipped
    if not tasks:
        return
    out.mkdir(parents=True, exist_ok=True)
    # Spawned, not forked: the kernel's environment is set up in a process that has loaded nothing yet.
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_execute, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _has_mark(output: Path, inputs: str) -> bool:
    try:
        return read(output).metadata["bnnlib"]["inputs"] == inputs
    except (ChapterError, KeyError):
        return False


def _execute(task: _Task) -> Outcome:
    """Run one chapter in this process. Never raises: what went wrong is the outcome's ``error``."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    name, started = task.origin.stem, time.monotonic()
    partial = task.output.with_name(f".{name}.{os.getpid()}.tmp.ipynb")
    failed = task.output.with_name(f"{name}.failed.ipynb")
    # Unix sockets in a folder of our own: no ports to clash on, nothing of the user's IPython set-up in the
    # kernel. A socket's path has room for about a hundred characters, which a long $TMPDIR would not leave.
    short = None if len(tempfile.gettempdir()) < 40 else "/tmp"
    error = ""
    with tempfile.TemporaryDirectory(prefix="bnn-", dir=short) as scratch, _stderr_to(f"{scratch}/stderr"):
        os.environ.update(JUPYTER_RUNTIME_DIR=scratch, IPYTHONDIR=f"{scratch}/ipython")
        os.environ.update(PYDEVD_DISABLE_FILE_VALIDATION="1", TQDM_DISABLE="1")
        os.environ.setdefault("OMP_NUM_THREADS", str(task.threads))
        try:
            notebook = read(task.origin)
            notebook.cells += solutions.as_cells(notebook)
            execute_notebook(
                notebook,
                str(partial),
                parameters=task.values,
                progress_bar=False,
                request_save_on_cell_execute=False,
                cwd=str(task.origin.parent),
                execution_timeout=None if task.profile in ("full", "demo") else _CELL_LIMIT,
                # `ip` is the sockets' path; left to itself it is the same for all in the chapters' folder.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{scratch}/kernel"}}),
            )
        except PapermillExecutionError as stopped:
            error = _explain(name, stopped)
        except CellTimeoutError:
            error = f"{name}: a cell took more than {_CELL_LIMIT} s; the {task.profile} profile must be quick"
        except DeadKernelError:
            said = Path(f"{scratch}/stderr").read_text(errors="replace").strip().splitlines()[-5:]
            error = "\n  ".join([f"{name}: its kernel died (out of memory?)", *said])
        except KeyboardInterrupt:
            error = f"{name}: interrupted"
        except Exception as other:  # the pool must carry a message home, whatever it is
            error = f"{name}: {type(other).__name__}: {other}"
    if partial.exists():
        notebook = read(partial)
        _sign(notebook, task)
        error = error or "\n".join(problems(notebook, name, profile=task.profile))
        nbformat.write(notebook, partial)
        os.replace(partial, failed if error else task.output)
        if error:
            error += f"\n  the chapter as it stopped: {failed}"
        else:
            failed.unlink(missing_ok=True)
    return Outcome(name, task.output, time.monotonic() - started, error=error)


@contextmanager
def _stderr_to(path: str) -> Iterator[None]:
    """Send this process's stderr, and its kernel's, to a file: of interest only when the kernel dies."""
    before = os.dup(2)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _sign(notebook: nbformat.NotebookNode, task: _Task) -> None:
    """Leave the mark that ``is_current`` reads, and take this machine's paths out."""
    notebook.metadata["bnnlib"] = {"inputs": task.inputs, "parameters": task.values}
    notebook.metadata.papermill["input_path"] = f"notebooks/{task.origin.name}"
    notebook.metadata.papermill["output_path"] = task.output.name


def _explain(name: str, error: Any) -> str:
    """Chapter, cell, the failing line with its neighbours, and the message: what a reader of a log needs."""
    if error.ename == ChapterError.__name__:  # a parameter that the chapter refuses
        return f"{name}: {error.evalue}"
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    frames = re.findall(r"^-+> (\d+)", text, re.MULTILINE)
    lines = error.source.splitlines()
    at = int(frames[0]) if frames and int(frames[0]) <= len(lines) else 0
    shown = [
        f"  {'>' if number == at else ' '} {number:3} | {line}"
        for number, line in enumerate(lines, 1)
        if abs(number - at) <= 2 or not at and number <= 5
    ]
    inner = re.findall(r"^File (\S+?):(\d+)", text, re.MULTILINE)
    where = f" (raised at {inner[-1][0]}:{inner[-1][1]})" if inner else ""
    return "\n".join(
        [f"{name}: cell [{error.exec_count}] failed", *shown, f"  {error.ename}: {error.evalue}{where}"]
    )
