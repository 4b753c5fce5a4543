"""``bnn bench gpu`` without a GPU: its measurements run on emulated kernels (``tests/cuda_emulated.py``) with a clock of the CPU; the limits
follow from the documents; the machine code is read."""

from __future__ import annotations

import json

import cuda_emulated as kernels
import pytest
import torch
from typer.testing import CliRunner

from bnnlib.benchmarks import gpu, gpu_cases, gpu_limits, machine_code, record
from bnnlib.ops import cuda

library = kernels.library


SECONDS = 0.002


class Fixed(gpu_cases.Clock):
    """Every call takes as long, so that a rate follows from what was counted."""

    def once(self, call, times):
        for _ in range(times):
            call()
        return SECONDS


@pytest.fixture
def bench(library):
    device = kernels.Emulated(library)
    return gpu_cases.Bench(torch.device("cpu"), {name: cuda.Cuda(device, name) for name in cuda.FORMULATIONS}, Fixed(rounds=1))


def test_every_part_is_measured(bench, monkeypatch):
    monkeypatch.setattr(gpu_cases, "LEAST_S", 0)
    peaks = bench.peaks(steps=2)
    blocks = 8 * bench.backends["tensor"].device.multiprocessors
    in_a_step = {name: rate * SECONDS / (2 * blocks) for name, rate in peaks.items()}
    words, tiles = 32 * 8 * 256, (16 * 8 * 256) * 8 * 8  # bits of a word, chains, threads; a tile, chains, warps
    assert in_a_step == pytest.approx({"popcount": words, "carry-save": words, "tensor": tiles})
    assert bench.bandwidth(1000) == pytest.approx(2 * 4 * 1000 / SECONDS)
    product = bench.product(64, 64, 64)
    assert {"tensor", "carry-save", "registers", "tiles (S3)", "pack", "bf16", "fp16"} <= set(product["seconds"])
    assert set(product["seconds"].values()) == {SECONDS}
    layer = bench.layer((20, 33, 3, 5), 1)
    assert layer["layer"] == "20->33 3x3 @5" and {"tensor", "bf16", "fp16"} <= set(layer["seconds"])
    network = bench.network("s4-lenet5", 1)
    assert set(network["seconds"]) == {"packed", "fp32", "bf16"} and network["agree"] == 1


def test_a_wrong_result_is_not_measured(bench):
    with pytest.raises(record.BenchError, match="tensor does not give PyTorch's result"):
        gpu_cases.compare("tensor", torch.ones(2), torch.zeros(2))


def test_a_record_is_written_and_read(tmp_path):
    environment = record.Environment(cpu="NVIDIA H100 80GB HBM3").model_dump(mode="json")
    written = {"date": "2026-11-28", "environment": environment, "gpu": {"name": "NVIDIA H100 80GB HBM3"}, "quick": False, "products": []}
    path = record.write(written, tmp_path, "gpu-")
    assert path.name == "gpu-nvidia-h100-80gb-hbm3-2026-11-28.json"
    assert record.read(path)["gpu"]["name"].startswith("NVIDIA H100")
    json.loads(path.read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_sentence_says_so():
    answer = CliRunner().invoke(gpu.app, [])
    assert answer.exit_code == 1
    assert answer.stderr.strip() == "bnn bench gpu needs an NVIDIA GPU that PyTorch sees (torch.cuda.is_available() is false here)"


def test_limits_follow_from_the_documents():
    a100, h100 = gpu_limits.GPUS
    limits = a100.limits()
    assert limits["popcount"] == 108 * 1.41e9 * 32 * 16
    assert limits["carry-save"] == 2 * limits["popcount"]  # 16 logical operations and 4 counts for 8 words: 1/4 clock each
    # tensor cores double with each halving of the width from bf16 to int8, and int8 to binary is a factor of 8
    assert limits["int8 tensor cores"] == 2 * limits["bf16 tensor cores"] and limits["binary tensor cores"] == 8 * limits["int8 tensor cores"]
    assert round(a100.per_clock(limits["bf16 tensor cores"])) == 1024 and round(h100.per_clock(h100.limits()["bf16 tensor cores"])) == 2048
    assert h100.limits()["binary tensor cores"] is None  # no document says
    # the A100 has one boost clock; the H100's rates outside the tensor cores are of a higher one
    assert a100.clock_of_fp32 == pytest.approx(a100.clock, rel=1e-3) and h100.clock_of_fp32 == pytest.approx(1.98e9, rel=1e-3)
    assert gpu_limits.bytes_moved(2, 3, 8, 1) == 2 + 3 + 12


def test_a_roofline_takes_the_slower_of_the_two():
    gpu_ = gpu_limits.GPUS[0]
    assert gpu_limits.roofline(gpu_, 1e12, 4096, 4096, 4096, 1) == 4096**3 / 1e12
    assert gpu_limits.roofline(gpu_, 1e30, 1, 1, 1, 8) == (1 + 1 + 2) / gpu_.bandwidth


@kernels.needs_nvrtc
@pytest.mark.skipif(machine_code.disassembler() is None, reason="no nvdisasm here")
@pytest.mark.parametrize(
    ("target", "operation", "binary"),
    [("sm_80", "xor", {"BMMA.168256.XOR.POPC": 1}), ("sm_80", "and", {"BMMA.168256.AND.POPC": 1}), ("sm_90", "and", {"BMMA.168256.AND.POPC": 1}),
     ("sm_90", "xor", {"BMMA.168256.AND.POPC": 2}), ("sm_100", "and", {"IMMA.16832.U8.U8": 8})],
)  # fmt: skip
def test_the_binary_product_is_an_instruction_up_to_hopper_then_eight_of_int8(target, operation, binary):
    """Why the kernels multiply with AND, and what ``default_formulation`` rests on."""
    found = machine_code.binary_product(target, operation)
    assert {name: count for name, count in found.items() if "MMA" in name} == binary
    assert sum(found.values()) > 20
