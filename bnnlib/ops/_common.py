"""What the modules of this package share: the library the operators are registered in, sizes, and types."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from bnnlib.quantizers import sign

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int16": torch.int16, "bits": torch.int64}
GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
OPS = torch.ops.bnn
LIBRARY = torch.library.Library("bnn", "DEF")


def register(schema: str, now: Callable, fake: Callable, backward: Callable | None = None, keep: Callable | None = None) -> None:
    """An operator of the schema, computed by ``now`` wherever its tensors lie. No defaults in it: those are the public
    function's."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, now, "CPU")
    LIBRARY.impl(name, now, "CUDA")
    torch.library.register_fake(f"bnn::{name}", fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"bnn::{name}", backward, setup_context=keep, lib=LIBRARY)


def words(count):
    """Words of 64 bits that hold ``count`` bits."""
    return (count + 63) // 64


def pair(value, name: str) -> list[int]:
    """A size for rows and columns: a number stands for both. Raises ``ValueError`` that says ``name`` for what is none."""
    if isinstance(value, (int, torch.SymInt)):
        return [value, value]
    how = "it must be a whole number, or one for rows and one for columns"
    if isinstance(value, Tensor) and name == "stride":
        raise ValueError(f"stride is a tensor: {how}. Of F.conv2d's arguments these operators lack the bias: add it to the result")
    try:
        found = [operator.index(value)] * 2 if hasattr(value, "__index__") else [*value]
        found = [size if isinstance(size, torch.SymInt) else operator.index(size) for size in found]
    except TypeError:
        found = []
    if len(found) != 2:
        raise ValueError(f"{name} is {value!r:.100}: {how}")
    return found


def tensors(called: str, **operands) -> None:
    """Raises ``TypeError`` for an operand that is no tensor."""
    for name, t in operands.items():
        if not isinstance(t, Tensor):
            how = f"torch.from_numpy({name})" if type(t).__module__ == "numpy" else f"torch.as_tensor({name})"
            raise TypeError(f"{called} takes tensors, and {name} is a {type(t).__name__}: give {how}")


def shape_of_weight(shape) -> tuple[int, ...]:
    """The shape of a weight as whole numbers. Raises ``ValueError``."""
    try:
        return tuple(n if isinstance(n, torch.SymInt) else operator.index(n) for n in shape)
    except TypeError:
        raise ValueError(f"shape is {shape!r:.100}: give the shape of the float weight, such as w.shape") from None


def real_tensors(called: str, **operands) -> None:
    """Raises ``TypeError`` for an operand that is no tensor and ``ValueError`` for one of whole numbers, as the layers do: its gradient
    would be lost."""
    tensors(called, **operands)
    for name, t in operands.items():
        if not t.is_floating_point():
            if t.is_complex():
                raise TypeError(f"complex numbers have no sign: got {t.dtype}")
            raise ValueError(f"{called} takes floating-point values, and {name} is {describe(t)}: give {name}.float()")


def describe(t: Tensor) -> str:
    """A tensor's type and shape, for messages: ``float32 [2, 3]``."""
    return f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}"


def whole(what: str, value, least: int) -> int:
    """``value``, a whole number of any type. Raises ``ValueError`` that says ``what``."""
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if found < least:
        raise ValueError(f"{what} is {value!r:.100}: it must be a whole number >= {least}")
    return found


def channels_last(x: Tensor) -> bool:
    """Whether ``x`` ``[N, C, H, W]`` lies channels last, and not in the usual order as well."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def output_size(size, kernel, stride, padding, dilation):
    """Outputs along one side, of a convolution with these numbers along it."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def float32(x: Tensor) -> Tensor:
    """``x`` as float32 with the same signs, -0.0 and NaN included. Raises ``TypeError`` for complex numbers, ``ValueError`` for types that
    have no negative numbers."""
    if x.dtype == torch.float32:
        return x
    if x.is_complex():
        raise TypeError(f"complex numbers have no sign: got {x.dtype}")
    if not x.dtype.is_signed:
        way = "give torch.where(x, 1.0, -1.0)" if x.dtype == torch.bool else "give x.float(), scaled as the network was trained to see it"
        raise ValueError(f"{describe(x)} holds no negative number, and every sign would be +1: {way}")
    if x.dtype in (torch.bfloat16, torch.float16) or not x.is_floating_point():
        return x.float()
    return sign(x).float()  # what is too small for float32 keeps its sign


def same_device(x: Tensor, **others: Tensor | None) -> None:
    """Raises ``ValueError`` for one of ``others`` that lies elsewhere than ``x``, ``TypeError`` for one that is no tensor."""
    tensors("a packed layer", **{name: t for name, t in others.items() if t is not None})
    device = x.device
    for name, t in others.items():
        if t is not None and t.device != device:
            raise ValueError(f"x is on {x.device} and {name} on {t.device}: move one of them")


def vector(t: Tensor | None, name: str, dtype: torch.dtype, size: int) -> Tensor | None:
    """``t``, contiguous and with its values in memory, if it is of this type and ``[size]``; None where it is None. Else raises
    ``ValueError`` that says ``name``."""
    if t is None:
        return None
    if t.dtype is not dtype or t.shape != (size,):
        raise ValueError(f"{name} must be {str(dtype).removeprefix('torch.')} [{size}], got {describe(t)}")
    return t if t.is_contiguous() and not t.is_neg() else t.resolve_neg().contiguous()


def direct(x: Tensor) -> bool:
    """Whether the tensors are plain and nothing is traced. Then the implementation is called without
    PyTorch's dispatcher, which costs 20 us a call for an operator with this many arguments, a third of a
    small layer.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and (x.is_cpu or x.is_cuda)
        and not torch._C._len_torch_dispatch_stack()
    )
