"""Compile the native kernels on first use, keep them in the user's cache, load them, choose among their variants. Needs no PyTorch.

The sources in ``kernels/`` are copied into a folder of the cache named after their content, the Python ABI,
the machine and the compiler with its version, built there by cppimport, and loaded from there ever after. So an
edit of any header builds anew, as does another compiler; a library made for another Python or machine is never
picked up, and the installation itself may be read-only. Where there is no compiler any more, what one has built serves, and so it does
where the cache cannot be written any more.
Processes that import at once wait for one another on a file lock; a library
appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from bnnlib import paths

NAME = "bnn_kernels"
_HERE = Path(__file__).resolve()
# beside the library in a checkout, inside it in a wheel
SOURCES = next(
    (folder / "kernels" for folder in (_HERE.parents[1], _HERE.parent) if (folder / "kernels" / f"{NAME}.cpp").is_file()),
    _HERE.parents[1] / "kernels",
)
LIBRARY = NAME + (sysconfig.get_config_var("EXT_SUFFIX") or ".so")
TRAILER = b"cppimport"  # cppimport ends a library that was built to the last byte with this


_WRITABLE = "can be written by others"


class BuildError(ImportError):
    """The kernels could not be compiled or loaded; the message says why and what to do."""


def _wanted_folder() -> Path:
    """``$BNN_KERNEL_CACHE``, else ``bnnlib/kernels`` in the user's cache; an absolute path, since the compiler starts elsewhere."""
    chosen = os.environ.get("BNN_KERNEL_CACHE")
    return (Path(chosen).expanduser() if chosen else paths.cache("kernels")).absolute()


def cache_folder() -> Path:
    """Where kernels are compiled and kept: ``$BNN_KERNEL_CACHE``, else ``bnnlib/kernels`` in the user's cache, else
    a private temporary folder.
    """
    chosen, base = os.environ.get("BNN_KERNEL_CACHE"), _wanted_folder()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base):
            pass
    except OSError as error:
        if chosen:
            raise BuildError(f"BNN_KERNEL_CACHE={chosen} cannot be written: {error}") from error
    else:
        reason = unsafe(base, stat.S_ISDIR) if chosen else tightened(base)
        if not reason:
            return base
        if chosen:
            raise BuildError(
                f"BNN_KERNEL_CACHE={chosen} {reason}, and a library in it could be anything: "
                "set it to a folder of your own (chmod go-w makes yours safe)"
            )
    try:
        private = Path(tempfile.gettempdir()) / f"bnnlib-kernels-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BuildError(f"the kernels can be kept neither in {base} nor elsewhere ({error}): set BNN_KERNEL_CACHE to a folder of your own") from error
    if reason := unsafe(private, stat.S_ISDIR):
        raise BuildError(f"{private} {reason}; set BNN_KERNEL_CACHE to a folder that you alone can write")
    return private


def unsafe(path: Path, kind: Callable[[int], bool]) -> str:
    """Why others than root may have made what lies there, or may change it; empty where they cannot. Links are not followed."""
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        return "is a link"
    if not kind(about.st_mode):
        return "is no folder" if kind is stat.S_ISDIR else "is no regular file"
    if about.st_uid not in (os.getuid(), 0):
        return "belongs to another user"
    return _WRITABLE if about.st_mode & 0o022 else ""


def tightened(folder: Path) -> str:
    """Takes the right to write from others where a umask of 002 gave it to them; what :func:`unsafe` says of the folder then."""
    if unsafe(folder, stat.S_ISDIR) == _WRITABLE:
        folder.chmod(0o700)
    return unsafe(folder, stat.S_ISDIR)


def source_files(sources: Path = SOURCES) -> list[Path]:
    """Every C++ file of the folder and of those below it, but for what cppimport rendered."""
    found = (path for path in sources.rglob("*") if path.suffix in {".h", ".inl", ".cpp"})
    return sorted(path for path in found if not path.name.startswith("."))


def compiler() -> str:
    """The C++ compiler that is asked for."""
    return ((os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "").split() or ["c++"])[0]


@cache
def version(compiler: str) -> str:
    """The first line of what the compiler says of its version; empty where it cannot be run."""
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, errors="replace", timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.partition("\n")[0].strip()


def key(sources: Path = SOURCES) -> str:
    """Names what a library depends on: every source file (compile flags are in one of them), Python,
    machine, and, behind a hyphen, the compiler's version, where there is a compiler.
    """
    digest = hashlib.sha256()
    for path in source_files(sources):
        digest.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes() + b"\0")
    for fact in (
        sysconfig.get_config_var("EXT_SUFFIX"),
        platform.machine(),
        os.environ.get("CXX", ""),
        os.environ.get("CFLAGS", ""),
    ):
        digest.update(str(fact).encode() + b"\0")
    said = version(compiler())
    return digest.hexdigest()[:20] + (f"-{hashlib.sha256(said.encode()).hexdigest()[:8]}" if said else "")


