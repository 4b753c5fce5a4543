"""What follows a layer up to the next sign, as a comparison: found by evaluating PyTorch's own expression.

Two cases. Where a binary layer's integers are binarised again, :func:`of_integers` evaluates the expression on every
integer that the layer can give. Where real values are, :func:`of_reals` bisects over the float32 numbers, which needs
an expression that is monotone, as a chain of batch norms, shifts, ReLUs and PReLUs with slopes of at least 0 is: rounding keeps the
order. Either way the bit is the framework's, whatever its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bnnlib import ops

_LARGEST = 0x71800000  # the bits of 2^100: beyond it a chain overflows, and no activation lies there
_AT_ONCE = 1 << 22


class NotMonotone(ValueError):
    """A chain that no threshold describes."""


def of_integers(
    stages: Sequence[Callable[[Tensor], Tensor]], final: Callable[[Tensor], Tensor], channels: int, k: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """For dots -k..k of each channel and bits ``final(stages[-1](...stages[0](dot)))``, with a max-pool between one
    stage and the next: ``(threshold int32 [C], falls bool [C], pools)``, so that without pools
    ``bit = (dot >= threshold) ^ falls``; ``pools``: for each pool, bool ``[C]``, whether the bit falls where the pool's input
    rises.

    Stages map ``[V, C, 1, 1]`` to the same; ``final`` gives booleans of as many elements. Raises :class:`NotMonotone`.
    """
    pooled: list[list[Tensor]] = [[] for _ in stages[:-1]]
    bits = []
    step = max(1, _AT_ONCE // channels)
    for start in range(-k, k + 1, step):
        dots = torch.arange(start, min(k + 1, start + step), dtype=torch.float32)
        x = dots[:, None, None, None].expand(-1, channels, 1, 1).contiguous()
        for i, stage in enumerate(stages):
            x = stage(x)
            if i < len(pooled):
                pooled[i].append(x.reshape(-1, channels))
        bits.append(final(x).reshape(-1, channels))
    bit = torch.cat(bits)
    try:
        threshold, falls = ops.threshold_of(bit, k)
    except ValueError as error:
        raise NotMonotone(str(error)) from None
    varies = bit[0] != bit[-1]
    pools = []
    for parts in pooled:
        value = torch.cat(parts)
        up, down = (value[1:] >= value[:-1]).all(0), (value[1:] <= value[:-1]).all(0)
        if (varies & ~up & ~down).any():
            raise NotMonotone("what is pooled is not monotone in the layer's result")
        pools.append(varies & torch.where(up, falls, ~falls))
    return threshold, falls, pools


def of_reals(expression: Callable[[Tensor], Tensor], direction: Tensor) -> tuple[Tensor, Tensor]:
    """``(low, high)`` of the shape of ``direction``, so that ``expression(x) == (low <= x <= high)`` for every float32 x up to 2^100, where
    ``expression`` gives booleans and its value rises (direction > 0), falls (< 0) or is constant (0) in x."""
    shape, inf = direction.shape, float("inf")
    # bit patterns in the order of the numbers: key -n is the negative number of bits n
    low = torch.full(shape, -_LARGEST, dtype=torch.int64)
    high = torch.full(shape, _LARGEST, dtype=torch.int64)
    falls = direction < 0
    first, last = expression(_number(low)).reshape(shape), expression(_number(high)).reshape(shape)
    from_below, to_above = torch.where(falls, last, first), torch.where(falls, first, last)
    if (from_below & ~to_above & (direction != 0)).any():
        raise NotMonotone("the chain does not run in the direction of its parts")
    # invariant: at `low` the rising bit is 0, at `high` it is 1
    for _ in range(33):
        middle = (low + high) >> 1
        bit = expression(_number(torch.where(falls, -middle, middle))).reshape(shape)
        high, low = torch.where(bit, middle, high), torch.where(bit, low, middle)
    edge = _number(torch.where(falls, -high, high))
    lower = torch.where(falls, -inf, edge)
    upper = torch.where(falls, edge, inf)
    always, never = first & last, ~first & ~last
    # at 0 a constant is as good as anywhere, and nothing overflows
    constant = direction == 0
    zero = expression(torch.zeros(shape)).reshape(shape)
    always, never = torch.where(constant, zero, always), torch.where(constant, ~zero, never)
    lower = torch.where(always, -inf, torch.where(never, inf, lower))
    upper = torch.where(always, inf, torch.where(never, -inf, upper))
    return lower.float(), upper.float()


def complement(low: Tensor, high: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """The intervals of the opposite bits in the channels ``where``, for intervals that are open on at least one side."""
    inf = torch.full_like(low, float("inf"))
    never, always = low > high, torch.isneginf(low) & torch.isposinf(high)
    below = torch.isposinf(high)  # x >= low becomes x <= the number before low
    new_low = torch.where(below, -inf, torch.nextafter(high, inf))
    new_high = torch.where(below, torch.nextafter(low, -inf), inf)
    new_low = torch.where(always, inf, torch.where(never, -inf, new_low))
    new_high = torch.where(always, -inf, torch.where(never, inf, new_high))
    return torch.where(where, new_low, low), torch.where(where, new_high, high)


def _number(key: Tensor) -> Tensor:
    magnitude = key.abs().to(torch.int32).view(torch.float32)
    return torch.where(key < 0, -magnitude, magnitude)
