"""The code that a run is made by: a hash of each file that its net is built from and trained by.

A checkpoint holds these hashes, so that a run is not taken up, or handed out as finished, after an edit that would have
made it another. Comments, docstrings and layout do not count. The native kernels are left out: they count bits exactly,
and their tests hold them to that.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

from bnnlib import models
from bnnlib.recipes import Recipe

PACKAGE = Path(__file__).resolve().parents[1]
# Files of the library that every run goes through; of the nets, its own and what nets share. Readers of data sets are not
# among them: what they read has a fingerprint of its own.
_SHARED = (
    "quantizers.py", "packing.py", "layers/**/*.py",
    "ops/_common.py", "ops/_packed.py", "ops/_packing.py", "ops/_training.py", "ops/precision.py",
    "models/__init__.py", "models/blocks.py",
    *(f"data/{name}.py" for name in ("augment", "batches", "colour", "evaluate", "geometry", "lazy", "random", "splits")),
    *(f"data/{name}.py" for name in ("transforms", "views", "whitening")),
    *(f"training/{name}.py" for name in ("building", "diagnostics", "loop", "meters", "objectives", "schedules", "setup", "steps")),
)  # fmt: skip


def _files() -> dict[str, bytes]:
    found = sorted({path for pattern in (*_SHARED, "models/*.py") for path in PACKAGE.glob(pattern)})
    names = {path.relative_to(PACKAGE).as_posix(): path for path in found}
    return {name: path.read_bytes() for name, path in names.items()}


# Read when training is imported: an edit made later, in a notebook say, is not what this process runs.
_LOADED = _files()
_HASHES: dict[str, str] = {}


def hashes(recipe: Recipe) -> dict[str, str]:
    """File of the library, or the file of a builder that lies elsewhere, to the hash of its code."""
    builder = models.BUILDERS.get(recipe.model.name)
    own = _file_of(builder)
    shared = ("models/__init__.py", "models/blocks.py")
    wanted = [name for name in _LOADED if not name.startswith("models/") or name in shared]
    found = {}
    if own is not None and own.is_relative_to(PACKAGE):
        wanted.append(own.relative_to(PACKAGE).as_posix())
    elif own is not None:
        found[own.name] = hash_of(own.read_bytes())
    elif builder is not None:  # made in a notebook's cell
        found[recipe.model.name] = hash_of(_source(builder))
    for name in wanted:
        if name in _LOADED:
            if name not in _HASHES:
                _HASHES[name] = hash_of(_LOADED[name])
            found[f"bnnlib/{name}"] = _HASHES[name]
    return found


def changed(then: Any, now: dict[str, str]) -> list[str]:
    """What differs between two answers of :func:`hashes`, by name. Empty where ``then`` is None: a checkpoint of a
    version that did not keep them."""
    if then is None:
        return []
    if not isinstance(then, dict):
        raise ValueError(f"its code is a {type(then).__name__}, not a dict")
    return sorted(str(name) for name in {*then, *now} if then.get(name) != now.get(name))


def hash_of(source: bytes) -> str:
    """A hash of Python code that comments, docstrings and layout leave as it is, the same in every version of Python.

    >>> hash_of(b"x = 1  # one") == hash_of(b"x=1") != hash_of(b"x = 2")
    True
    """
    return hashlib.sha256(repr(_plain(ast.parse(source))).encode()).hexdigest()[:16]


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples, without positions, docstrings and fields that are empty."""
    if isinstance(node, list):
        return tuple(_plain(item) for item in node)
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            fields["body"] = node.body[1:]
    if isinstance(node, ast.Constant):
        return ("Constant", repr(node.value))
    skipped = ("ctx", "kind", "type_comment")
    kept = ((key, _plain(value)) for key, value in fields.items() if key not in skipped and value not in (None, []))
    return (type(node).__name__, *kept)


def _file_of(builder: Any) -> Path | None:
    try:
        path = Path(inspect.getsourcefile(inspect.unwrap(builder)) or "").resolve()
    except (TypeError, OSError):
        return None
    return path if path.is_file() else None


def _source(builder: Any) -> bytes:
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(builder))).encode()
    except (TypeError, OSError):
        return b""
