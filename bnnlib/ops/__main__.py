"""``python -m bnnlib.ops``: compile the kernels if need be, list the variants, best first, and which of them this
machine runs. Status 1 where they do not compile, unless ``BNN_KERNEL=pytorch`` says that none are wanted."""

from __future__ import annotations

import os
import sys

import typer

from bnnlib import native
from bnnlib.ops import _backend

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main() -> None:
    """Compile the native kernels if need be, and list the variants, best first, and which of them this machine runs. Fails where
    they do not compile, unless BNN_KERNEL=pytorch says that none are wanted."""
    rows = []
    try:
        rows = _backend.variants()
    except native.BuildError as error:
        if os.environ.get("BNN_KERNEL") != _backend.Fallback.variant:
            print(f"no compiled kernels: {error}", file=sys.stderr)
            print("Without them everything runs, many times slower, on plain PyTorch; "
                  f"BNN_KERNEL={_backend.Fallback.variant} chooses that.", file=sys.stderr)  # fmt: skip
            raise typer.Exit(1) from None
    try:
        chosen = _backend.backend().variant
    except RuntimeError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{'kernel variant':18} needs")
    for name, needs, supported in [*rows, (_backend.Fallback.variant, "no compiler; many times slower", True)]:
        note = "<- in use" if name == chosen else "" if supported else "not on this CPU"
        print(f"{name:18} {needs:34} {note}".rstrip())


if __name__ == "__main__":
    app(prog_name="bnn kernels")
