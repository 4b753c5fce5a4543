"""Arrays whose neighbours in memory must not be touched: a process that does ends by SIGSEGV."""

from __future__ import annotations

import ctypes
import math
import mmap

import numpy as np

PAGE = mmap.PAGESIZE


def guarded(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array of ones. Behind its last byte is a page that cannot be read or written, and before the page of its first byte another.
    Raises ``MemoryError``."""
    count, size = math.prod(shape), np.dtype(dtype).itemsize
    room = -(-max(1, count * size) // PAGE) * PAGE
    try:
        memory = mmap.mmap(-1, room + 2 * PAGE)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"{count} values of {size} bytes: {error}") from None
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (first, first + PAGE + room):
        if protect(page, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    array = np.frombuffer(memory, dtype, count, PAGE + room - count * size).reshape(shape)
    array.fill(1)
    return array
