"""``python -m bnnlib.report`` is ``bnn report``: see :mod:`bnnlib.book.readme`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("report")