def library_file(base: Path, sources: Path = SOURCES) -> Path:
    """Where the library lies, or will, in the cache ``base``."""
    named = base / key(sources) / LIBRARY
    if version(compiler()):
        return named
    built = [file for file in base.glob(f"{named.parent.name}-*/{LIBRARY}") if _complete(file)]
    return max(built, key=lambda file: file.stat().st_mtime, default=named)


def load(sources: Path = SOURCES) -> ModuleType:
    """The compiled module; builds it if need be. Raises :class:`BuildError`."""
    if not (sources / f"{NAME}.cpp").is_file():
        raise BuildError(f"the kernel sources are missing: no {NAME}.cpp in {sources}")
    # what is built may lie where this process cannot write
    built = library_file(_wanted_folder(), sources)
    if _complete(built):
        # it may be complete, and yet not for this process: built with another C++ runtime, damaged, ...
        with contextlib.suppress(ImportError):
            return open_library(built)
    base = cache_folder()
    try:
        return _build_once(sources, library_file(base, sources))
    except OSError as error:
        raise BuildError(f"the kernels cannot be built in {base}: {error.strerror or error}") from error


def _build_once(sources: Path, library: Path) -> ModuleType:
    """The module in ``library``, built if no other process has done so meanwhile."""
    library.parent.mkdir(mode=0o700, exist_ok=True)
    if reason := tightened(library.parent):
        raise BuildError(f"{library.parent} {reason}, and a library in it could be anything: remove it")
    import filelock

    with filelock.FileLock(f"{library.parent}.lock"):
        if _complete(library):  # another process may have built it while this one waited
            try:
                return open_library(library)
            except ImportError:
                library.unlink()
        for left in library.parent.glob("build-*"):  # by a process that was killed: this one holds the lock
            shutil.rmtree(left, ignore_errors=True)
        build_library(sources, library)
        try:
            return open_library(library)
        except ImportError as error:
            raise BuildError(f"the kernels were built but cannot be loaded: {error}") from error


@cache
def kernels() -> ModuleType:
    """What :func:`load` loads, once in a process. Raises :class:`BuildError`."""
    return load()


def choose(wanted: str, *others: str) -> str:
    """The kernel variant named ``wanted`` (``BNN_KERNEL``'s), or, if that is empty, the best that the CPU and its operating
    system support. Raises :class:`BuildError` where there are no kernels, and ``RuntimeError`` for a variant that cannot
    run here; that names those that can, and ``others``, which the caller has beside them."""
    known = kernels().variants()
    usable = [name for name, _, supported in known if supported]
    if not wanted:
        return usable[0]
    if wanted in usable:
        return wanted
    lacking = next((needs for name, needs, _ in known if name == wanted), None)
    why = "names no kernel variant" if lacking is None else f"needs {lacking}, which this CPU or its operating system lacks"
    raise RuntimeError(f"BNN_KERNEL={wanted} {why}; usable here: {', '.join([*usable, *others])}")


def _complete(library: Path) -> bool:
    """Built to the last byte, by this user or root, and changed by no other."""
    try:
        if any(unsafe(folder, stat.S_ISDIR) for folder in (library.parents[1], library.parent)) or unsafe(library, stat.S_ISREG):
            return False
        with library.open("rb") as file:
            file.seek(-len(TRAILER), os.SEEK_END)
            return file.read() == TRAILER
    except OSError:
        return False


def open_library(library: Path) -> ModuleType:
    """The module in the shared library ``library``, loaded."""
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(library))
    spec = importlib.util.spec_from_file_location(NAME, library, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def build_library(sources: Path, library: Path) -> None:
    """Build in a folder of its own and a process of its own (a failed compile ends in SystemExit;
    setuptools reads the current folder).
    """
    if "ipykernel" not in sys.modules:  # a chapter prints no such lines
        print(f"compiling bnnlib's kernels once, which takes a minute or more: {library.parent}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as folder:
        for path in source_files(sources):
            copy = Path(folder) / path.relative_to(sources)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        program = "import cppimport, sys; cppimport.build_filepath(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", program, str(Path(folder) / f"{NAME}.cpp")],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        built = Path(folder) / library.name
        if built.is_file():
            built.chmod(0o700)
        if done.returncode or not _complete(built):
            said = (done.stderr + done.stdout).strip()
            if "No module named 'cppimport'" in said or "No module named 'pybind11'" in said:
                raise BuildError(
                    "the packages cppimport and pybind11 are needed to compile the kernels "
                    "(pip install cppimport pybind11)"
                )
            if shutil.which(compiler()) is None:
                raise BuildError(
                    f"there is no C++ compiler ({compiler()} not found; "
                    "on Debian or Ubuntu: apt-get install g++)"
                )
            errors = [line for line in said.splitlines() if "error" in line.lower()] or said.splitlines()
            raise BuildError("the kernels do not compile: " + " | ".join(errors[:3])[:800])
        os.replace(built, library)
