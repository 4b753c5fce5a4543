"""What several tests of packed networks share: the slots that two ways of running one gave, compared."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnlib.deploy.graph import Graph


def compare_slots(graph: Graph, found: dict[str, Tensor], expected: dict[str, Tensor]) -> Tensor:
    """Raises ``AssertionError`` unless all slots are equal: bits (true for +1) exactly, floats up to the order of their sums. Sums in another
    order may turn a sign near zero, and whatever is behind it then differs: such images are left out from that sign on, and may be few.
    Returns which images had none."""
    first = next(iter(expected.values()))
    same, bits, turned = torch.ones(len(first), dtype=torch.bool), 0, 0
    for name in found:  # in the order in which they are written
        one, other = found[name].cpu().reshape(expected[name].shape), expected[name]
        if graph.slots[name].kind == "bits":
            differ = (one != other)[same].flatten(1)
            bits, turned = bits + differ.numel(), turned + int(differ.sum())
            same[same.clone()] &= ~differ.any(1)
        else:
            torch.testing.assert_close(one[same], other[same], atol=2e-3, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert turned <= 1e-3 * bits and same.float().mean() >= 0.75, f"{turned} of {bits} bits differ, in {int((~same).sum())} of {len(same)} images"
    return same
