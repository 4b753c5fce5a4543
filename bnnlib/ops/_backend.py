"""The ways to compute: compiled kernels, or plain PyTorch where they cannot be compiled; on a GPU the kernels of
:mod:`bnnlib.ops.cuda`. The same functions in each, but for the gradients of bfloat16, which some kernels alone have.

Tensors in and out are plain tensors (here on the CPU) whose layout ``bnnlib.ops`` has already arranged; see its docstring
for the formats.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnnlib import native

Geometry = Sequence[int]  # n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups
# Made once for a geometry and a type and layout of results, called as (x, blob, out, scale, bias, residual, threshold, flip) with tensors:
# x is bits int64 [N, H, W, words]
Convolution = Callable[..., None]


_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int16: "int16", torch.int64: "bits"}  # of results


def _address(t: Tensor) -> int:
    address = t.data_ptr()
    if not address and t.numel():  # 0 says that there is no tensor
        raise ValueError("a tensor has no memory: give plain tensors of the CPU")
    return address


def _array(t: Tensor | None):
    if t is not None and t.dtype == torch.bfloat16:  # which NumPy lacks
        t = t.view(torch.uint16)
    return None if t is None else (t.detach() if t.requires_grad else t).numpy()


class Native:
    """The compiled kernels, one variant of them."""

    # halves: packs 16-bit floats of any strides; floats: convolves float32 of any strides, which it packs itself
    compiled, halves, floats = True, False, True

    def __init__(self, module, variant: str):
        self.module, self.variant = module, variant
        self.gradients = module.gradients_of(variant)  # the name of those it has, or None

    def pack(self, x: Tensor, out: Tensor) -> None:
        halves = x.dtype == torch.bfloat16  # [N, H, W, C]
        n, c, h, w = (*x.shape[:1], *x.shape[3:], *x.shape[1:3]) if halves else x.shape
        strides = [h * w * c, 1, w * c, c] if halves else x.stride()
        self.module.pack(self.variant, x.data_ptr(), halves, [n, c, h, w, *strides], out.data_ptr(), torch.get_num_threads())

    def blob_bytes(self, geometry: Geometry) -> int:
        return self.module.blob_bytes(self.variant, geometry)

    def prepack(self, geometry: Geometry, bits: Tensor, out: Tensor) -> None:
        self.module.prepack(self.variant, geometry, _array(bits), _array(out))

    def convolution(
        self, geometry: Geometry, dtype: torch.dtype, channels_first: bool = False, pool: int = 1, strides: Sequence[int] = ()
    ) -> Convolution:
        call = self.module.Convolution(self.variant, geometry, _NAMES[dtype], channels_first, pool, strides)

        def run(x, blob, out, scale=None, bias=None, residual=None, threshold=None, flip=None) -> None:
            call(
                x.data_ptr(), blob.data_ptr(), blob.numel(), out.data_ptr(),
                0 if scale is None else _address(scale), 0 if bias is None else _address(bias),
                0 if residual is None else _address(residual), 0 if threshold is None else _address(threshold),
                0 if flip is None else _address(flip), torch.get_num_threads(),
            )  # fmt: skip

        return run

    def computes_gradients(self, geometry: Geometry) -> bool:
        """Whether :meth:`gradient_of_input` and :meth:`gradient_of_weight`, where there are any, take a convolution of this geometry."""
        return self.module.computes_gradients(self.gradients, geometry)

    def gradient_of_input(self, geometry: Geometry, dy: Tensor, weights: Tensor, scale: Tensor, out: Tensor) -> None:
        self.module.gradient_of_input(
            self.gradients, geometry, _array(dy.view(torch.int16)), _array(weights), _array(scale),
            _array(out.view(torch.int16)), torch.get_num_threads(),
        )  # fmt: skip

    def gradient_of_weight(self, geometry: Geometry, dy: Tensor, signs: Tensor, out: Tensor) -> None:
        self.module.gradient_of_weight(
            self.gradients, geometry, _array(dy.view(torch.int16)), _array(signs), _array(out), torch.get_num_threads()
        )

    def or_pool(self, sizes: Sequence[int], bits: Tensor, flip: Tensor | None, out: Tensor) -> None:
        self.module.or_pool(sizes, _array(bits), _array(flip), _array(out), torch.get_num_threads())


class Fallback:
    """The same results from ``F.conv2d`` on -1/+1 tensors in double precision (exact up to K = 2^53): slow,
    and it says so.
    """

    variant = "pytorch"
    compiled, halves, floats, gradients = False, False, False, None

    def pack(self, x: Tensor, out: Tensor) -> None:
        out.copy_(pack_words(x.permute(0, 2, 3, 1) >= 0))

    def blob_bytes(self, geometry: Geometry) -> int:
        _, _, _, c, o, kh, kw, *_, groups = geometry
        return o * -(-(c // groups * kh * kw) // 8)

    def prepack(self, geometry: Geometry, bits: Tensor, out: Tensor) -> None:
        out.copy_(bits.reshape(-1))

    def convolution(self, geometry: Geometry, dtype: torch.dtype, channels_first: bool = False, pool: int = 1) -> Convolution:
        return partial(self._conv2d, geometry, channels_first, pool)

    def _conv2d(
        self, geometry, channels_first, pool, bits, blob, out, scale=None, bias=None, residual=None, threshold=None, flip=None
    ) -> None:  # fmt: skip
        n, h, w, c, o, kh, kw, sh, sw, ph, pw, dh, dw, groups = geometry
        if blob.numel() != self.blob_bytes(geometry):
            raise ValueError(
                "the prepacked weights have the wrong length or were prepacked for another kernel variant "
                "(prepack again)"
            )
        rows = np.unpackbits(
            blob.numpy().reshape(o, -1), axis=1, count=c // groups * kh * kw, bitorder="little"
        )
        weight = torch.from_numpy(rows).double().reshape(o, c // groups, kh, kw) * 2 - 1
        x = unpack_words(bits.reshape(n, h, w, -1), c).permute(0, 3, 1, 2).double() * 2 - 1
        dot = F.conv2d(x, weight, None, (sh, sw), (ph, pw), (dh, dw), groups).to(torch.int32)
        if out.dtype == torch.int64:
            if pool > 1:
                dot = F.max_pool2d(dot.double(), pool).to(torch.int32)
            limit = dot.new_zeros(o) if threshold is None else threshold
            packed = pack_words(dot.permute(0, 2, 3, 1) >= limit)
            out.copy_((packed if flip is None else packed ^ flip).reshape(out.shape))
            return
        y = dot if channels_first else dot.permute(0, 2, 3, 1)
        if out.dtype in (torch.float32, torch.bfloat16):
            y = y.float()
            shape = (-1, 1, 1) if channels_first else (-1,)
            y = y if scale is None else y * scale.reshape(shape)
            y = y if bias is None else y + bias.reshape(shape)
            y = y if residual is None else y + residual.reshape(y.shape)
        lying = out if out.is_contiguous() else out.permute(0, 2, 3, 1)
        lying.copy_(y.reshape(lying.shape))

    def or_pool(self, sizes: Sequence[int], bits: Tensor, flip: Tensor | None, out: Tensor) -> None:
        n, h, w, c, k, stride, padding = sizes
        planes = unpack_words(bits, c).permute(0, 3, 1, 2).float()
        packed = pack_words(F.max_pool2d(planes, k, stride, padding).permute(0, 2, 3, 1) > 0)
        out.copy_(packed if flip is None else packed ^ flip)


def pack_words(bits: Tensor) -> Tensor:
    """Booleans ``[..., C]`` to int64 words ``[..., ceil(C / 64)]``, bit i of a row in bit i % 64 of word i
    // 64, unused bits 0. Raises ``ValueError`` for any other type: of numbers, those that are not 0 would count as set.
    """
    if bits.dtype != torch.bool:
        raise ValueError(f"pack_words takes booleans, such as x >= 0, got {bits.dtype}")
    array = np.packbits(
        np.ascontiguousarray(bits.detach().cpu().numpy(), dtype=bool), axis=-1, bitorder="little"
    )
    missing = -array.shape[-1] % 8
    array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    return torch.from_numpy(np.ascontiguousarray(array).view("<i8")).to(bits.device)


def unpack_words(packed: Tensor, count: int) -> Tensor:
    """The inverse of :func:`pack_words`: booleans ``[..., count]``. Raises ``ValueError`` for words that are not so many."""
    if packed.dtype != torch.int64 or packed.dim() < 1 or packed.shape[-1] != -(-count // 64):
        given = f"{str(packed.dtype).removeprefix('torch.')} {list(packed.shape)}"
        raise ValueError(f"{count} bits are int64 [..., {max(0, -(-count // 64))}], got {given}")
    array = np.ascontiguousarray(packed.detach().cpu().numpy()).astype("<i8", copy=False).view(np.uint8)
    return torch.from_numpy(np.unpackbits(array, axis=-1, count=count, bitorder="little").astype(bool)).to(packed.device)


def variants() -> list[tuple[str, str, bool]]:
    """(name, what it needs, whether this CPU has that) of every variant compiled for this machine, best
    first.
    """
    return native.kernels().variants()


def of(t: Tensor):
    """What computes where ``t`` lies: :func:`backend`, or the kernels for its GPU."""
    if not t.is_cuda:
        return backend()
    from bnnlib.ops import cuda

    return cuda.backend(t.device)


@cache
def backend() -> Native | Fallback:
    """What this process computes with: the best variant that the CPU supports, or the one that
    ``BNN_KERNEL`` names.
    """
    wanted = os.environ.get("BNN_KERNEL", "")
    if wanted == Fallback.variant:
        return Fallback()
    try:
        return Native(native.kernels(), native.choose(wanted, Fallback.variant))
    except native.BuildError as error:
        if wanted:
            raise RuntimeError(f"BNN_KERNEL={wanted} asks for a compiled kernel, but {error}") from error
        warnings.warn(
            "bnnlib.ops computes with plain PyTorch, many times slower than the native kernels, "
            f"because {error}",
            stacklevel=2,
        )
        return Fallback()
