"""What a run prints while it goes on."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any


class StandardError:
    """The standard error as far as it goes: what cannot be written (a pipe that was closed, a full disk) is dropped, and
    the training goes on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # the last: a process without standard error
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
