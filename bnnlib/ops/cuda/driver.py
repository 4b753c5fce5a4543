"""Kernels loaded into a GPU and launched, by CUDA's driver, on PyTorch's current stream."""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from bnnlib.ops.cuda import nvrtc
from bnnlib.ops.cuda.nvrtc import CudaError


@cache
def library() -> ctypes.CDLL:
    """CUDA's driver. Raises :class:`CudaError` where there is none."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    raise CudaError("there is no CUDA driver here (libcuda.so.1 not found)")


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        library().cuGetErrorString(status, ctypes.byref(text))
        raise CudaError(f"{what} failed: {(text.value or b'error ' + str(status).encode()).decode()}")


UNIT_OF = {"bnn_pack": "pack", "bnn_prepack": "pack", "bnn_tap_counts": "pack", "bnn_or_pool": "pack", "bnn_product_tiles": "tiles"}


def unit_of(kernel: str) -> str:
    """The unit that holds a kernel."""
    return UNIT_OF.get(kernel) or ("peaks" if kernel.startswith("bnn_peak") else "product")


class Driver:
    """One GPU. ``launch`` is all that :class:`~bnnlib.ops.cuda.backend.Cuda` asks of a device; tests have another, which
    runs the same kernels on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        major, minor = torch.cuda.get_device_capability(device)
        self.capability = (major, minor)
        if major < 8:
            raise CudaError(
                f"the CUDA kernels need compute capability 8.0 or more; {torch.cuda.get_device_name(device)} has {major}.{minor}"
            )
        self.multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self._context = _context(device)
        self._modules: dict[str, ctypes.c_void_p] = {}
        self._functions: dict[str, ctypes.c_void_p] = {}

    @property
    def target(self) -> str:
        """What the kernels are compiled for: machine code of this GPU, or PTX where NVRTC is older than the GPU."""
        number = self.capability[0] * 10 + self.capability[1]
        known = nvrtc.supported()
        return f"sm_{number}" if number in known else f"compute_{max(n for n in known if n <= number)}"

    def _function(self, kernel: str) -> ctypes.c_void_p:
        if kernel not in self._functions:
            unit = unit_of(kernel)
            if unit not in self._modules:
                image, module = nvrtc.code(unit, self.target), ctypes.c_void_p()
                _check(library().cuModuleLoadData(ctypes.byref(module), image), "cuModuleLoadData")
                self._modules[unit] = module
            function = ctypes.c_void_p()
            _check(library().cuModuleGetFunction(ctypes.byref(function), self._modules[unit], kernel.encode()), kernel)
            self._functions[kernel] = function
        return self._functions[kernel]

    def launch(self, kernel: str, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: ctypes.Structure) -> None:
        """Start ``kernel`` on the current stream of this device; returns before it has run."""
        cuda = library()
        # PyTorch's own context of this device, whatever device or thread the caller is on
        _check(cuda.cuCtxPushCurrent_v2(self._context), "cuCtxPushCurrent")
        try:
            function = self._function(kernel)
            stream = ctypes.c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
            pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
            _check(cuda.cuLaunchKernel(function, *grid, *block, 0, stream, pointers, None), kernel)
        finally:
            cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _context(device: torch.device) -> ctypes.c_void_p:
    """The primary context of a device, which PyTorch uses too; kept until the process ends."""
    number, context = ctypes.c_int(), ctypes.c_void_p()
    _check(library().cuInit(0), "cuInit")
    _check(library().cuDeviceGet(ctypes.byref(number), device.index), "cuDeviceGet")
    _check(library().cuDevicePrimaryCtxRetain(ctypes.byref(context), number), "cuDevicePrimaryCtxRetain")
    return context
