"""The kernels as WebAssembly, for a page: ``kernels/wasm/module.cpp`` compiled with SIMD by the compiler that PyPI's ziglang brings.

:func:`build` compiles once for a state of the sources, and keeps the module in the kernels' cache. The module imports nothing. It
exports ``memory`` and the functions of ``kernels/wasm/module.cpp``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from bnnlib import native

FEATURES = ("simd128", "bulk_memory", "sign_ext", "nontrapping_fptoint")
"""Of WebAssembly beyond its first version; all of them in Chrome 91, Firefox 89, Safari 16.4 and later."""
FLAGS = (
    *("-target", "wasm32-freestanding", f"-mcpu=generic+{'+'.join(FEATURES)}", "-O3", "-std=c++17"),
    *("-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-ffp-contract=off", "-Wall", "-Werror"),
    *("-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all"),
)


class ModuleError(RuntimeError):
    """The module cannot be compiled; the message says why and what to do."""


def build(sources: Path = native.SOURCES) -> bytes:
    """The module's bytes, compiled at the first call for these sources. Raises :class:`ModuleError`."""
    if importlib.util.find_spec("ziglang") is None:
        raise ModuleError("the page's kernels need the package ziglang to be compiled (pip install ziglang; make env brings it)")
    kept = native.cache_folder() / f"module-{_key(sources)}.wasm"
    if not kept.is_file():
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="wasm-") as folder:
            made = Path(folder) / "module.wasm"
            command = [sys.executable, "-m", "ziglang", "c++", *FLAGS, f"-I{sources}", str(sources / "wasm" / "module.cpp"), "-o", str(made)]
            # its own cache would be one more folder in the user's home
            environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode or not made.is_file():
                errors = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
                raise ModuleError(f"the page's kernels do not compile to WebAssembly: {' | '.join(errors[:2])[:400]}")
            os.replace(made, kept)
    return kept.read_bytes()


def _key(sources: Path) -> str:
    """Names what the module depends on: every source file, the flags, the compiler."""
    digest = hashlib.sha256(f"{FLAGS} {metadata.version('ziglang')}".encode())
    for path in native.source_files(sources):
        digest.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]
