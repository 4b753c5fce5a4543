"""The CUDA kernels without a GPU: every one is compiled for three generations of GPUs, and all arithmetic is run, from the same
source, by ``tests/kernels/cuda_emulate.h``: the operators' own tests with these kernels behind them, and under sanitizers.
What needs a GPU is in ``test_cuda_gpu.py``."""

from __future__ import annotations

import ctypes
import inspect
import re
import shutil
import stat
import subprocess

import cuda_emulated
import pytest
import test_ops
import test_ops_packed
import test_ops_packing
import test_ops_training
import torch
import torch.nn.functional as F
from cuda_emulated import COMPILER, FLAGS, KERNELS, Emulated, needs_compiler, needs_nvrtc
from ops_reference import randn, signs

from bnnlib import ops
from bnnlib.ops import _backend
from bnnlib.ops.cuda import FORMULATIONS, Cuda, arguments, default_formulation, nvrtc

library = cuda_emulated.library


@pytest.fixture(params=FORMULATIONS)
def variant(request, monkeypatch, library):
    """What the borrowed tests below compute with."""
    chosen = Cuda(Emulated(library), request.param)
    monkeypatch.setattr(_backend, "backend", lambda: chosen)
    return chosen


def borrowed():
    """The operators' tests of every kernel variant, by name."""
    for module in (test_ops, test_ops_packed, test_ops_packing, test_ops_training):
        for name, function in vars(module).items():
            if name.startswith("test_") and "variant" in inspect.signature(function).parameters:
                yield name, function


globals().update({name.replace("test_", "test_cuda_"): function for name, function in borrowed()})


