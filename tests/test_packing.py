"""Bits in a byte, against bytes put together one by one."""

import math
import re

import pytest
import torch

from bnnlib.packing import pack_bits, quantize_activations, unpack_bits

SIZES = range(1, 130)


def by_hand(row: list[float]) -> list[int]:
    """Bytes of a row of numbers: element i is bit i % 8 of byte i // 8, set where it is >= 0."""
    made = [0] * ((len(row) + 7) // 8)
    for i, value in enumerate(row):
        if value >= 0:
            made[i // 8] += 2 ** (i % 8)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_size_there_and_back(dtype):
    g = torch.Generator().manual_seed(0)
    for k in SIZES:
        x = torch.randn(3, k, generator=g).to(dtype)
        x.view(-1)[::5] = 0.0
        x.view(-1)[::7] = -0.0
        bits = pack_bits(x)
        assert bits.dtype == torch.uint8
        assert bits.tolist() == [by_hand(row) for row in x.tolist()]
        back = unpack_bits(bits, k, dtype)
        assert back.dtype == dtype
        assert back.tolist() == [[1 if v >= 0 else -1 for v in row] for row in x.tolist()]
        assert torch.equal(pack_bits(back), bits)


@pytest.mark.parametrize("k", [1, 7, 8, 9, 63, 64, 65, 129])
def test_equal_and_alternating_rows(k):
    last = 2 ** ((k - 1) % 8 + 1) - 1  # bits past k stay 0
    assert pack_bits(torch.ones(k)).tolist() == [255] * ((k - 1) // 8) + [last]
    assert pack_bits(-torch.ones(k)).tolist() == [0] * ((k + 7) // 8)
    alternating = torch.tensor([1.0, -1.0] * k)[:k]
    assert pack_bits(alternating).tolist() == by_hand(alternating.tolist())


def test_order_of_the_bits():
    assert pack_bits(torch.tensor([1.0, -1, -1, -1, -1, -1, -1, -1, -1, 1])).tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(8,), (2, 3, 20), (4, 0, 16), (0, 9), (2, 3, 4, 5)])
def test_any_number_of_dimensions(shape):
    x = torch.randn(shape)
    bits = pack_bits(x)
    assert bits.shape == (*shape[:-1], (shape[-1] + 7) // 8)
    assert torch.equal(unpack_bits(bits, shape[-1]), torch.where(x >= 0, 1.0, -1.0))


def test_eight_bits_of_activations_against_float64():
    """The steps reach over all values and 0, which stays 0, also where an image has values of one sign alone."""
    x = (
        torch.rand(4, 3, 50) * torch.tensor([1.0, 1.0, -1.0, 0.0])[:, None, None]
        + torch.tensor([-0.3, 5.0, -5.0, 2.0])[:, None, None]
    )
    x[:, :, 0] = torch.tensor([0.0, 5.0, -5.0, 2.0])[:, None]
    integers, scale = quantize_activations(x)
    for image, found, step in zip(x.double(), integers.double(), scale.double().flatten(), strict=True):
        low, high = min(image.min().item(), 0), max(image.max().item(), 0)
        assert step.item() == pytest.approx((high - low) / 255, rel=1e-6)
        zero = round(-low / step.item())
        assert torch.equal(found, (image / step).round().clamp(max=255 - zero))
        assert (found + zero).min() >= 0 and (found + zero).max() <= 255 and not found[image == 0].any()
    nothing, scale = quantize_activations(
        torch.tensor([[0.0, 0.0], [1e-37, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
    )
    assert not nothing.any() and scale.flatten().tolist() == pytest.approx(
        [0, 0, math.nan, math.nan], nan_ok=True
    )


@pytest.mark.parametrize("k", [5, 16, 24])
def test_strided_memory(k):
    x = torch.randn(k, 6, 4)
    for view in (x.transpose(0, 2), x.permute(1, 2, 0), x[:, ::2].transpose(0, 1)):
        assert torch.equal(pack_bits(view), pack_bits(view.contiguous()))
        bits = pack_bits(view)
        strided = torch.stack([bits, bits], dim=-1)[..., 0]
        assert torch.equal(unpack_bits(strided, view.shape[-1]), torch.where(view >= 0, 1.0, -1.0))


@pytest.mark.parametrize(
    ("bits", "k", "message"),
    [
        (
            torch.zeros(2, 2, dtype=torch.uint8),
            17,
            "17 values take 3 uint8 bytes a row, got 2 of torch.uint8",
        ),
        (torch.zeros(2, 2, dtype=torch.uint8), 8, "8 values take 1 uint8 bytes a row, got 2 of torch.uint8"),
        (
            torch.zeros(2, 2, dtype=torch.int32),
            16,
            "16 values take 2 uint8 bytes a row, got 2 of torch.int32",
        ),
    ],
)
def test_bad_sizes_are_named(bits, k, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unpack_bits(bits, k)
