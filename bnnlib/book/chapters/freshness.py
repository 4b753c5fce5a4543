"""Whether an executed chapter is current: digests of all that its output depends on."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat

from bnnlib.book.chapters.notebooks import ChapterError, read, source
from bnnlib.paths import ROOT

# What a chapter's output depends on besides itself, less the modules that only carry chapters around.
_DEPENDS = ("bnnlib", "kernels", "results")
_CARRIERS = (
    *(f"bnnlib/book/chapters/{name}.py" for name in ("__main__", "freshness", "gate", "running")),
    *("bnnlib/book/site.py", "bnnlib/book/pages/"),
)
_PACKAGES = ("torch", "numpy", "matplotlib", "pandas", "ipykernel")
_NOT_SOURCE = {".so", ".pyd", ".o", ".pyc", ".tmp", ".lock"}


def surroundings(root: Path = ROOT) -> str:
    """A digest of all that chapters share: library, kernels, results, versions, and where the data are."""
    digest = hashlib.sha256()
    for folder in _DEPENDS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
            if hidden or path.suffix in _NOT_SOURCE or name.startswith(_CARRIERS) or not path.is_file():
                continue
            digest.update(f"{name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package}={_version(package)}\0".encode())
    digest.update(f"python={sys.version_info[:3]} data={os.environ.get('BNN_DATA')}".encode())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def fingerprint(notebook: nbformat.NotebookNode, values: Mapping[str, Any], shared: str) -> str:
    """A digest of all that an executed chapter depends on; ``shared`` is :func:`surroundings`."""
    cells = [(c.cell_type, c.source, sorted(c.metadata.items(), key=str)) for c in notebook.cells]
    return "sha256:" + hashlib.sha256(repr((cells, sorted(values.items()), shared)).encode()).hexdigest()


def is_current(executed: Path, root: Path = ROOT, shared: str | None = None) -> bool:
    """Whether an executed chapter is what its notebook, library, kernels and results would give now."""
    try:
        done = read(executed)
        origin = read(source(executed.stem, root))
        mark = done.metadata["bnnlib"]
        return mark["inputs"] == fingerprint(origin, mark["parameters"], shared or surroundings(root))
    except (ChapterError, KeyError):
        return False
