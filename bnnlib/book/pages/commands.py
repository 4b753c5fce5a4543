"""The reference of the command line: what ``--help`` of every command prints.

Help is collected in a process of its own, where Typer draws no boxes (``python -m bnnlib.book.pages.commands``
prints it as JSON).
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import runpy
import subprocess
import sys

from bnnlib.paths import ROOT

_COLUMNS = 76


@functools.cache
def helps() -> dict[str, str]:
    """Command, subcommands included, to its help."""
    environment = os.environ | {
        "TYPER_USE_RICH": "0",
        "COLUMNS": str(_COLUMNS),
        "TERMINAL_WIDTH": str(_COLUMNS),
    }
    command = [sys.executable, "-W", "ignore", "-m", "bnnlib.book.pages.commands"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"no help from the command line: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def page() -> str:
    """The page, as MyST."""
    parts = [
        "# Command line\n\n`bnn` is one command in front of all that the library does. `python -m bnnlib train` is "
        "`bnn train`, and so for every command. Some commands also have a module of their name: "
        "`python -m bnnlib.train`, `.report`, `.data`, `.deploy`, `.verify`, `.gradients`, `.chapters` and `.book`. "
        "Three modules have other names: `python -m bnnlib.ops` is `bnn kernels`, `python -m bnnlib.bench` is "
        "`bnn bench kernels`, and `python -m bnnlib.bench_deploy` is `bnn bench networks`."
    ]
    for command, told in helps().items():
        if command == "":
            parts.append(f"```text\n{told}\n```")
            continue
        parts.append(f"{'###' if ' ' in command else '##'} bnn {command}\n\n```text\n{told}\n```")
    return "\n\n".join(parts) + "\n"


def _help(arguments: list[str]) -> str:
    """What ``bnn ARGUMENTS --help`` prints."""
    out = io.StringIO()
    before = sys.argv
    sys.argv = ["bnn", *arguments, "--help"]
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module("bnnlib.cli", run_name="__main__", alter_sys=True)
    except SystemExit:
        pass
    finally:
        sys.argv = before
    return re.sub(r"python -m bnnlib\.(?:bnn|cli)\b", "bnn", out.getvalue().strip().replace(f"{ROOT}/", ""))


def _subcommands(told: str) -> list[str]:
    """The commands that a help lists.

    >>> _subcommands("Usage: x\\n\\nCommands:\\n  run    Run it.\\n         More.\\n  info  Tell.\\n\\nx")
    ['run', 'info']
    """
    listed = re.search(r"^Commands:\n((?:  .*\n?)+)", told, re.MULTILINE)
    return re.findall(r"^  (\w[\w-]*)(?:  |$)", listed[1], re.MULTILINE) if listed else []


def collect() -> dict[str, str]:
    """The help of all commands, depth first."""
    found: dict[str, str] = {}

    def visit(command: list[str]) -> None:
        found[" ".join(command)] = told = _help(command)
        for each in _subcommands(told):
            visit([*command, each])

    visit([])
    return found


if __name__ == "__main__":
    json.dump(collect(), sys.stdout)
