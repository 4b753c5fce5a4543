"""``python -m bnnlib.book`` is ``bnn book``: see :mod:`bnnlib.book.site`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("bnnlib.book.site", run_name="__main__", alter_sys=True)
