"""Layers of packed weights, and what follows them: scale, bias, residual, thresholds, pooling."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import ops_reference
import pytest
import torch
import torch.nn.functional as F
from ops_reference import USABLE, conv_reference, randn, signs

from bnnlib import native, ops

variant = ops_reference.variant


@pytest.mark.parametrize(("channels", "side", "kernel"), [(512, 8, 3), (96, 7, 5), (64, 4, 3), (192, 5, 7)])
def test_lines_of_taps_outside_the_image_are_left_out_exactly(variant, channels, side, kernel):
    # small images, where kernels do not count such lines; with the largest padding some pixels see nothing else
    x, w = randn(2, channels, side, side, seed=side), randn(130, channels, kernel, kernel, seed=kernel)
    threshold = torch.arange(130, dtype=torch.int32) - 65
    for padding in ((kernel // 2, kernel // 2), (kernel + 1, kernel // 2)):
        expected = conv_reference(x, w, 1, padding)
        assert torch.equal(ops.binary_conv2d(x, w, padding=padding).double(), expected)
        bits = ops.conv2d_packed(
            x, ops.pack_weight(w), w.shape, padding=padding, threshold=threshold, out="bits"
        )
        want = expected >= threshold[:, None, None]
        assert torch.equal(ops.unpack_activation(bits, 130) > 0, want)


def test_long_dot_products_in_every_epilogue(variant):
    k, o = 131_080, 70
    x, w = randn(2, k), randn(o, k, seed=1)
    dot = signs(x) @ signs(w).t()
    assert torch.equal(ops.binary_linear(x, w).double(), dot)
    threshold = torch.linspace(-500, 500, o).to(torch.int32)
    threshold[:2] = torch.tensor([-(2**31), 2**31 - 1])  # always, never
    threshold[2::7], threshold[3::7] = -k, k + 1  # and so as fold_threshold says it
    bits = ops.linear_packed(x, ops.pack_weight(w), w.shape, threshold=threshold, out="bits")
    assert torch.equal(bits, ops.pack_words(dot >= threshold))


@pytest.mark.parametrize("sign", [1.0, -1.0, None], ids=["alike", "opposite", "random"])
def test_long_rows_with_padding_and_pooling(variant, sign):
    """More products than 16 bits count, of which a border lies outside the image."""
    x = randn(1, 7680, 4, 4) if sign is None else torch.ones(1, 7680, 4, 4)
    w = randn(3, 7680, 3, 3, seed=1) if sign is None else torch.full((3, 7680, 3, 3), sign)
    dot = conv_reference(x, w, 1, 1)
    ready, threshold = ops.pack_weight(w), torch.tensor([-300, 0, 30_000], dtype=torch.int32)
    assert torch.equal(ops.binary_conv2d(x, w, padding=1).double(), dot)
    for pool in (1, 2):
        bits = ops.conv2d_packed(x, ready, w.shape, padding=1, threshold=threshold, pool=pool, out="bits")
        assert torch.equal(
            ops.unpack_activation(bits, 3) > 0, F.max_pool2d(dot, pool) >= threshold[:, None, None]
        )


@pytest.mark.parametrize(
    ("stride", "padding"), [((2, 1), 0), ((1, 2), 0), (1, (1, 0)), (1, (0, 1)), ((3, 2), (0, 2))]
)
def test_one_tap_with_a_stride_or_a_border_along_one_side(variant, stride, padding):
    x, w = randn(2, 70, 5, 6), randn(37, 70, 1, 1, seed=1)
    assert torch.equal(
        ops.binary_conv2d(x, w, stride, padding).double(), conv_reference(x, w, stride, padding)
    )


def test_result_follows_the_memory_format_of_the_input(variant):
    w = randn(16, 8, 3, 3)
    x = randn(2, 8, 6, 6)
    assert ops.binary_conv2d(x, w).is_contiguous()
    assert ops.binary_conv2d(x.to(memory_format=torch.channels_last), w).is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("o", [1, 37, 64, 200])
def test_scale_bias_and_residual_round_as_pytorch_does(variant, channels_last, o):
    x, w = randn(2, 33, 9, 7), randn(o, 33, 3, 3, seed=1)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    scale, bias, residual = randn(o, seed=2), randn(o, seed=3), randn(2, o, 9, 7, seed=4)
    dot = conv_reference(x, w, 1, 1).float()
    ready = ops.prepack(ops.pack_weight(w), w.shape)
    y = dot
    given = {}
    for name, step in [
        ("scale", lambda y: y * scale[:, None, None]),
        ("bias", lambda y: y + bias[:, None, None]),
        ("residual", lambda y: y + residual),
    ]:  # fmt: skip
        y, given[name] = step(y), {"scale": scale, "bias": bias, "residual": residual}[name]
        assert torch.equal(ops.conv2d_packed(x, ready, w.shape, padding=1, **given), y)
    assert torch.equal(ops.conv2d_packed(x, ready, w.shape, padding=1, residual=residual), dot + residual)
    assert torch.equal(ops.conv2d_packed(x, ready, w.shape, padding=1, bias=bias), dot + bias[:, None, None])


@pytest.mark.parametrize(("o", "side"), [(80, 40), (70, 44), (64, 41)])
def test_results_too_large_for_the_cache(variant, o, side):
    """Written past it where rows begin with cache lines; an image alone is not."""
    images = 1 + (4 << 20) // (o * side * side * 4)
    x, w, scale, bias = randn(images, 20, side, side), randn(o, 20, 1, 1, seed=1), randn(o, seed=2), randn(o, seed=3)
    ready = ops.prepack(ops.pack_weight(w), w.shape)
    for view in (x, x.to(memory_format=torch.channels_last)):
        whole = ops.conv2d_packed(view, ready, w.shape, scale=scale, bias=bias)
        assert whole.numel() * 4 > 4 << 20 and whole.is_contiguous(memory_format=torch.contiguous_format) == view.is_contiguous()
        for i in range(images):
            assert torch.equal(whole[i : i + 1], ops.conv2d_packed(view[i : i + 1], ready, w.shape, scale=scale, bias=bias))
        assert torch.equal(whole[1], conv_reference(x[1:2], w)[0].float() * scale[:, None, None] + bias[:, None, None])
        assert torch.equal(ops.conv2d_packed(view, ready, w.shape, scale=scale, bias=bias, residual=whole), whole + whole)


def negative_view(t: torch.Tensor) -> torch.Tensor:
    """The values of ``t`` as PyTorch keeps the imaginary part of a conjugate: memory holds -t."""
    view = torch.complex(torch.zeros_like(t), -t).conj().imag
    assert view.is_neg() and torch.equal(view, t)
    return view


def test_values_whose_memory_holds_their_negatives(variant):
    x, w, scale, bias, residual = randn(2, 70, 5, 4), randn(9, 70, 3, 3, seed=1), randn(9, seed=2), randn(9, seed=3), randn(2, 9, 5, 4, seed=4)
    ready = ops.prepack(ops.pack_weight(w), w.shape)
    assert torch.equal(ops.pack_weight(negative_view(w)), ops.pack_weight(w))
    assert torch.equal(ops.pack_activation(negative_view(x)), ops.pack_activation(x))
    expected = ops.conv2d_packed(x, ready, w.shape, 1, 1, scale=scale, bias=bias, residual=residual)
    views = {"scale": negative_view(scale), "bias": negative_view(bias), "residual": negative_view(residual)}
    assert torch.equal(ops.conv2d_packed(negative_view(x), ready, w.shape, 1, 1, **views), expected)


def test_epilogues_of_every_other_number_of_a_tensor(variant):
    x, w, spread = randn(2, 70, 5, 4), randn(9, 70, 3, 3, seed=1), slice(None, None, 2)
    ready = ops.prepack(ops.pack_weight(w), w.shape)
    scale, bias, threshold = randn(18, seed=2)[spread], randn(18, seed=3)[spread], torch.arange(18, dtype=torch.int32)[spread]
    residual = randn(2, 5, 4, 18, seed=4).permute(0, 3, 1, 2)[:, spread]
    assert not any(t.is_contiguous() for t in (scale, bias, threshold, residual))
    apart = ops.conv2d_packed(x, ready, w.shape, 1, 1, scale=scale, bias=bias, residual=residual)
    dense = {"scale": scale.clone(), "bias": bias.clone(), "residual": residual.contiguous()}
    assert torch.equal(apart, ops.conv2d_packed(x, ready, w.shape, 1, 1, **dense))
    bits = ops.conv2d_packed(x, ready, w.shape, 1, 1, threshold=threshold, out="bits")
    assert torch.equal(bits, ops.pack_activation((conv_reference(x, w, 1, 1) >= threshold[:, None, None]).float() - 0.5))


def test_floats_of_every_layout_and_type_in_turns(variant):
    x, w = randn(2, 70, 6, 4), randn(9, 70, 3, 3, seed=1)
    spaced, bare = torch.zeros(2, 70, 6, 8), torch.zeros(2, 70, 4, 6)
    spaced[..., ::2], bare[:] = x, x.transpose(2, 3)
    stored, expected = ops.pack_weight(w), conv_reference(x, w, 1, 1)
    layouts = [x, x.contiguous(memory_format=torch.channels_last), spaced[..., ::2], bare.transpose(2, 3), x.clone().requires_grad_()]
    layouts += [x.double(), x.bfloat16(), x.bfloat16().contiguous(memory_format=torch.channels_last), ops.pack_activation(x)]
    for _ in range(2):  # what is kept of the first call serves the second alone
        for given in layouts:
            assert torch.equal(ops.conv2d_packed(given, stored, w.shape, 1, 1).double(), expected)
    one = x[:1].expand(2, -1, -1, -1)
    assert torch.equal(ops.conv2d_packed(one, stored, w.shape, 1, 1).double(), conv_reference(one, w, 1, 1))


@pytest.mark.parametrize("name", USABLE)  # the emulation of a GPU, which borrows what has a variant, is of one thread
def test_calls_on_several_threads_at_once(name, monkeypatch):
    ops_reference.use(monkeypatch, name)
    w = randn(40, 70, 3, 3, seed=1)
    ready, xs = ops.prepack(ops.pack_weight(w), w.shape), [randn(2, 70, 9, 7, seed=seed) for seed in range(8)]
    expected = [conv_reference(x, w, 1, 1) for x in xs]

    def call(i: int) -> bool:
        return all(torch.equal(ops.conv2d_packed(xs[i], ready, w.shape, 1, 1).double(), expected[i]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(8)))


def test_tensors_without_memory_are_refused():
    x, w = randn(1, 70, 3, 3), randn(4, 70, 3, 3, seed=1)
    zeros = torch._efficientzerotensor
    with pytest.raises(ValueError, match="no memory"):
        ops.conv2d_packed(zeros((1, 70, 3, 3)), ops.pack_weight(w), w.shape, 1, 1)
    with pytest.raises(ValueError, match="no memory"):
        ops.conv2d_packed(x, ops.pack_weight(w), w.shape, 1, 1, scale=zeros((4,)))


def test_the_kernels_refuse_addresses_of_nothing_and_unknown_results():
    kernels = native.kernels()
    name, geometry = kernels.variants()[-1][0], [1, 3, 3, 70, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    for strides, given in (([], "bits"), ([630, 9, 3, 1], "x")):
        convolve = kernels.Convolution(name, geometry, "bits", False, 1, strides)
        for x, to, said in ((0, 1, f"{given} has no memory"), (1, 0, "the result has no memory")):
            with pytest.raises(ValueError, match=said):
                convolve(x, 1, 1, to, 0, 0, 0, 0, 0, 1)
    with pytest.raises(ValueError, match='no result is "fp8"'):
        kernels.Convolution(name, geometry, "fp8", False, 1, [])
    with pytest.raises(ValueError, match="four strides, got 1"):
        kernels.Convolution(name, geometry, "bits", False, 1, [1])
    with pytest.raises(ValueError, match="pooling window"):
        kernels.Convolution(name, geometry, "bits", False, 0, [])
    with pytest.raises(ValueError, match="x has no memory"):
        kernels.pack(name, 0, False, [1, 3, 2, 2, 12, 4, 2, 1], 1, 1)
    with pytest.raises(ValueError, match="four sizes"):
        kernels.pack(name, 1, False, [1, 3, 2, 2], 1, 1)


def test_linear_epilogues(variant):
    x, w = randn(2, 3, 77), randn(45, 77, seed=1)
    dot = (signs(x) @ signs(w).t()).float()
    scale, bias, residual = randn(45, seed=2), randn(45, seed=3), randn(2, 3, 45, seed=4)
    ready = ops.prepack(ops.pack_weight(w), w.shape)
    assert torch.equal(
        ops.linear_packed(x, ready, w.shape, scale=scale, bias=bias, residual=residual),
        dot * scale + bias + residual,
    )
    assert torch.equal(ops.linear_packed(x, ready, w.shape, out="int16"), dot.to(torch.int16))
    assert torch.equal(ops.unpack_words(ops.linear_packed(x, ready, w.shape, out="bits"), 45), dot >= 0)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize(("channels", "kernel"), [(70, 1), (70, 3), (512, 3)])
def test_thresholds_flips_and_pooling(variant, pool, channels, kernel):
    x, w = randn(2, channels, 10, 11), randn(131, channels, kernel, kernel, seed=1)
    threshold = torch.randint(-60, 60, (131,), generator=torch.Generator().manual_seed(2)).to(torch.int32)
    threshold[:2] = torch.tensor([-(2**31), 2**31 - 1])  # always, never
    falls = torch.arange(131) % 3 == 0
    dot = conv_reference(x, w, 1, kernel // 2)
    expected = (F.max_pool2d(dot, pool) >= threshold[:, None, None]) ^ falls[:, None, None]
    bits = ops.conv2d_packed(
        x,
        ops.pack_weight(w),
        w.shape,
        padding=kernel // 2,
        threshold=threshold,
        flip=ops.pack_words(falls),
        pool=pool,
        out="bits",
    )
    assert torch.equal(bits, ops.pack_activation(expected.float() - 0.5)), (
        "and the bits behind the last channel are 0"
    )


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "dilation"),
    [
        (3, (3, 3), 1, 1, 1), (64, (3, 3), 2, 1, 1), (70, (5, 4), (1, 2), (3, 0), (2, 1)), (200, (1, 1), 1, 0, 1), (130, (7, 9), 3, (4, 9), 1),
        (1100, (3, 3), 1, 1, 1), (66, (15, 17), 1, 8, 1), (66, (16, 16), 1, 8, 1),
    ],
)  # fmt: skip
def test_channels_by_themselves(variant, channels, kernel, stride, padding, dilation):
    """64 of them are counted at once, up to 255 taps; all that may follow, for images of which some taps see borders alone."""
    x, w = randn(3, channels, 12, 11), randn(channels, 1, *kernel, seed=1)
    where = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels}
    dot = conv_reference(x, w, stride, padding, dilation, channels)
    given, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape, channels)
    scale, bias, residual = randn(channels, seed=2), randn(channels, seed=3), randn(*dot.shape, seed=4)
    for values in (x, x.contiguous(memory_format=torch.channels_last), given):
        assert torch.equal(ops.conv2d_packed(values, ready, w.shape, **where), dot.float())
    got = ops.conv2d_packed(given, ready, w.shape, **where, scale=scale, bias=bias, residual=residual)
    assert torch.equal(got, dot.float() * scale[:, None, None] + bias[:, None, None] + residual)
    assert torch.equal(ops.conv2d_packed(given, ready, w.shape, **where, out="int16"), dot.to(torch.int16))
    threshold, falls = torch.arange(channels, dtype=torch.int32) % 9 - 4, torch.arange(channels) % 3 == 0
    for pool in (1, 2):
        if min(dot.shape[2:]) >= pool:
            bits = ops.conv2d_packed(
                x, ready, w.shape, **where, threshold=threshold, flip=ops.pack_words(falls), pool=pool, out="bits"
            )
            expected = (F.max_pool2d(dot, pool) >= threshold[:, None, None]) ^ falls[:, None, None]
            assert torch.equal(bits, ops.pack_activation(expected.float() - 0.5))


def test_flips_of_more_outputs_than_a_piece_of_work_has(variant):
    x, w = randn(3, 70), randn(4200, 70, seed=1)
    threshold, falls = torch.arange(4200, dtype=torch.int32) % 41 - 20, torch.arange(4200) % 3 == 0
    bits = ops.linear_packed(
        x, ops.pack_weight(w), w.shape, threshold=threshold, flip=ops.pack_words(falls), out="bits"
    )
    assert torch.equal(bits, ops.pack_words((signs(x) @ signs(w).t() >= threshold) ^ falls))


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0), (2, 3, 1)])
def test_or_pool_is_max_pooling(variant, window, stride, padding):
    x = signs(randn(2, 70, 9, 8)).float()
    pooled = F.max_pool2d(x, window, stride, padding)
    bits = ops.or_pool(ops.pack_activation(x), 70, window, stride, padding)
    assert torch.equal(ops.unpack_activation(bits, 70), pooled)
    flip = ops.pack_words(torch.arange(70) % 2 == 0)
    flipped = ops.or_pool(ops.pack_activation(x), 70, window, stride, padding, flip)
    assert torch.equal(flipped, bits ^ flip)


def test_folded_batch_norm_and_sign_are_exact(variant):
    o, k = 40, 180
    norm = torch.nn.BatchNorm2d(o).eval()
    with torch.no_grad():
        for name, seed in [("weight", 1), ("bias", 2), ("running_mean", 3)]:
            getattr(norm, name).copy_(randn(o, seed=seed) * 5)
        norm.running_var.copy_(randn(o, seed=4).square())
        norm.weight[:3] = torch.tensor([0.0, 1e-30, -1e-30])
    threshold, flip = ops.fold_threshold(lambda v: norm(v[:, :, None, None])[:, :, 0, 0], o, k)
    x, w = randn(2, 20, 7, 7), randn(o, 20, 3, 3, seed=5)
    expected = norm(conv_reference(x, w, 1, 1).float()) >= 0
    bits = ops.conv2d_packed(
        x, ops.pack_weight(w), w.shape, padding=1, threshold=threshold, flip=flip, out="bits"
    )
    assert torch.equal(ops.unpack_activation(bits, o) > 0, expected)


def test_folding_refuses_what_no_threshold_describes():
    with pytest.raises(ValueError, match="channel 0 is not monotone"):
        ops.fold_threshold(lambda v: 4 - v.square(), 3, 10)
    with pytest.raises(ValueError, match="channel 2 is not monotone"):  # and its neighbours are
        ops.fold_threshold(lambda v: torch.stack([v[:, 0], -v[:, 1], 4 - v[:, 2].square()], 1), 3, 10)
    with pytest.raises(ValueError, match=r"gave \[21, 1\] for \[21, 3\]"):
        ops.fold_threshold(lambda v: v[:, :1], 3, 10)


def test_int16_and_where_it_could_overflow(variant):
    x, w = randn(2, 33, 5, 5), randn(20, 33, 3, 3, seed=1)
    y = ops.conv2d_packed(x, ops.pack_weight(w), w.shape, padding=1, out="int16")
    assert y.dtype == torch.int16 and torch.equal(y.double(), conv_reference(x, w, 1, 1))


def test_int16_is_refused_where_it_could_overflow():
    if not USABLE:
        pytest.skip("no compiled kernels here")
    long = torch.ones(2, 32768)
    with pytest.raises(ValueError, match="int16 results need K <= 32767; K = 32768"):
        ops.linear_packed(long, ops.pack_weight(long), long.shape, out="int16")
