"""Where results lie: in the checkout that holds the library, else below the folder in which Python was started. Where the
user's cache lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import platformdirs

_ABOVE = Path(__file__).resolve().parents[1]
ROOT = _ABOVE if (_ABOVE / "pyproject.toml").is_file() else Path.cwd()
RESULTS = ROOT / "results"


def cache(name: str) -> Path:
    """The folder ``name`` (data, kernels, runs) in the user's cache: on Linux ``$XDG_CACHE_HOME/bnnlib/<name>``, else
    ``~/.cache/bnnlib/<name>``. Nothing is made."""
    return platformdirs.user_cache_path("bnnlib", appauthor=False) / name


def folder_to_write(folder: Path | None) -> Path | None:
    """The ``callback=`` of an option that names a folder for results: nothing is measured for hours and then lost, because a
    file lies there."""
    for path in () if folder is None else (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            import typer  # of the command line alone

            raise typer.BadParameter(f"{path} is a file: name a folder")
    return folder


def folder_option(help: str, *names: str, show_default: str | bool = True) -> Any:
    """An option of a command line that names a folder for results."""
    import typer  # of the command line alone

    return typer.Option(*names, file_okay=False, callback=folder_to_write, help=help, show_default=show_default)
