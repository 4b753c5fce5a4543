"""``bnn``: one command line in front of everything that the library does.

Each command belongs to a module with a command line of its own, which is imported only when the command is given; so
``bnn --help`` answers at once. ``python -m bnnlib train`` is ``bnn train``, and so for every command. Some
commands also have a module of their name: ``python -m bnnlib.train``, ``.report``, ``.data``, ``.deploy``,
``.verify``, ``.gradients``, ``.chapters``, ``.book``. Of other names are ``.ops`` for ``bnn kernels``, ``.bench``
for ``bnn bench kernels`` and ``.bench_deploy`` for ``bnn bench networks``.
"""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from bnnlib import standins

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Binary neural networks, reproduced: recipes, training, records, packed networks, benchmarks, the book.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure this machine: kernels, a GPU, whole packed networks, or training.")

# command: module, what it does
MODULES = {
    "train": ("bnnlib.training.cli", "Train a recipe; the same command resumes a run that was stopped."),
    "runs": ("bnnlib.experiments.folders", "List the run folders: epoch, last accuracy, time left."),
    "compare": ("bnnlib.experiments.pair", "Put the figures and curves of two runs side by side."),
    "plan": ("bnnlib.experiments.plan", "Say which runs have no record yet, and how many hours they take."),
    "report": ("bnnlib.book.readme", "Print the scoreboard, or write it into a file."),
    "data": ("bnnlib.data.__main__", "Say which data sets are here, or fetch one."),
    "deploy": ("bnnlib.deploy.__main__", "Pack a trained network, look into a packed file, run one on images."),
    "verify": ("bnnlib.benchmarks.verify", "Compare packed networks with PyTorch on the whole test set."),
    "gradients": ("bnnlib.book.studies.gradient_runs", "Compare the gradients of the scaled sign along short runs, and time them."),
    "chapters": ("bnnlib.book.chapters.__main__", "Run the book's chapters, or check them."),
    "lab": ("bnnlib.book.lab", "Open copies of the chapters in JupyterLab."),
    "book": ("bnnlib.book.site", "Build the book into build/html."),
    "kernels": ("bnnlib.ops.__main__", "Compile the native kernels and list those that this CPU can run."),
    "bench kernels": ("bnnlib.benchmarks.kernels", "Time the kernels against PyTorch's."),
    "bench gpu": ("bnnlib.benchmarks.gpu", "Time the kernels on this machine's NVIDIA GPU against PyTorch's."),
    "bench networks": ("bnnlib.benchmarks.networks", "Time whole packed networks against PyTorch's."),
    "bench training": ("bnnlib.benchmarks.training_steps", "Time a step of training with the kernels and with PyTorch's convolutions."),
}


def run(command: str, arguments: list[str] | None = None) -> None:
    """Run the module of ``command`` as the main program; ``arguments`` default to those of this process."""
    module, _ = MODULES[command]
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.argv = [f"bnn {command}", *arguments]
    _escape_what_cannot_be_shown()
    if standins.asks_for_help(arguments):
        standins.install()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _escape_what_cannot_be_shown() -> None:
    """In a locale without Unicode a minus sign is printed as ``\\u2212``, and is no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _delegate(command: str) -> Callable[[typer.Context], None]:
    def call(context: typer.Context) -> None:
        run(command, context.args)

    call.__doc__ = MODULES[command][1]
    return call


for _command in MODULES:
    _group, _, _name = _command.rpartition(" ")
    (bench if _group else app).command(
        _name,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_delegate(_command))
app.add_typer(bench, name="bench")


@app.command()
def recipes(
    words: Annotated[list[str] | None, typer.Argument(help="show those alone that hold all of these words")] = None,
) -> None:
    """List the recipes: name, title, source, data, epochs, hours, accuracy of their records, and their packed file."""
    from bnnlib.experiments import catalogue

    typer.echo(catalogue.table(words or []))


def main() -> None:
    """The entry point ``bnn``."""
    _escape_what_cannot_be_shown()
    app()


if __name__ == "__main__":
    main()
