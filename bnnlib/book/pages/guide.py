"""The page on nets of one's own: its code is run when the book is built, and what each block prints stands below it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bnnlib import storage
from bnnlib.book.chapters.solutions import as_printed
from bnnlib.paths import ROOT

PAGE = "your-own-net.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# Run in a process of its own: the page changes its folder's files, the number of threads and the registry of nets.
_RUN = """
import contextlib, io, json, sys
names, said = {}, []
for number, code in enumerate(json.load(sys.stdin), 1):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, f"block {number}", "exec"), names)
    said.append(out.getvalue())
json.dump(said, sys.stdout)
"""


class GuideError(Exception):
    """A block of the page's code that fails; the message has Python's last words."""


def blocks(text: str) -> list[str]:
    """The page's blocks of Python, in order."""
    return _BLOCK.findall(text)


def run(text: str, root: Path = ROOT) -> list[str]:
    """What each block prints, run in order in an empty folder, without data sets. Raises :class:`GuideError`."""
    with tempfile.TemporaryDirectory(prefix="bnn-") as folder:
        path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
        environment = os.environ | {"PYTHONPATH": path, "BNN_DATA": f"{folder}/none", "BNN_RUNS": f"{folder}/runs", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", _RUN], input=json.dumps(blocks(text)), cwd=folder, env=environment, capture_output=True, text=True
        )
    if done.returncode:
        raise GuideError(f"{PAGE}: " + "\n".join(done.stderr.strip().splitlines()[-6:]))
    return json.loads(done.stdout)


def with_output(text: str, said: list[str]) -> str:
    """``text`` with what each of its blocks printed below it."""
    each = iter(said)

    def shown(found: re.Match[str]) -> str:
        printed = next(each).rstrip()
        return f"{found[0]}\n\n{as_printed(printed)}" if printed else found[0]

    return _BLOCK.sub(shown, text)


def digest(text: str, shared: str) -> str:
    """Of what the output depends on: the page, and :func:`bnnlib.book.chapters.surroundings`."""
    return hashlib.sha256(f"{shared}\0{text}".encode()).hexdigest()


def page(text: str, shared: str, root: Path) -> str:
    """The page ``text`` with its output: that of the last build where nothing has changed (``build/guide.json``)."""
    kept, inputs = root / "build" / "guide.json", digest(text, shared)
    try:
        known = json.loads(kept.read_text())
        said = known["said"] if known["inputs"] == inputs else None
    except (OSError, ValueError, KeyError):
        said = None
    if said is None:
        said = run(text, root)
        storage.write_atomically(kept, json.dumps({"inputs": inputs, "said": said}).encode())
    return with_output(text, said)
