"""Bits of weights and activations, against NumPy's; weights made ready for one kernel variant."""

from __future__ import annotations

import math

import numpy as np
import ops_reference
import pytest
import torch
from ops_reference import USABLE, randn, signs, use

from bnnlib import ops

variant = ops_reference.variant


def test_zeros_and_nans_have_the_documented_sign(variant):
    x = torch.tensor([[0.0, -0.0, math.nan, 1e-45, -1e-45]])
    assert torch.equal(ops.unpack_activation(ops.pack_activation(x), 5), torch.tensor([[1.0, 1, -1, 1, -1]]))


@pytest.mark.parametrize("channels", [64, 70])
def test_every_kind_of_zero_and_nan_in_planes_and_in_pixels(variant, channels):
    values = torch.tensor([0.0, -0.0, math.nan, -math.nan, 1e-45, -1e-45, math.inf, -math.inf])
    x = values[torch.randint(8, (2, channels, 5, 19), generator=torch.Generator().manual_seed(0))]
    for seen in (x, x.bfloat16()):
        expected = np.packbits((seen >= 0).permute(0, 2, 3, 1).numpy(), axis=-1, bitorder="little")
        for view in (seen, seen.to(memory_format=torch.channels_last)):
            packed = ops.pack_activation(view).numpy().view(np.uint8)
            assert np.array_equal(packed[..., : expected.shape[-1]], expected)


def test_stored_weights_are_numpys_packbits():
    w = randn(5, 3, 3, 3)
    expected = np.packbits(w.reshape(5, -1).numpy() >= 0, axis=1, bitorder="little")
    assert np.array_equal(ops.pack_weight(w).numpy(), expected)
    assert torch.equal(ops.unpack_weight(ops.pack_weight(w), w.shape).double(), signs(w))


@pytest.mark.parametrize("channels", [1, 20, 33, 63, 64, 65, 128, 130])
def test_packed_activations_are_numpys_packbits(variant, channels):
    x = randn(2, channels, 5, 19)
    expected = np.packbits((x >= 0).permute(0, 2, 3, 1).numpy(), axis=-1, bitorder="little")
    for view in (x, x.to(memory_format=torch.channels_last), x.transpose(0, 1).contiguous().transpose(0, 1)):
        packed = ops.pack_activation(view).numpy().view(np.uint8)
        assert (
            np.array_equal(packed[..., : expected.shape[-1]], expected)
            and not packed[..., expected.shape[-1] :].any()
        )
    assert torch.equal(ops.unpack_activation(ops.pack_activation(x), channels).double(), signs(x))


@pytest.mark.skipif(len(USABLE) < 2, reason="needs two variants")
def test_weights_prepacked_for_another_variant_or_shape_are_refused(monkeypatch):
    w = torch.ones(3, 64)
    use(monkeypatch, USABLE[0])
    blob = ops.prepack(ops.pack_weight(w), w.shape)
    with pytest.raises(ValueError, match="another shape"):
        ops.linear_packed(torch.ones(1, 64), blob, (4, 64))
    with pytest.raises(ValueError, match="wrong length"):
        ops.linear_packed(torch.ones(1, 64), torch.cat([blob, blob]), w.shape)
    with pytest.raises(ValueError, match="shorter than their header"):
        ops.linear_packed(torch.ones(1, 64), blob[:20], w.shape)
    with pytest.raises(ValueError, match="not prepacked weights"):
        ops.linear_packed(torch.ones(1, 64), torch.zeros_like(blob), w.shape)
    use(monkeypatch, USABLE[1])
    with pytest.raises(ValueError, match="another kernel variant"):
        ops.linear_packed(torch.ones(1, 64), blob, w.shape)
