"""What NVIDIA documents of its GPUs' arithmetic, and the limits of a binary product that follow from it.

Figures of units are operations of 32-bit words per clock and multiprocessor (CUDA C++ Programming Guide, table "Throughput of Native
Arithmetic Instructions"); those of tensor cores are dense operations per second, two to a multiply-add, as the architecture's white paper
states them. A rate that no document states is None."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """``clock``: the boost clock that the white paper's rates of tensor cores assume, Hz; ``popcount``, ``logic``, ``fused``: words per
    clock and multiprocessor that are counted, combined, and go through a fused multiply-add of float32; ``tensor``, and ``fp32``
    outside the tensor cores: operations per second; ``bandwidth``: bytes per second."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    clock: float
    bandwidth: float
    fp32: float
    fused: int
    tensor: dict[str, float | None]
    source: str
    popcount: int = 16
    logic: int = 64

    @property
    def clock_of_fp32(self) -> float:
        """The clock that the white paper's rate of float32 outside the tensor cores implies, Hz."""
        return self.fp32 / (2 * self.fused * self.multiprocessors)

    def per_clock(self, rate: float) -> float:
        """Multiply-adds per second, as multiply-adds per clock and multiprocessor."""
        return rate / self.multiprocessors / self.clock

    def limits(self) -> dict[str, float | None]:
        """Multiply-adds per second of each way to multiply, None where no document says."""
        words = self.multiprocessors * self.clock * 32
        found: dict[str, float | None] = {
            "popcount": words * word_rate(1, 1, self.popcount, self.logic),
            "carry-save": words * word_rate(16 / 8, 4 / 8, self.popcount, self.logic),
        }
        return found | {kind: None if rate is None else rate / 2 for kind, rate in self.tensor.items()}


def word_rate(logic: float, counts: float, popcount_unit: int, logic_unit: int) -> float:
    """Words per clock where each takes so many logical operations and population counts, on two units that work side by side. Additions
    are left out: multiply-adds can take them, on a third unit."""
    return 1 / max(logic / logic_unit, counts / popcount_unit)


GPUS = [
    Gpu(
        "A100 SXM", (8, 0), 108, 1.410e9, 2.039e12, 19.5e12, 64,
        {"binary tensor cores": 4992e12, "int8 tensor cores": 624e12, "fp8 tensor cores": None, "bf16 tensor cores": 312e12},
        "NVIDIA A100 Tensor Core GPU Architecture, 2020 (https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf)"
        "; bandwidth, of 80 GB: NVIDIA A100 Tensor Core GPU, data sheet, 2021 (https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf)",
    ),
    Gpu(
        "H100 SXM", (9, 0), 132, 1.830e9, 3.35e12, 66.9e12, 128,
        {"binary tensor cores": None, "int8 tensor cores": 1978.9e12, "fp8 tensor cores": 1978.9e12, "bf16 tensor cores": 989.4e12},
        "NVIDIA H100 Tensor Core GPU Architecture, 2022 (https://resources.nvidia.com/en-us-tensor-core)",
    ),
]  # fmt: skip


def bytes_moved(m: int, n: int, k: int, bits: int) -> float:
    """The fewest bytes of a product ``(m, k)`` by ``(k, n)``: operands of so many bits once, the result in bfloat16 once."""
    return (m * k + k * n) * bits / 8 + 2 * m * n


def roofline(gpu: Gpu, rate: float, m: int, n: int, k: int, bits: int) -> float:
    """Seconds that a product takes at least: at ``rate`` multiply-adds per second, and at the memory's bandwidth."""
    return max(m * n * k / rate, bytes_moved(m, n, k, bits) / gpu.bandwidth)
