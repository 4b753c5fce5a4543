"""One measurement each, with its part of the record: a layer, its gradients, a matrix product, the ladder of variants,
all threads against one, turns taken with PyTorch."""

from __future__ import annotations

import statistics
from functools import partial

import torch
import torch.nn.functional as F

from bnnlib import native, ops
from bnnlib.benchmarks import onnx_runtime
from bnnlib.benchmarks.contenders import int8_linear, label, layer_contenders, macs, multiplies_bf16
from bnnlib.benchmarks.peaks import TileUnit
from bnnlib.benchmarks.turns import Contenders, alternate, faster, median_ratio, times
from bnnlib.ops import _backend
from bnnlib.quantizers import sign


def measure_layer(
    layer, batch: int, rounds: int, clock: float | None, peer: onnx_runtime.Peer | None = None, compile: bool = True
) -> dict:
    """All contenders of a layer ``(C, O, k, side)`` in turns: their times and, with ``clock`` (Hz), our products a cycle."""
    others = peer.contenders(layer, batch) if peer else {}
    tiles = TileUnit()
    seconds = alternate(layer_contenders(layer, batch, compile=compile) | others, rounds, between=tiles.look)
    result = {"layer": label(layer), "batch": batch, "macs": macs(layer, batch), "times": times(seconds), **tiles.rounds()}
    if clock:
        result["bits_macs_per_cycle"] = round(
            macs(layer, batch) / statistics.median(seconds["bits"]) / clock, 1
        )
        result["bits_macs_per_cycle_best"] = round(macs(layer, batch) / min(seconds["bits"]) / clock, 1)
    return result


PEERS_OF_GRADIENTS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def measure_gradients(layer, batch: int, rounds: int) -> dict:
    """Both gradients of a convolution of signs, channels_last: ours of bfloat16, with the packing of the signs that it reads, the
    weights' for the gradient of the input and the input's for that of the weights; and PyTorch's of bfloat16 and of float32."""
    c, o, k, side = layer
    generator = torch.Generator().manual_seed(0)
    form, p = {"memory_format": torch.channels_last}, k // 2
    x = sign(torch.randn(batch, c, side, side, generator=generator)).bfloat16().contiguous(**form)
    w = sign(torch.randn(o, c, k, k, generator=generator)).contiguous(**form)
    dy = torch.randn(batch, o, side, side, generator=generator).bfloat16().contiguous(**form)
    geometry = ([1, 1], [p, p], [1, 1])
    contenders: Contenders = {}
    for name, needed in (("input", [True, False]), ("weight", [False, True])):
        for dtype in PEERS_OF_GRADIENTS:
            peer = [t.to(PEERS_OF_GRADIENTS[dtype]) for t in (dy, x, w)]
            contenders[f"{name}-{dtype}"] = lambda needed=needed, peer=peer: torch.ops.aten.convolution_backward(
                *peer, None, *geometry, False, [0, 0], 1, [*needed, False]
            )
    ours = torch.ops.bnn.conv2d_of_signs_backward
    bits = ops.pack_activation(x)[None]  # which the forward pass leaves, and the gradient of the input does not read
    contenders["input"] = lambda: ours(dy, x, w, bits, *geometry, 1, 0.0, [True, False, False])
    contenders["weight"] = lambda: ours(dy, x, w, ops.pack_activation(x)[None], *geometry, 1, 0.0, [False, True, False])
    tiles = TileUnit()
    seconds = alternate(contenders, rounds, between=tiles.look)
    return {
        "layer": label(layer), "batch": batch, "macs": macs(layer, batch), "times": times(seconds), **tiles.rounds(),
        **{
            f"{dtype}_over": {name: median_ratio(seconds[f"{name}-{dtype}"], seconds[name]) for name in ("input", "weight")}
            for dtype in PEERS_OF_GRADIENTS
        },
    }  # fmt: skip


