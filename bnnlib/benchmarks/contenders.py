"""What is timed: the layers and matrix products, in our kernels and in PyTorch's float32, bfloat16 and int8."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F

from bnnlib import native, ops
from bnnlib.benchmarks.turns import Contenders
from bnnlib.ops import _backend

# channels in, channels out, kernel, side: the layers of the sources' networks, as shared by all comparisons
# of the book.
LAYERS = [
    (128, 128, 3, 32),
    (256, 256, 3, 16),
    (512, 512, 3, 8),
    (64, 64, 3, 56),
    (96, 192, 5, 16),
    (192, 160, 1, 32),
]
LADDER_LAYERS = [LAYERS[0], LAYERS[-1]]
# rows, length, outputs: S3's benchmark, and the binary layer of its MLP at its training batch and at one image
GEMMS = [(4096, 4096, 4096), (100, 768, 512), (1, 768, 512)]


def label(layer) -> str:
    """A layer ``(C, O, k, side)`` as records and tables name it: ``128->256 3x3 @16``."""
    c, o, k, side = layer
    return f"{c}->{o} {k}x{k} @{side}"


def macs(layer, batch: int = 1) -> int:
    """Multiply-adds of a layer for ``batch`` images, its border of zeros included."""
    c, o, k, side = layer
    return c * o * k * k * side * side * batch


def multiplies_bf16() -> bool:
    """Whether this CPU has a unit for bfloat16. Without one PyTorch's convolution in it takes ages."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def compiled(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The module on ``x`` as ``torch.compile`` makes it for inference: weights are constants, packed once."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    fast = torch.compile(module.eval())

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return fast(x)

    call()
    return call


def int8_contenders(x: torch.Tensor, w: torch.Tensor, padding: int) -> Contenders:
    """PyTorch's quantised convolution in every engine of this build."""
    found: Contenders = {}
    for engine in ("x86", "fbgemm", "onednn"):
        if engine not in torch.backends.quantized.supported_engines:
            continue
        torch.backends.quantized.engine = engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weight = torch.quantize_per_tensor(w, 0.02, 0, torch.qint8)
            image = torch.quantize_per_tensor(x, 0.05, 64, torch.quint8).contiguous(
                memory_format=torch.channels_last
            )
            packed = torch.ops.quantized.conv2d_prepack(weight, None, [1, 1], [padding, padding], [1, 1], 1)
        found[f"int8-{engine}"] = lambda image=image, packed=packed: torch.ops.quantized.conv2d(
            image, packed, 0.1, 0
        )
    return found


def compiled_contenders(xl: torch.Tensor, wl: torch.Tensor, padding: int) -> Contenders:
    """The layer by ``torch.compile``, in float32 and, where the CPU multiplies it, in bfloat16."""
    o, c, *kernel = wl.shape
    found: Contenders = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        if dtype is torch.float32 or multiplies_bf16():
            module = torch.nn.Conv2d(c, o, kernel, padding=padding, bias=False)
            module.weight.data = wl
            found[f"{name}-compile"] = compiled(module.to(dtype), xl.to(dtype))
    return found


def layer_contenders(layer, batch: int, *, compile: bool = True) -> Contenders:
    """``compile``: PyTorch's compiler too, which needs seconds to start."""
    c, o, k, side = layer
    generator = torch.Generator().manual_seed(0)
    x, w, p = (
        torch.randn(batch, c, side, side, generator=generator),
        torch.randn(o, c, k, k, generator=generator),
        k // 2,
    )
    xl, wl = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    xb, wb = xl.bfloat16(), wl.bfloat16()
    bits, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)
    threshold, shape = torch.zeros(o, dtype=torch.int32), tuple(w.shape)
    return {
        "fp32-nchw": lambda: F.conv2d(x, w, padding=p),
        "fp32-channels_last": lambda: F.conv2d(xl, wl, padding=p),
        **({"bf16": lambda: F.conv2d(xb, wb, padding=p)} if batch == 1 or multiplies_bf16() else {}),
        **(compiled_contenders(xl, wl, p) if compile else {}),
        **int8_contenders(x, w, p),
        "bits": lambda: ops.conv2d_packed(bits, ready, shape, 1, p, threshold=threshold, out="bits"),
        **counted(bits, ops.pack_weight(w), shape, p, threshold),
        "channels_last": lambda: ops.conv2d_packed(xl, ready, shape, 1, p),
        "nchw": lambda: ops.conv2d_packed(x, ready, shape, 1, p),
        "pack-channels_last": lambda: ops.pack_activation(xl),
        "pack-nchw": lambda: ops.pack_activation(x),
    }


COUNTS_BITS = "avx512vpopcnt"  # what the variant that multiplies bytes counts bits with, where that is faster


def counted(bits: torch.Tensor, weight: torch.Tensor, shape: tuple[int, ...], p: int, threshold: torch.Tensor) -> Contenders:
    """``bits`` without the choice between multiplying bytes and counting bits; nothing where there is no such choice."""
    if _backend.backend().variant != "amx":
        return {}
    kernels = _backend.Native(native.load(), COUNTS_BITS)
    (n, h, w), (o, c, *kernel) = bits.shape[:3], shape
    geometry = [n, h, w, c, o, *kernel, 1, 1, p, p, 1, 1, 1]
    blob = torch.empty(kernels.blob_bytes(geometry), dtype=torch.uint8)
    kernels.prepack(geometry, weight, blob)
    count = kernels.convolution(geometry, torch.int64)

    def run() -> torch.Tensor:
        to = torch.empty(n, h + 2 * p - kernel[0] + 1, w + 2 * p - kernel[1] + 1, -(-o // 64), dtype=torch.int64)
        count(bits, blob, to, threshold=threshold)
        return to

    return {"bits-counted": run}


def int8_linear(a: torch.Tensor, b: torch.Tensor) -> Contenders:
    """PyTorch's quantised linear layer, if this build has it."""
    if "x86" not in torch.backends.quantized.supported_engines:
        return {}
    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, w = (
            torch.quantize_per_tensor(a, 0.05, 64, torch.quint8),
            torch.quantize_per_tensor(b, 0.02, 0, torch.qint8),
        )
        packed = torch.ops.quantized.linear_prepack(w, None)
    return {"int8": lambda: torch.ops.quantized.linear(x, packed, 1.0, 128)}
