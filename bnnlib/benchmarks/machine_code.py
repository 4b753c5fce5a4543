"""Which instructions the CUDA kernels become on a GPU: NVRTC's machine code, taken apart by the ``nvdisasm`` that comes with
Triton, which PyTorch's builds for CUDA bring along. It needs no GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from bnnlib.ops.cuda import nvrtc

BINARY_PRODUCT = """
extern "C" __global__ void product(const unsigned* a, int* d) {
    int c0 = 0, c1 = 0, c2 = 0, c3 = 0;
    const int t = threadIdx.x;
    asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.%s.popc {%%0,%%1,%%2,%%3}, {%%4,%%5,%%6,%%7}, {%%8,%%9}, {%%0,%%1,%%2,%%3};"
                 : "+r"(c0), "+r"(c1), "+r"(c2), "+r"(c3)
                 : "r"(a[t]), "r"(a[t + 32]), "r"(a[t + 64]), "r"(a[t + 96]), "r"(a[t + 128]), "r"(a[t + 160]));
    d[t] = c0, d[t + 32] = c1, d[t + 64] = c2, d[t + 96] = c3;
}
"""


@cache
def disassembler() -> str | None:
    """The path of ``nvdisasm``, or None."""
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin:
        found = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
        if found.is_file():
            return str(found)
    return shutil.which("nvdisasm")


def instructions(code: bytes) -> Counter[str]:
    """How often each instruction stands in machine code, all functions together. Raises ``RuntimeError``."""
    program = disassembler()
    if program is None:
        raise RuntimeError("there is no nvdisasm here: it comes with Triton and with CUDA's toolkit")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([program, "-c", file.name], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvdisasm failed: {done.stderr.strip()[:300]}")
    lines = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", done.stdout, re.M)
    return Counter(lines)


def binary_product(target: str, operation: str) -> Counter[str]:
    """The instructions of one ``mma`` of 16 x 8 x 256 bits with ``and`` or ``xor``, and what loads and stores its operands."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "product.cu").write_text(BINARY_PRODUCT % operation)
        return instructions(nvrtc.compile("product", target, Path(folder)))
