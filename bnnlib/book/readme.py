"""What ``README.md`` shows of the records, and the command that prints the scoreboard.

    python -m bnnlib.report                         # the whole scoreboard
    python -m bnnlib.report --write README.md       # the headline results, between the file's markers
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnlib import records, storage
from bnnlib.benchmarks import speedups
from bnnlib.experiments import plan, report, scoreboard, sources

START, END = "<!-- scoreboard:start -->", "<!-- scoreboard:end -->"


def headlines(folder: Path = records.FOLDER) -> str:
    """Figures of sources beside ours, our own nets, and speed-ups of layers, as Markdown. ``folder``: of the records of runs."""
    claimed = round(sources.figure("S2", "operations").value)
    return (
        f"{scoreboard.headline_table(folder, links=True)}\nOur own nets, for which no source has a figure. Accuracy of the last epoch:\n\n"
        f"{scoreboard.own_table(folder)}\nSpeed of single layers, one thread, floats in and out, from the slowest layer to the fastest (S2 claims "
        f"{claimed}×):\n\n{speedups.table(speedups.of_each_cpu())}\n"
    )


def between_markers(text: str, part: str) -> str:
    """``text`` with what stands between its markers replaced by ``part``. Raises ``ValueError`` where the markers are
    not there once each, in order."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the text needs one {START} and, after it, one {END}")
    return text[: text.index(START) + len(START)] + "\n" + part + text[text.index(END) :]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    write: Annotated[
        Path | None, typer.Option(help="put the headline results between this file's markers")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="fail if this file's headline results are not what the records say")
    ] = None,
    folder: Annotated[Path, typer.Option(help="folder of the records", callback=plan.existing)] = records.FOLDER,
) -> None:
    """Print the scoreboard, or write the headline results into a file, or check that a file has them."""
    try:
        for row in report.rows(folder):
            if row.stale:
                print(
                    f"stale: {row.recipe.name} changed since seed {', '.join(map(str, row.stale))} was run",
                    file=sys.stderr,
                )
        if write is None and check is None:
            print(scoreboard.markdown_table(folder))
        for path in (p for p in (write, check) if p is not None):
            text = path.read_text(encoding="utf-8")
            new = between_markers(text, headlines(folder))
            if path == write:
                storage.write_atomically(path, new.encode())
            elif new != text:
                print(
                    f"error: the headline results in {path} are not what the records say: python -m bnnlib.report --write {path}",
                    file=sys.stderr,
                )
                raise typer.Exit(1)
    except BrokenPipeError:  # a reader that stops early (`| head`) is no error
        raise
    except (ValueError, OSError) as error:
        print(f"error: {storage.in_words(error)}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app(prog_name="bnn report")
