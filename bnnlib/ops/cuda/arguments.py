"""The kernels' arguments, field by field as in ``kernels/cuda/*.cu``. Pointers are integers here."""

from __future__ import annotations

import ctypes

_POINTER, _LONG, _INT, _UNSIGNED = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int, ctypes.c_uint


def _fields(**kinds: str) -> list[tuple[str, type]]:
    """``pointers="a b"`` and so on, in order."""
    types = {"pointers": _POINTER, "longs": _LONG, "ints": _INT, "unsigned": _UNSIGNED}
    return [(name, types[kind]) for kind, names in kinds.items() for name in names.split()]


class ConvArgs(ctypes.Structure):
    _fields_ = _fields(
        pointers="activations weights tap_counts scale bias residual threshold flip to",
        ints="rows h w oh ow o kh kw sh sw ph pw dh dw groups cg og pixel_words tap_words row_words out_words pool out channels_first",
    )


class PackArgs(ctypes.Structure):
    _fields_ = _fields(pointers="source to", longs="sn sc sh sw pixels", ints="h w c words type by_channel")


class PrepackArgs(ctypes.Structure):
    _fields_ = _fields(pointers="source to tap_counts", longs="words", ints="o bytes cg taps tap_words")


class PoolArgs(ctypes.Structure):
    _fields_ = _fields(pointers="source flip to", longs="words_out", ints="h w oh ow words kernel stride padding")


class TilesArgs(ctypes.Structure):
    _fields_ = _fields(pointers="a b c", ints="m n k words")


class PeakArgs(ctypes.Structure):
    _fields_ = _fields(pointers="to", ints="steps", unsigned="seed never")


ALL = [ConvArgs, PackArgs, PrepackArgs, PoolArgs, TilesArgs, PeakArgs]
OUT = {"float32": 0, "bfloat16": 1, "int16": 2, "bits": 3}
