"""``python -m bnnlib.gradients`` is ``bnn gradients``: see :mod:`bnnlib.book.studies.gradient_runs`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("gradients")
