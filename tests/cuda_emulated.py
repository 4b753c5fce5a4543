"""The CUDA kernels on the CPU, for tests without a GPU: ``tests/kernels/cuda_emulate.h`` compiled, as a device that launches them."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from bnnlib.ops.cuda import nvrtc

KERNELS = Path(__file__).parent / "kernels"
COMPILER = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="no C++ compiler")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", f"-I{nvrtc.SOURCES.parent}", f"-I{KERNELS}"]
FLAGS += ["-mpopcnt"] if platform.machine() == "x86_64" else []
try:
    nvrtc.library()
    HAS_NVRTC = True
except nvrtc.CudaError:
    HAS_NVRTC = False
needs_nvrtc = pytest.mark.skipif(not HAS_NVRTC, reason="no NVRTC here: PyTorch's builds for CUDA bring it along")


class Emulated:
    """A device that runs the kernels on the CPU, its threads in one of several orders."""

    capability = (9, 0)

    def __init__(self, library: ctypes.CDLL, multiprocessors: int = 2, order: int = 0) -> None:
        self.library, self.multiprocessors, self.order = library, multiprocessors, order
        self.launched: list[str] = []

    def launch(self, kernel, grid, block, given):
        self.launched.append(kernel)
        three = ctypes.c_int * 3
        wrong = self.library.launch(kernel.encode(), three(*grid), three(*block), ctypes.byref(given), self.order)
        if wrong:
            raise RuntimeError(f"{kernel}: {wrong.decode()}")


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> ctypes.CDLL:
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("cuda") / "emulated.so"
    command = [COMPILER, *FLAGS, "-Werror", "-fPIC", "-shared", str(KERNELS / "cuda_emulate.cpp"), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = ctypes.CDLL(str(path))
    loaded.launch.restype = ctypes.c_char_p
    return loaded
