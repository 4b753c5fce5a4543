"""What the operators compute with on a GPU: the methods of :class:`bnnlib.ops._backend.Native`, by CUDA kernels."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor

from bnnlib.ops._common import output_size
from bnnlib.ops.cuda.arguments import OUT, ConvArgs, PackArgs, PoolArgs, PrepackArgs

FORMULATIONS = ("tensor", "carry-save", "registers")
THREADS, LIMIT = 256, 2**31
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_OUT = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int16: "int16", torch.int64: "bits"}


class Device(Protocol):
    """A GPU, or what stands in for one in tests."""

    multiprocessors: int
    capability: tuple[int, int]

    def launch(self, kernel: str, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: ctypes.Structure) -> None: ...


def _at(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _spread(items: int) -> tuple[int, int, int]:
    """A grid for kernels whose threads take one item after the other."""
    return (max(1, min(-(-items // THREADS), 1 << 16)), 1, 1)


class Cuda:
    """The kernels on one GPU. Prepacked weights are words and tap counts (``kernels/cuda/bits.cuh``), of a length that is
    no multiple of 32, as the CPU's are: neither takes the other's."""

    compiled, halves, floats, gradients = True, True, False, None

    def __init__(self, device: Device, formulation: str) -> None:
        if formulation not in FORMULATIONS:
            raise ValueError(f"no formulation {formulation!r}: there are {', '.join(FORMULATIONS)}")
        self.device, self.formulation = device, formulation
        self.variant = f"cuda-{formulation}"

    def pack(self, x: Tensor, out: Tensor) -> None:
        """``x`` [N, C, H, W] of any strides to words [N, H, W, words]."""
        n, h, w, last = out.shape
        _small(x, out)
        c = x.shape[1]
        sn, sc, sh, sw = x.stride()
        pixels, words = n * h * w, 2 * last
        if not pixels:
            return
        by_channel = c == 1 or sc == 1
        a = PackArgs(_at(x), _at(out), sn, sc, sh, sw, pixels, h, w, c, words, _TYPES[x.dtype], by_channel)
        self._launch("bnn_pack", _spread(pixels * words * (32 if by_channel else 1)), a)

    def blob_bytes(self, geometry: Sequence[int]) -> int:
        return self._blob_parts(geometry)[2]

    @staticmethod
    def _blob_parts(geometry: Sequence[int]) -> tuple[int, int, int]:
        """Words of weights, tap counts, and bytes in all."""
        _, _, _, c, o, kh, kw, *_, groups = geometry
        words = o * kh * kw * -(-(c // groups) // 32)
        counts = o * (kh * kw + 1)
        return words, counts, -(-4 * (words + counts) // 32) * 32 + 16

    def prepack(self, geometry: Sequence[int], bits: Tensor, out: Tensor) -> None:
        _check(geometry)
        _, _, _, c, o, kh, kw, *_, groups = geometry
        words, _, _ = self._blob_parts(geometry)
        _small(out)
        cg, taps = c // groups, kh * kw
        at = _at(out)
        a = PrepackArgs(_at(bits), at, at + 4 * words, words, o, bits.shape[1], cg, taps, -(-cg // 32))
        self._launch("bnn_prepack", _spread(words), a)
        self._launch("bnn_tap_counts", _spread(32 * o), a)

    def convolution(
        self, geometry: Sequence[int], dtype: torch.dtype, channels_first: bool = False, pool: int = 1
    ) -> Callable[..., None]:
        return partial(self._conv2d, geometry, channels_first, pool)

    def _conv2d(
        self, geometry, channels_first, pool, bits, blob, out, scale=None, bias=None, residual=None, threshold=None, flip=None
    ) -> None:  # fmt: skip
        n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups = geometry
        _check(geometry)
        words, _, size = self._blob_parts(geometry)
        if blob.numel() != size:
            raise ValueError(
                "the prepacked weights have the wrong length or were prepacked for another kernel variant (prepack again)"
            )
        oh, ow = output_size(h, kh, sh, ph, dh), output_size(w, kw, sw, pw, dw)
        cg, og, kind = c // groups, o // groups, _OUT[out.dtype]
        if kind == "int16" and cg * kh * kw > 32767:
            raise ValueError(f"int16 results need K <= 32767; K = {cg * kh * kw}")
        if not 1 <= pool <= 8:
            raise ValueError(f"the pooling window is below 1 or above 8: {pool}")
        _small(bits, blob, out, residual)
        rows = n * (oh // pool) * (ow // pool) * pool**2
        if rows >= LIMIT:
            raise ValueError(f"the convolution gives {rows} pixels, and the CUDA kernels take fewer than 2^31: split the batch")
        if not rows:
            return
        if kind == "bits" and (groups > 1 or 0 < o % 64 <= 32):
            out.zero_()  # words that groups share, or that no channel reaches
        tile, grid = self._tiles(rows, og, groups, pool)
        tap_words = -(-cg // 32)
        a = ConvArgs(
            _at(bits), _at(blob), _at(blob) + 4 * words, _at(scale), _at(bias), _at(residual), _at(threshold), _at(flip), _at(out),
            rows, h, w, oh, ow, o, kh, kw, sh, sw, ph, pw, dh, dw, groups, cg, og, 2 * bits.shape[-1], tap_words, kh * kw * tap_words,
            2 * -(-o // 64), pool, OUT[kind], bool(channels_first),
        )  # fmt: skip
        self._launch(f"bnn_product_{self.formulation.replace('-', '_')}_{tile}", grid, a)

    def _tiles(self, rows: int, og: int, groups: int, pool: int) -> tuple[int, tuple[int, int, int]]:
        """The largest tile that gives every multiprocessor a block, and its grid."""
        for tile in (128, 64, 32):
            usable = tile // pool**2 * pool**2
            if not usable:
                continue
            chosen = tile, (-(-rows // usable), -(-og // tile), groups)
            if chosen[1][0] * chosen[1][1] * groups >= self.device.multiprocessors:
                break
        if max(chosen[1][1], groups) > 65535:
            raise ValueError(f"a GPU takes at most 65535 tiles of channels and groups, got {chosen[1][1]} and {groups}")
        return chosen

    def or_pool(self, sizes: Sequence[int], bits: Tensor, flip: Tensor | None, out: Tensor) -> None:
        n, h, w, c, k, stride, padding = sizes
        _small(bits, out)
        _, oh, ow, last = out.shape
        if not out.numel():
            return
        a = PoolArgs(_at(bits), _at(flip), _at(out), 2 * out.numel(), h, w, oh, ow, 2 * last, k, stride, padding)
        self._launch("bnn_or_pool", _spread(2 * out.numel()), a)

    def _launch(self, kernel: str, grid: tuple[int, int, int], arguments: ctypes.Structure) -> None:
        self.device.launch(kernel, grid, (THREADS, 1, 1), arguments)


def _small(*tensors: Tensor | None) -> None:
    for t in tensors:
        if t is not None and t.numel() >= LIMIT:
            raise ValueError(f"the CUDA kernels take tensors of fewer than 2^31 values, got {list(t.shape)}: split the batch")


def _check(geometry: Sequence[int]) -> None:
    """What ``kernels/layout.h`` checks for the CPU, in the same words."""
    n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups = geometry
    wrong = None
    if n < 0:
        wrong = "the batch size is negative"
    elif min(h, w, c, o, kh, kw, sh, sw, dh, dw, groups) < 1:
        wrong = "a size, stride, dilation or group count is below 1"
    elif max(geometry) >= LIMIT:
        wrong = "a size is 2^31 or more"
    elif min(ph, pw) < 0:
        wrong = "the padding is negative"
    elif max(kh, kw) > 4096:
        wrong = "a kernel side is above 4096"
    elif c % groups or o % groups:
        wrong = "the channels do not divide by the groups"
    elif c // groups * kh * kw >= LIMIT:
        wrong = "K, the length of a dot product, is 2^31 or more"
    elif dh * (kh - 1) + 1 > h + 2 * ph or dw * (kw - 1) + 1 > w + 2 * pw:
        wrong = "the kernel is larger than the padded input"
    elif max(h + 2 * ph, w + 2 * pw) >= LIMIT:
        wrong = "the padded input has a side of 2^31 or more"
    if wrong:
        raise ValueError(f"{wrong}: {list(geometry)} (n, h, w, c, o, kernel, stride, padding, dilation, groups)")


def default_formulation(capability: tuple[int, int]) -> str:
    """``tensor`` where the binary product is an instruction. For compute capability 10.0 and 12.0 the compiler makes eight
    int8 products of it; ``carry-save`` there, until ``bnn bench gpu`` has measured one."""
    return "tensor" if (8, 0) <= capability <= (9, 0) else "carry-save"


@cache
def backend(device: torch.device) -> Cuda:
    """The kernels for a CUDA ``device``. Raises :class:`~bnnlib.ops.cuda.nvrtc.CudaError` where they cannot run."""
    from bnnlib.ops.cuda.driver import Driver

    driver = Driver(device)
    wanted = os.environ.get("BNN_CUDA_KERNEL", "")
    if wanted and wanted not in FORMULATIONS:
        raise RuntimeError(f"BNN_CUDA_KERNEL={wanted} names no formulation; there are {', '.join(FORMULATIONS)}")
    return Cuda(driver, wanted or default_formulation(driver.capability))
