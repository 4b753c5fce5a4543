"""``python -m bnnlib.bench_deploy`` is ``bnn bench networks``: see :mod:`bnnlib.benchmarks.networks`."""

from bnnlib.cli import run

if __name__ == "__main__":
    run("bench networks")
