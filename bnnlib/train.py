"""``python -m bnnlib.train`` is ``bnn train``: see :mod:`bnnlib.training.cli`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("train")
