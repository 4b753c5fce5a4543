"""Building and loading the kernels: edits rebuild, damage rebuilds, processes race, caches move, compilers
are missing; threads and forks.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from bnnlib import native, ops
from bnnlib.ops import _backend

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

# A module in the kernels' place that compiles in a moment: what is tested here is how it is built.
STUB = """// cppimport
#include "value.h"
#include <Python.h>
static PyObject* variants(PyObject*, PyObject*) { return PyLong_FromLong(VALUE); }
static PyMethodDef methods[] = {{"variants", variants, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "bnn_kernels", nullptr, -1, methods};
PyMODINIT_FUNC PyInit_bnn_kernels() { return PyModule_Create(&definition); }
/*
<%
cfg["dependencies"] = ["value.h"]
%>
*/
"""
# Without PyTorch a process starts in no time.
LOAD = """
import sys
from pathlib import Path
from bnnlib import native
print(native.load(Path(sys.argv[1])).variants())
assert "torch" not in sys.modules
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    sources = tmp_path / "kernels"
    sources.mkdir()
    (sources / "bnn_kernels.cpp").write_text(STUB)
    (sources / "value.h").write_text("#define VALUE 1\n")
    monkeypatch.setenv("BNN_KERNEL_CACHE", str(tmp_path / "cache"))
    return sources


def start(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen) -> str:
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return out.strip()


def belongs_to_another(path: Path, monkeypatch) -> None:
    """Than this process, and than root."""
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        real = Path.lstat
        other = os.stat_result((*path.lstat()[:4], 12345, *path.lstat()[5:]))
        monkeypatch.setattr(native.Path, "lstat", lambda at: other if at == path else real(at))


def libraries(folder: Path) -> list[Path]:
    return list(folder.glob("cache/*/bnn_kernels*"))


@needs_compiler
def test_an_edited_header_builds_anew_and_the_sources_stay_untouched(stub, tmp_path):
    before = sorted(stub.iterdir())
    assert finish(start(LOAD, str(stub))) == "1"
    (stub / "value.h").write_text("#define VALUE 2\n")
    assert finish(start(LOAD, str(stub))) == "2"
    assert sorted(stub.iterdir()) == before  # a read-only installation would do


@needs_compiler
def test_a_compile_is_told_when_it_starts_and_in_no_chapter(stub):
    said = [start(program, str(stub)).communicate()[1].splitlines() for program in (LOAD, LOAD)]
    assert len(said[0]) == 1 and said[0][0].startswith("compiling bnnlib's kernels once, which takes a minute or more: ")
    assert said[1] == []
    (stub / "value.h").write_text("#define VALUE 2\n")
    in_jupyter = "import sys; sys.modules['ipykernel'] = sys\n" + LOAD
    assert start(in_jupyter, str(stub)).communicate() == ("2\n", "")


@needs_compiler
def test_another_version_of_the_compiler_builds_anew_and_none_keeps_what_is_built(stub, tmp_path):
    compiler = tmp_path / "compiler"

    def upgrade(number: int) -> None:
        compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "compiler {number}" && exit\nexec g++ "$@"\n')
        compiler.chmod(0o755)

    for number, built in ((1, 1), (1, 1), (2, 2), (1, 2)):
        upgrade(number)
        assert finish(start(LOAD, str(stub), CXX=str(compiler))) == "1"
        assert len(libraries(tmp_path)) == built
    compiler.unlink()
    assert finish(start(LOAD, str(stub), CXX=str(compiler))) == "1"
    assert len(libraries(tmp_path)) == 2
    (stub / "value.h").write_text("#define VALUE 2\n")
    assert "there is no C++ compiler" in start(LOAD, str(stub), CXX=str(compiler), CC=str(compiler)).communicate()[1]


@needs_compiler
def test_a_damaged_or_foreign_library_is_rebuilt(stub, tmp_path):
    assert finish(start(LOAD, str(stub))) == "1"
    (library,) = libraries(tmp_path)
    whole = library.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not a library" + native.TRAILER):
        library.unlink()
        library.write_bytes(damage)
        assert finish(start(LOAD, str(stub))) == "1"


@needs_compiler
def test_processes_that_import_at_once_build_once(stub, tmp_path):
    racing = [start(LOAD, str(stub)) for _ in range(3)]
    assert [finish(process) for process in racing] == ["1"] * 3
    assert len(libraries(tmp_path)) == 1 and not list(tmp_path.glob("cache/*/build-*"))


@needs_compiler
def test_a_failed_compile_quotes_the_compiler(stub):
    (stub / "value.h").write_text("#define VALUE undeclared_name\n")
    with pytest.raises(native.BuildError, match="do not compile.*undeclared_name"):
        native.load(stub)


def test_without_a_compiler_a_warning_and_slow_right_answers(tmp_path):
    program = (
        "import torch, warnings\n"
        "from bnnlib import ops\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    y = [ops.binary_linear(torch.ones(2, 5), torch.ones(3, 5)) for _ in range(3)][-1]\n"
        "print(y.tolist() == [[5.0] * 3] * 2, len(said), said[0].message)"
    )
    environment = {
        "BNN_KERNEL_CACHE": str(tmp_path),
        "CXX": "no-such-compiler",
        "CC": "no-such-compiler",
        "BNN_KERNEL": "",
    }
    right, warnings, message = finish(start(program, **environment)).split(" ", 2)
    assert right == "True" and warnings == "1"
    assert (
        "many times slower" in message
        and "no-such-compiler not found" in message
        and "apt-get install g++" in message
    )
    forced = start("from bnnlib import ops; ops.backend()", **{**environment, "BNN_KERNEL": "scalar"})
    assert "BNN_KERNEL=scalar asks for a compiled kernel" in forced.communicate()[1]


def test_the_command_fails_where_the_kernels_do_not_compile(tmp_path):
    missing = {"BNN_KERNEL_CACHE": str(tmp_path), "CXX": "no-such-compiler", "CC": "no-such-compiler"}
    program = "import runpy; runpy.run_module('bnnlib.ops', run_name='__main__')"
    process = start(program, **missing, BNN_KERNEL="")
    out, said = process.communicate()
    assert process.returncode == 1 and not out
    assert "no-such-compiler not found" in said and "BNN_KERNEL=pytorch" in said and "Traceback" not in said
    assert "pytorch" in finish(start(program, **missing, BNN_KERNEL="pytorch"))  # asked for: no failure


def test_an_unwritable_cache_is_named_or_replaced(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BNN_KERNEL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(native.BuildError, match="BNN_KERNEL_CACHE=.*below"):
        native.cache_folder()
    monkeypatch.delenv("BNN_KERNEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = native.cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0


@needs_compiler
def test_a_library_that_others_may_have_planted_is_not_loaded(stub, tmp_path, monkeypatch):
    assert finish(start(LOAD, str(stub))) == "1"
    (library,) = libraries(tmp_path)
    whole = library.read_bytes()
    assert library.stat().st_mode & 0o022 == library.parent.stat().st_mode & 0o022 == 0
    opened = []
    monkeypatch.setattr(native, "open_library", lambda path: opened.append(path.read_bytes()) or path)
    monkeypatch.setattr(native, "build_library", lambda sources, path: path.write_bytes(b"built anew" + native.TRAILER))
    library.chmod(0o777)
    native.load(stub)
    assert opened == [b"built anew" + native.TRAILER]
    library.unlink()
    (tmp_path / "planted").write_bytes(whole)
    library.symlink_to(tmp_path / "planted")
    monkeypatch.setattr(native, "build_library", lambda sources, path: path.unlink() or path.write_bytes(b"again" + native.TRAILER))
    native.load(stub)
    assert opened[1:] == [b"again" + native.TRAILER] and (tmp_path / "planted").read_bytes() == whole


@needs_compiler
def test_what_is_built_serves_where_nothing_can_be_written(stub, tmp_path, monkeypatch):
    assert finish(start(LOAD, str(stub))) == "1"
    (library,) = libraries(tmp_path)

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(native.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(native, "open_library", lambda path: path)
    with pytest.raises(native.BuildError, match="cannot be written: .*Read-only"):
        native.cache_folder()
    assert native.load(stub) == library
    for planted in (library, library.parent, library.parents[1]):
        with monkeypatch.context() as change:
            before = planted.stat().st_uid
            belongs_to_another(planted, change)
            with pytest.raises(native.BuildError, match="Read-only"):
                native.load(stub)
            os.chown(planted, before, -1)
    if os.getuid() == 0:
        monkeypatch.setattr(native.os, "getuid", lambda: 12345)
        assert native.load(stub) == library  # root's


@needs_compiler
@pytest.mark.parametrize("named", ["cache", "~/cache"])
def test_a_cache_may_be_named_from_the_current_folder_or_the_home(stub, tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert finish(start(LOAD, str(stub), BNN_KERNEL_CACHE=named, PYTHONPATH=str(Path(native.__file__).parents[1]))) == "1"
    assert len(libraries(tmp_path)) == 1


def test_a_full_disk_is_named(stub, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "header.h")

    monkeypatch.setattr(native.shutil, "copy", refuse)
    with pytest.raises(native.BuildError, match="cannot be built in .*cache: No space left on device$"):
        native.load(stub)
    assert not list(tmp_path.glob("cache/*/build-*"))


def test_a_cache_that_others_can_write_is_refused_or_tightened(monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("BNN_KERNEL_CACHE", str(shared))
    with pytest.raises(native.BuildError, match="BNN_KERNEL_CACHE=.*can be written by others"):
        native.cache_folder()
    monkeypatch.setenv("BNN_KERNEL_CACHE", str(tmp_path / "link"))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(native.BuildError, match="is a link"):
        native.cache_folder()
    monkeypatch.delenv("BNN_KERNEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "xdg" / "bnnlib" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o775)  # a umask of 002
    assert native.cache_folder() == folder and folder.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("what", ["link", "another user's"])
def test_the_fallback_in_the_temporary_folder_is_ones_own(monkeypatch, tmp_path, what):
    monkeypatch.delenv("BNN_KERNEL_CACHE", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path))
    if what == "link":
        (tmp_path / "mine").mkdir()
        (tmp_path / f"bnnlib-kernels-{os.getuid()}").symlink_to(tmp_path / "mine")
    else:
        folder = tmp_path / f"bnnlib-kernels-{os.getuid()}"
        folder.mkdir(mode=0o700)
        belongs_to_another(folder, monkeypatch)
    with pytest.raises(native.BuildError, match="(is a link|belongs to another user); set BNN_KERNEL_CACHE"):
        native.cache_folder()


compiled = pytest.mark.skipif(
    isinstance(_backend.backend(), _backend.Fallback), reason="no compiled kernels here"
)


@compiled
@pytest.mark.parametrize("channels", [70, 96, 128])  # gathered and copied line by line
def test_threads_give_the_same_bits_and_follow_torch(channels):
    x, w = torch.randn(3, channels, 17, 15), torch.randn(200, channels, 3, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(ops.binary_conv2d(x, w, padding=1))
        assert all(torch.equal(results[0], y) for y in results[1:])
    finally:
        torch.set_num_threads(before)


@compiled
def test_calls_from_several_python_threads():
    x, w = torch.randn(2, 64, 12, 12), torch.randn(96, 64, 3, 3)
    expected, wrong = ops.binary_conv2d(x, w), []

    def work():
        for _ in range(20):
            if not torch.equal(ops.binary_conv2d(x, w), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@compiled
def test_a_forked_child_computes_on_one_thread_and_does_not_hang():
    program = (
        "import os, torch\n"
        "from bnnlib import ops\n"
        "torch.set_num_threads(2)\n"
        "x, w = torch.randn(4, 64, 20, 20), torch.randn(128, 64, 3, 3)\n"
        "bits, blob = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)\n"
        "y = ops.conv2d_packed(bits, blob, w.shape, out='int16').numpy().tobytes()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    same = ops.conv2d_packed(bits, blob, w.shape, out='int16').numpy().tobytes() == y\n"
        "    os._exit(0 if same else 1)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    process = start(program)
    try:
        out, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail("the forked child hangs")
    assert out.strip() == "0", errors


@compiled
def test_one_openmp_runtime():
    program = (
        "from bnnlib import ops\n"
        "ops.backend()\n"
        "paths = [line.split()[-1] for line in open('/proc/self/maps')]\n"
        "print(len({path for path in paths if any(n in path for n in ('libgomp', 'libiomp', 'libomp'))}))"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    assert int(finish(start(program))) <= 1