def measure_gemm(m: int, k: int, n: int, rounds: int) -> dict:
    """``[m, k]`` by ``[n, k]`` transposed: floats, 8-bit integers, packed bits, and the one-word loop."""
    a, b = torch.randn(m, k), torch.randn(n, k)
    ab, bb = a.bfloat16(), b.bfloat16()
    bits, stored = ops.pack_activation(a), ops.pack_weight(b)
    ready, rows = ops.prepack(stored, b.shape), ops.pack_activation(b)[:, None]
    module, floats = native.load(), torch.empty(1, 1, m, n)
    geometry = [1, 1, m, k, n, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    seconds = alternate(
        {
            "fp32": lambda: a @ b.t(),
            **({"bf16": lambda: ab @ bb.t()} if multiplies_bf16() else {}),
            **int8_linear(a, b),
            "bits-in": lambda: ops.linear_packed(bits, ready, b.shape),
            "float-in": lambda: ops.linear_packed(a, ready, b.shape),
            "one-word": lambda: module.one_word(
                geometry, bits[None, None].numpy(), rows.numpy(), floats.numpy()
            ),
        },
        rounds,
    )
    if not torch.equal(floats[0, 0], ops.linear_packed(bits, ready, b.shape)):
        raise RuntimeError("the one-word loop and the kernels disagree on a matrix product")
    return {"m": m, "k": k, "n": n, "times": times(seconds)}


def measure_ladder(layer, rounds: int) -> dict:
    """From the one-word-at-a-time loop to the best variant, bits in and out (the loop: floats out), against
    FP32.
    """
    c, o, k, side = layer
    x, w, p = torch.randn(1, c, side, side), torch.randn(o, c, k, k), k // 2
    xl, wl = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    module, bits, stored = native.load(), ops.pack_activation(x), ops.pack_weight(w)
    geometry = [1, side, side, c, o, k, k, 1, 1, p, p, 1, 1, 1]
    rows = ops.pack_words(w.permute(0, 2, 3, 1).reshape(o, k * k, c) >= 0)
    floats, y = torch.empty(1, side, side, o), torch.empty(1, side, side, (o + 63) // 64, dtype=torch.int64)
    contenders: Contenders = {
        "fp32-nchw": lambda: F.conv2d(x, w, padding=p),
        "fp32-channels_last": lambda: F.conv2d(xl, wl, padding=p),
        "one-word": lambda: module.one_word(geometry, bits.numpy(), rows.numpy(), floats.numpy()),
    }
    names = [name for name, _, supported in module.variants() if supported]
    for name in names:
        one = _backend.Native(module, name)
        blob = torch.empty(one.blob_bytes(geometry), dtype=torch.uint8)
        one.prepack(geometry, stored, blob)
        contenders[name] = partial(one.convolution(geometry, y.dtype), bits, blob, y)
    seconds = alternate(contenders, rounds)
    if not torch.equal(floats.permute(0, 3, 1, 2), ops.conv2d_packed(bits, stored, w.shape, 1, p)):
        raise RuntimeError("the one-word loop and the kernels disagree")
    fp32 = faster(seconds["fp32-nchw"], seconds["fp32-channels_last"])
    return {
        "layer": label(layer), "times": times(seconds),
        "fp32_over": {n: median_ratio(fp32, seconds[n]) for n in ("one-word", *names)},
        "one_word_over": {n: median_ratio(seconds["one-word"], seconds[n]) for n in names},
    }  # fmt: skip


def measure_scaling(layer, batch: int, rounds: int, threads: int) -> dict:
    """How many times faster all threads are than one, both in this process; bits in, bits out."""
    c, o, k, side = layer
    x, w, p = torch.randn(batch, c, side, side), torch.randn(o, c, k, k), k // 2
    module, variant, bits = native.load(), ops.backend().variant, ops.pack_activation(x)
    ready, y = ops.prepack(ops.pack_weight(w), w.shape), torch.empty(batch, side, side, (o + 63) // 64).long()
    geometry = [batch, side, side, c, o, k, k, 1, 1, p, p, 1, 1, 1]

    def on(many: int):
        call, given = module.Convolution(variant, geometry, "bits", False, 1, []), [t.data_ptr() for t in (bits, ready, y)]
        return lambda: call(*given[:2], ready.numel(), given[2], *[0] * 5, many)

    xl, wl = x.contiguous(memory_format=torch.channels_last), w.contiguous(memory_format=torch.channels_last)
    seconds = alternate(
        {"one": on(1), "all": on(threads), "fp32": lambda: F.conv2d(xl, wl, padding=p)}, rounds
    )
    return {
        "layer": label(layer), "batch": batch, "times": times(seconds),
        "one_over_all": median_ratio(seconds["one"], seconds["all"]),
    }  # fmt: skip


def measure_alternation(layer, rounds: int) -> dict:
    """What it costs that PyTorch's operators and ours take turns: time of pairs over the sum of each alone.
    1.0 is nothing.
    """
    c, o, k, side = layer
    x, w = torch.randn(1, c, side, side), torch.randn(o, c, k, k)
    bits, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)
    ours, theirs = (
        (lambda: ops.conv2d_packed(bits, ready, w.shape, 1, k // 2, out="bits")),
        (lambda: F.conv2d(x, w, padding=k // 2)),
    )

    def pair():
        ours()
        theirs()

    seconds = alternate({"ours": ours, "theirs": theirs, "pair": pair}, rounds, slice_s=0.02)
    alone = [a + b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {"layer": label(layer), "times": times(seconds), "pair_over_sum": median_ratio(seconds["pair"], alone)}
