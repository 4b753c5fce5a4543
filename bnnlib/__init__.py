"""Binary (1-bit, W1A1) neural networks: quantizers, layers, models, training, records and packed
inference."""

import sys

__version__ = "0.1.0"


def printable(text: str) -> str:
    """``text`` with what a terminal would obey (escapes, carriage returns, line breaks) or cannot show as ``\\x1b``:
    for strings that come from files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if getattr(sys, "argv", [])[:1] == ["-m"]:  # as long as Python looks for the module that it is to run
    from bnnlib import standins

    standins.install_for_help_of(sys.orig_argv)