@pytest.mark.parametrize("order", [0, 1, 13])
@pytest.mark.parametrize("multiprocessors", [1, 3, 1000])  # tiles of 128, 64 and 32
@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_every_tile_in_every_order_of_threads(library, monkeypatch, formulation, multiprocessors, order):
    device = Emulated(library, multiprocessors, order)
    chosen = Cuda(device, formulation)
    monkeypatch.setattr(_backend, "backend", lambda: chosen)
    x, w = randn(2, 70, 9, 8, seed=order), randn(130, 70, 3, 3, seed=1)
    dot = F.conv2d(signs(x), signs(w), None, 1, 1)
    bits, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)
    assert torch.equal(ops.conv2d_packed(bits, ready, w.shape, padding=1, out="int16").double(), dot)
    threshold = torch.arange(130, dtype=torch.int32) - 65
    for pool in (1, 2):
        packed = ops.conv2d_packed(bits, ready, w.shape, padding=1, threshold=threshold, pool=pool, out="bits")
        assert torch.equal(ops.unpack_activation(packed, 130) > 0, F.max_pool2d(dot, pool) >= threshold[:, None, None])
    tile = {1: 128, 3: 64, 1000: 32}[multiprocessors]
    assert f"bnn_product_{formulation.replace('-', '_')}_{tile}" in device.launched


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (17, 33, 31), (40, 20, 1100), (16, 16, 512)])
def test_the_formulation_of_s3(library, m, n, k):
    a, b = randn(m, k, seed=m), randn(n, k, seed=n)
    words = 2 * -(-k // 64)
    left, right = (ops.pack_activation(t).view(torch.int32) for t in (a, b))
    right, c = right.t().contiguous(), torch.empty(m, n)
    given = arguments.TilesArgs(left.data_ptr(), right.data_ptr(), c.data_ptr(), m, n, k, words)
    Emulated(library).launch("bnn_product_tiles", (-(-n // 16), -(-m // 16), 1), (16, 16, 1), given)
    assert torch.equal(c.double(), signs(a) @ signs(b).t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["planes", "channels_last", "slice"])
def test_packing_of_every_type_and_layout(library, monkeypatch, dtype, layout):
    chosen = Cuda(Emulated(library), "registers")
    monkeypatch.setattr(_backend, "backend", lambda: chosen)
    x = randn(2, 70, 5, 6)
    x[0, :6, 0, 0] = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40])
    x[1, 0, 0, 0] = -float("nan")
    x = x.to(dtype)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "slice":
        x = F.pad(x, (1, 2, 1, 0))[:, :, 1:, 1:-2]
    assert torch.equal(ops.pack_activation(x), ops.pack_words(x.permute(0, 2, 3, 1) >= 0))


def test_arguments_have_the_kernels_sizes(library):
    assert [ctypes.sizeof(kind) for kind in arguments.ALL] == [library.size_of(i) for i in range(len(arguments.ALL))]


def test_a_block_whose_threads_part_at_a_barrier_is_an_error(tmp_path):
    """The emulation itself: it must not forgive what a GPU does not."""
    program = """
        #include "cuda_emulate.h"
        extern "C" __global__ void half(const PeakArgs) { if (threadIdx.x < 16) __syncthreads(); }
        extern "C" __global__ void racing(const PeakArgs p) {
            BNN_SHARED(u32, a, 64);
            a[threadIdx.x] = threadIdx.x;
            p.to[threadIdx.x] = a[63 - threadIdx.x];            // a barrier is missing
        }
        int main() {
            unsigned first[64], second[64];
            PeakArgs p = {first, 0, 0, 0};
            emulated::launch(half, {1, 1, 1}, {64, 1, 1}, &p);
            puts(emulated::block.wrong.c_str());
            emulated::launch(racing, {1, 1, 1}, {64, 1, 1}, &p);
            p.to = second, emulated::order = 1;
            emulated::launch(racing, {1, 1, 1}, {64, 1, 1}, &p);
            puts(std::memcmp(first, second, sizeof first) ? "differ" : "same");
            emulated::launch(half, {1, 70000, 1}, {64, 1, 1}, &p);
            puts(emulated::block.wrong.c_str());
        }
    """
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "main.cpp").write_text(program)
    subprocess.run([COMPILER, *FLAGS, str(tmp_path / "main.cpp"), "-o", str(tmp_path / "main")], check=True)
    said = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["16 threads of a block wait for others that never come", "differ", "no GPU takes such a grid"]


@needs_compiler
def test_kernels_under_sanitizers(tmp_path):
    """Arrays of the exact size, against a reference bit by bit."""
    flags = [f for f in FLAGS if f != "-O2"]
    built = subprocess.run(
        [COMPILER, *flags, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", str(KERNELS / "cuda_cases.cpp"),
         "-o", str(tmp_path / "cases")],
        capture_output=True, text=True,
    )  # fmt: skip
    if built.returncode and "cannot find -lasan" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr[-4000:]
    done = subprocess.run([str(tmp_path / "cases")], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert int(re.fullmatch(r"(\d+) cases, all equal\n", done.stdout)[1]) > 100


# -------------------------------------------------------------------------------------------------- compiling


@needs_nvrtc
@pytest.mark.parametrize("unit", nvrtc.UNITS)
@pytest.mark.parametrize("target", ["compute_80", "compute_90", "compute_100"])
def test_every_kernel_compiles_to_ptx(unit, target):
    ptx = nvrtc.compile(unit, target).decode()
    assert f".target sm_{target[8:]}" in ptx
    entries = set(re.findall(r"\.entry (bnn_\w+)\(", ptx))
    declared = re.findall(r"__launch_bounds__\(\w+\) (bnn_\w+)\(|BNN_PRODUCT\((\w+),", (nvrtc.SOURCES / f"{unit}.cu").read_text())
    names = {a or f"bnn_product_{b}" for a, b in declared} - {"bnn_product_name"}
    assert entries == names and names
    if unit == "product":
        assert "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc" in ptx and "ldmatrix" in ptx


@needs_nvrtc
def test_ptx_is_what_an_assembler_takes(tmp_path):
    """Machine code, for which NVRTC also checks the PTX written by hand."""
    assert nvrtc.compile("peaks", "sm_80")[:4] == b"\x7fELF"


@needs_nvrtc
def test_what_does_not_compile_is_told_in_the_compilers_words(tmp_path):
    (tmp_path / "pack.cu").write_text("__global__ void f() { undeclared(); }")
    with pytest.raises(nvrtc.CudaError, match="pack.cu does not compile for compute_90: .*undeclared"):
        nvrtc.compile("pack", "compute_90", tmp_path)
    with pytest.raises(nvrtc.CudaError, match="no product.cu in"):
        nvrtc.compile("product", "compute_90", tmp_path)


@needs_nvrtc
def test_compiled_code_is_kept_and_only_ones_own_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_KERNEL_CACHE", str(tmp_path))
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "tiles.cu").write_text('extern "C" __global__ void f() {}')
    first = nvrtc.code("tiles", "compute_90", sources)
    compiled = []
    monkeypatch.setattr(nvrtc, "compile", lambda *a: compiled.append(a) or b"anew")
    assert nvrtc.code("tiles", "compute_90", sources) == first and not compiled
    (path,) = tmp_path.glob("cuda-*/tiles.compute_90")
    assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    path.chmod(0o666)  # another may have written it
    assert nvrtc.code("tiles", "compute_90", sources) == b"anew"
    path.write_bytes(path.read_bytes()[:-1])  # cut off
    nvrtc.code("tiles", "compute_90", sources)
    assert len(compiled) == 2
    whole = path.read_bytes()
    path.unlink()
    (tmp_path / "planted").write_bytes(whole)
    path.symlink_to(tmp_path / "planted")
    nvrtc.code("tiles", "compute_90", sources)
    assert len(compiled) == 3 and not path.is_symlink()
    (sources / "bits.cuh").write_text("// changed")
    nvrtc.code("tiles", "compute_90", sources)
    assert len(compiled) == 4


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.convolution([2**31, 1, 1, 8, 8, 1, 1, 1, 1, 0, 0, 1, 1, 1], torch.float32)(None, None, None), "a size is 2\\^31 or more"),
        (lambda c: c.prepack([1, 1, 1, 2**30, 8, 2, 2, 1, 1, 0, 0, 1, 1, 1], None, None), "K, the length of a dot product, is 2\\^31 or more"),
        (lambda c: c.pack(torch.empty(1, device="meta").expand(2, 2**30, 1, 1), torch.empty(2, 1, 1, 2**24, device="meta")), "fewer than 2\\^31 values"),
    ],
)  # fmt: skip
def test_sizes_past_2_to_31_are_refused(library, call, words):
    with pytest.raises(ValueError, match=words):
        call(Cuda(Emulated(library), "tensor"))


