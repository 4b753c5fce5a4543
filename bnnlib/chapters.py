"""``python -m bnnlib.chapters`` is ``bnn chapters``: see :mod:`bnnlib.book.chapters`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("chapters")
