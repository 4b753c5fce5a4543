"""JupyterLab on copies of the chapters: ``bnn lab``, ``make lab``.

The notebooks of ``notebooks/`` are copied to ``build/lab/``, so that what a reader turns there leaves the tracked files
as they are. A copy that was worked in is kept; where its chapter has changed since, the new one lies beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnlib.book import chapters
from bnnlib.paths import ROOT
from bnnlib.storage import write_atomically

MARKS = ".copied.json"  # name of a copy: hash of the chapter that it was made from


def copies(root: Path = ROOT) -> list[str]:
    """Bring ``build/lab`` up to date, and say in words what was kept. Nothing that a reader has changed is overwritten."""
    folder = root / "build" / "lab"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        marks = dict(json.loads((folder / MARKS).read_text()))
    except (OSError, ValueError, TypeError):
        marks = {}
    said = []
    for origin in [root / "notebooks" / f"{chapters.START}.ipynb", *chapters.sources(root)]:
        content = origin.read_bytes()
        digest, copy = hashlib.sha256(content).hexdigest(), folder / origin.name
        here = hashlib.sha256(copy.read_bytes()).hexdigest() if copy.is_file() else None
        if here == digest:
            marks[origin.name] = digest
        elif here in (None, marks.get(origin.name)):
            write_atomically(copy, content)
            marks[origin.name] = digest
        elif marks.get(origin.name) != digest:  # both have changed
            beside = copy.with_suffix(".new.ipynb")
            write_atomically(beside, content)
            marks[origin.name] = digest
            said.append(f"{copy.name} was worked in and stays; the chapter as it is now: {beside.name}")
        else:
            said.append(f"{copy.name} was worked in and stays")
    write_atomically(folder / MARKS, json.dumps(marks, indent=1).encode())
    return said


def command(root: Path = ROOT, further: list[str] | None = None) -> list[str]:
    """The command that opens JupyterLab at the start notebook; as root too, which it refuses unless told."""
    allow = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    start = f"--LabApp.default_url=/lab/tree/build/lab/{chapters.START}.ipynb"
    lab = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", start]
    return [*lab, *allow, *(further or [])]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def main(
    context: typer.Context,
    only_copy: Annotated[bool, typer.Option("--only-copy", help="make the copies, and do not start JupyterLab")] = False,
) -> None:
    """Open copies of the chapters in JupyterLab. Further options are JupyterLab's, such as --no-browser."""
    for line in copies():
        print(line)
    if not only_copy:
        arguments = command(further=context.args)
        # Kernels share the cores with the browser and with one another: threads that spin while they wait would take them away.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.chdir(ROOT)
        os.execv(arguments[0], arguments)


if __name__ == "__main__":
    app(prog_name="bnn lab")