def test_too_many_pixels_are_refused(library):
    cuda = Cuda(Emulated(library), "tensor")
    geometry = [2**12, 2**11, 2**10, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    blob = torch.empty(cuda.blob_bytes(geometry), dtype=torch.uint8)
    bits = torch.empty(1, 1, 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="gives 8589934592 pixels.*split the batch"):
        cuda.convolution(geometry, torch.float32)(bits, blob, torch.empty(1))


def test_neither_takes_the_weights_of_the_other(library, monkeypatch):
    w, x = randn(8, 33, 3, 3), randn(1, 33, 5, 5)
    mine = ops.prepack(ops.pack_weight(w), w.shape)
    chosen = Cuda(Emulated(library), "tensor")
    with monkeypatch.context() as patched:
        patched.setattr(_backend, "backend", lambda: chosen)
        theirs = ops.prepack(ops.pack_weight(w), w.shape)
        with pytest.raises(ValueError, match="prepack again"):
            ops.conv2d_packed(x, mine, w.shape)
    with pytest.raises(ValueError, match="prepack"):
        ops.conv2d_packed(x, theirs, w.shape)


def test_formulations_are_chosen_by_the_hardware():
    chosen = {c: default_formulation(c) for c in [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]}
    assert chosen == {(8, 0): "tensor", (8, 6): "tensor", (8, 9): "tensor", (9, 0): "tensor", (10, 0): "carry-save", (12, 0): "carry-save"}
    with pytest.raises(ValueError, match="no formulation 'wgmma': there are tensor, carry-save, registers"):
        Cuda(None, "wgmma")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_sentence_says_so():
    from bnnlib.ops.cuda import driver

    driver.library.cache_clear()
    try:
        driver.library()
    except nvrtc.CudaError as error:
        assert "there is no CUDA driver here" in str(error)


class FakeDriver:
    """What of CUDA's driver is called, with the arguments read back as a driver would."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        def call(*given):
            self.calls.append((name, *given))
            if name == "cuLaunchKernel":
                self.seen = arguments.PeakArgs.from_buffer_copy(ctypes.string_at(given[9][0], ctypes.sizeof(arguments.PeakArgs)))
            return 0

        return call


def test_a_launch_is_what_the_driver_expects(monkeypatch):
    from bnnlib.ops.cuda import driver

    fake, stream = FakeDriver(), type("Stream", (), {"cuda_stream": 7})()
    monkeypatch.setattr(driver, "library", lambda: fake)
    monkeypatch.setattr(nvrtc, "supported", lambda: (80, 90, 100))
    monkeypatch.setattr(driver.nvrtc, "code", lambda unit, target: f"{unit} {target}".encode())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"multi_processor_count": 132})())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    gpu = driver.Driver(torch.device("cuda:1"))
    for _ in range(2):
        gpu.launch("bnn_peak_tensor", (3, 2, 1), (256, 1, 1), arguments.PeakArgs(11, 5, 6, 7))
    names = [name for name, *_ in fake.calls]
    first = ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuModuleLoadData", "cuModuleGetFunction"]
    assert names == [*first, "cuLaunchKernel", "cuCtxPopCurrent_v2", "cuCtxPushCurrent_v2", "cuLaunchKernel", "cuCtxPopCurrent_v2"]
    launch = fake.calls[6]
    assert launch[2:9] == (3, 2, 1, 256, 1, 1, 0) and launch[9].value == 7 and launch[11] is None
    assert fake.calls[4][2] == b"peaks sm_90" and fake.calls[1][2] == 1
    monkeypatch.setattr(nvrtc, "supported", lambda: (80, 86))
    assert gpu.target == "compute_86"  # NVRTC is older than the GPU: the driver compiles the rest


def test_older_gpus_are_refused(monkeypatch):
    from bnnlib.ops.cuda import driver

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(nvrtc.CudaError, match="need compute capability 8.0 or more; Tesla T4 has 7.5"):
        driver.Driver(torch.device("cuda:0"))


def test_operands_on_different_devices_are_refused():
    x, w = torch.empty(1, 64, 4, 4), torch.empty(8, 64, 3, 3)
    weight = torch.empty(ops.pack_weight(w).shape, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match="x is on cpu and weight on meta: move one of them"):
        ops.conv2d_packed(x, weight, w.shape)
