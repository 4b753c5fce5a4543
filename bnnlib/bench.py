"""``python -m bnnlib.bench`` is ``bnn bench kernels``: see :mod:`bnnlib.benchmarks.kernels`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("bench kernels")
