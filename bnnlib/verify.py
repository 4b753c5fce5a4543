"""``python -m bnnlib.verify`` is ``bnn verify``: see :mod:`bnnlib.benchmarks.verify`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("verify")
