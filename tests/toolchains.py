"""Tools that a machine may lack: without one a test is skipped, or fails where ``BNN_REQUIRE_TOOLS`` is set (``.ci/run`` sets it)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

import pytest

from bnnlib.book.pages import pdf

CHROMIUM = pdf.chromium()
in_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("BNN_REQUIRE_TOOLS"), reason="Chromium is not installed"
)


def need(present: bool, what: str) -> None:
    """Skip, or fail, unless the tool is present."""
    if not present:
        if os.environ.get("BNN_REQUIRE_TOOLS"):
            pytest.fail(f"{what} is missing")
        pytest.skip(f"needs {what}")


def for_arm() -> tuple[str, list[str]]:
    """(emulator, compiler) of 64-bit ARM."""
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    need(qemu is not None, "qemu-aarch64 (Debian: qemu-user)")
    cross = shutil.which("aarch64-linux-gnu-g++")
    zig = importlib.util.find_spec("ziglang") is not None
    need(zig or cross is not None, "ziglang (PyPI) or g++-aarch64-linux-gnu (Debian)")
    return qemu, [cross] if cross else [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl"]
