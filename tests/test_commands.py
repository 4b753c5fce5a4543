"""Every command that a text of this repository tells the reader to run exists."""

import importlib.util
import re
from pathlib import Path

import nbformat

from bnnlib import cli

ROOT = Path(__file__).resolve().parents[1]
TEXTS = sorted(
    path
    for pattern in ("*.md", "book/*.md", "notebooks/*.ipynb", "bnnlib/**/*.py")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # it tells of commands that were
)
OURS = {*cli.MODULES, "recipes"}


def text_of(path):
    if path.suffix != ".ipynb":
        return path.read_text()
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells)


def commands(text):
    """What stands in code: `bnn ...`, ``bnn ...``, or a line of a block that starts with it."""
    return re.findall(r"(?:`|^\s*)((?:bnn|make|python -m bnnlib)[\w.]* ?[\w.-]*(?: [\w.-]+)?)", text, re.MULTILINE)


def missing(command):
    """The command that is none of ours, or an empty string."""
    words = command.split()
    if words[0] == "bnn":
        two, one = " ".join(words[1:3]), words[1] if len(words) > 1 else ""
        return "" if two in OURS or one in OURS or one in ("", "bench", "ARGUMENTS") or one[0] == "-" else command
    if words[0] == "python":
        name = words[2].rstrip(".")
        try:
            return "" if importlib.util.find_spec(name) else command
        except ModuleNotFoundError:
            return command
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return "" if len(words) < 2 or words[1] in targets else command


def test_a_command_that_is_none_is_found():
    text = "`bnn run FILE`, `bnn bench gpu`, ``python -m bnnlib.bench_onnx 2``, `make bok`\n\n```sh\nbnn trian s4\nmake book\n```\nto make it"
    assert [c for c in map(missing, commands(text)) if c] == ["bnn run FILE", "python -m bnnlib.bench_onnx 2", "make bok", "bnn trian s4"]


def test_commands_exist():
    found = {path.name: [c for c in map(missing, commands(text_of(path))) if c] for path in TEXTS}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
