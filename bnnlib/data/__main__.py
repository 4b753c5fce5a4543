"""`python -m bnnlib.data`: say which data sets are here, or fetch one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnnlib import printable
from bnnlib.data import registry
from bnnlib.data.errors import DataError, DataNotFound
from bnnlib.data.lazy import LazySplit

app = typer.Typer(help="Say which data sets are here, or fetch one.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Root = Annotated[
    Path | None, typer.Option(help="Folder that holds the sets.", show_default="$BNN_DATA, else the cache folder")
]
NAMES = ", ".join(registry.NAMES)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help=f"One of {NAMES}.")], root: Root = None) -> None:
    """Download a data set, or say where it is already."""
    try:
        registry.check(name)
        if name in registry.SOURCES:
            typer.echo(f"{name}: {registry.find(name, root, fetch=True, progress=True)}")
        else:
            typer.echo(f"{name}: nothing to fetch")
    except (DataNotFound, DataError, ValueError) as error:
        _fail(error)


@app.command()
def info(
    name: Annotated[
        str | None, typer.Argument(help=f"One of {NAMES}; without it, which sets are here.")
    ] = None,
    root: Root = None,
) -> None:
    """Paths, sizes and the fingerprint of a data set. Nothing is downloaded."""
    if name is None:
        where, said_by = registry.data_root(root)
        typer.echo(f"{where} ({said_by})")
        for each in registry.SOURCES:
            typer.echo(f"  {each:14} {registry.SOURCES[each].find(where) or 'not here'}")
        typer.echo(f"  {'digits':14} embedded")
        return
    try:
        data = registry.load(name, root, download=False)
        typer.echo(f"name         {printable(data.name)}")
        if name in registry.SOURCES:
            typer.echo(f"path         {registry.find(name, root)}")
        for part in ("train", "test"):
            typer.echo(f"{part:12} {_describe(getattr(data, part))}")
        typer.echo(f"classes      {len(data.classes)}: {printable(', '.join(data.classes[:10]))}{_more(data.classes)}")
        typer.echo(f"mean, std    {data.mean}, {data.std}")
        for part in ("train", "test"):
            typer.echo(f"{part:12} {getattr(data, part).fingerprint}")
        typer.echo(f"fingerprint  {data.fingerprint}")
    except (DataNotFound, DataError, ValueError) as error:
        _fail(error)


def _describe(split) -> str:
    if isinstance(split, LazySplit):
        return f"{len(split)} images, {split.sizes.sum() / 1e6:.1f} MB of files, decoded lazily"
    shape = " x ".join(map(str, split.shape))
    return f"{len(split)} images of {shape}, {split.images.nbytes / 1e6:.1f} MB in memory"


def _more(classes: tuple[str, ...]) -> str:
    return ", ..." if len(classes) > 10 else ""


def _fail(error: Exception) -> None:
    typer.echo(printable(f"error: {error}"), err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="bnn data")
