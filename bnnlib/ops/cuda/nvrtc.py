"""CUDA C++ to PTX or to machine code, by NVIDIA's run-time compiler (NVRTC). It needs no GPU."""

from __future__ import annotations

import ctypes
import hashlib
import stat
from functools import cache
from importlib import metadata
from pathlib import Path

from bnnlib import native
from bnnlib.storage import write_atomically

SOURCES = native.SOURCES / "cuda"
UNITS = ("pack", "product", "tiles", "peaks")
"""Each is compiled apart, when one of its kernels is first asked for."""
_OPTIONS = ("--std=c++17", "--fmad=false")


class CudaError(RuntimeError):
    """Something of CUDA is missing or failed; the message says what and what to do."""


@cache
def library() -> ctypes.CDLL:
    """NVRTC, from PyTorch's packages or the system. Raises :class:`CudaError`."""
    for folder in _folders():
        found = sorted(folder.glob("libnvrtc.so.*"), reverse=True)
        if found:
            # which NVRTC looks for by name alone
            for builtins in folder.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(found[0]))
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    raise CudaError(
        "the CUDA kernels need NVRTC, which PyTorch's builds for CUDA bring along (pip install nvidia-cuda-nvrtc)"
    )


def _folders() -> list[Path]:
    """Where installed packages keep NVRTC."""
    folders = []
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        folders += [Path(str(f.locate())).parent for f in files if f.name.startswith("libnvrtc.so")]
    return folders


def version() -> tuple[int, int]:
    """NVRTC's version, as (13, 0)."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


@cache
def supported() -> tuple[int, ...]:
    """The architectures that this NVRTC knows, as 90 for compute capability 9.0."""
    count = ctypes.c_int()
    _check(library().nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
    found = (ctypes.c_int * count.value)()
    _check(library().nvrtcGetSupportedArchs(found), "nvrtcGetSupportedArchs")
    return tuple(found)


def compile(unit: str, target: str, sources: Path = SOURCES) -> bytes:
    """``unit`` (one of ``UNITS``) for ``target``: machine code for ``sm_90``, PTX for ``compute_90``. Raises
    :class:`CudaError` with the compiler's words."""
    if not (sources / f"{unit}.cu").is_file():
        raise CudaError(f"the CUDA sources are missing: no {unit}.cu in {sources}")
    nvrtc, program = library(), ctypes.c_void_p()
    source = f'#include "{unit}.cu"\n'.encode()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, f"{unit}-unit.cu".encode(), 0, None, None), "nvrtcCreateProgram")
    try:
        options = [o.encode() for o in (f"--gpu-architecture={target}", f"--include-path={sources}", *_OPTIONS)]
        status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status:
            said = _text(program, "ProgramLog").decode(errors="replace").strip()
            raise CudaError(f"{unit}.cu does not compile for {target}: " + " | ".join(said.splitlines()[:4])[:800])
        return _text(program, "PTX" if target.startswith("compute") else "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library(), f"nvrtcGet{what}")(program, buffer), what)
    return buffer.raw if what == "CUBIN" else buffer.raw.rstrip(b"\0")


def _check(status: int, what: str) -> None:
    if status:
        library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CudaError(f"{what} failed: {library().nvrtcGetErrorString(status).decode()}")


def key(target: str, sources: Path = SOURCES) -> str:
    """Names what compiled code depends on: every source file, target, options, compiler."""
    digest = hashlib.sha256()
    for path in sorted(p for p in sources.iterdir() if p.suffix in (".cu", ".cuh")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(f"{target} {_OPTIONS} {version()}".encode())
    return digest.hexdigest()[:20]


def code(unit: str, target: str, sources: Path = SOURCES) -> bytes:
    """As :func:`compile`, from the cache of the native kernels if it is there: a file of the user's own that no other may
    write. What is read there has the SHA-256 that stands before it, or is compiled anew."""
    folder = native.cache_folder() / f"cuda-{key(target, sources)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if reason := native.tightened(folder):
        raise CudaError(f"{folder} {reason}, and code in it could be anything: remove it")
    path = folder / f"{unit}.{target}"
    found = _read(path)
    if found is None:
        found = compile(unit, target, sources)
        write_atomically(path, hashlib.sha256(found).digest() + found, mode=0o600)
    return found


def _read(path: Path) -> bytes | None:
    try:
        if native.unsafe(path, stat.S_ISREG):
            return None
        whole = path.read_bytes()
    except OSError:
        return None
    return whole[32:] if hashlib.sha256(whole[32:]).digest() == whole[:32] else None
