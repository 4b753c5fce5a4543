"""``python -m bnnlib.ops``: the kernel variants, best first, and which of them this machine runs."""

from __future__ import annotations

import sys

from bnnlib.ops import _backend, _build


def main() -> int:
    try:
        rows = _backend.variants()
    except _build.BuildError as error:
        print(f"no compiled kernels: {error}")
        rows = []
    try:
        chosen = _backend.backend().variant
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for name, needs, supported in [*rows, (_backend.Fallback.variant, "nothing; slow", True)]:
        note = "<- in use" if name == chosen else "" if supported else "not on this CPU"
        print(f"{name:18} {needs:34} {note}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
