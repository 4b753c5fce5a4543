"""The operators against PyTorch's own convolution on -1/+1 tensors, in double precision, for every variant
this CPU can run.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from bnnlib import ops
from bnnlib.ops import _backend, _build

try:
    USABLE = [name for name, _, supported in _backend.variants() if supported]
except _build.BuildError:
    USABLE = []
ALL = [*USABLE, "pytorch"]


def signs(x):
    return torch.where(
        x >= 0, torch.tensor(1.0, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    )


def conv_reference(x, w, *rest):
    return F.conv2d(signs(x), signs(w), None, *rest)


def use(monkeypatch, variant):
    chosen = _backend.Fallback() if variant == "pytorch" else _backend.Native(_build.load(), variant)
    monkeypatch.setattr(_backend, "backend", lambda: chosen)


@pytest.fixture(params=ALL)
def variant(request, monkeypatch):
    use(monkeypatch, request.param)
    return request.param


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize("k", [*range(1, 130, 7), 63, 64, 65, 127, 128, 129, 500, 1000])
def test_linear_equals_torch_for_awkward_sizes(variant, k):
    for o in (1, 31, 33, 129):
        x, w = randn(3, k, seed=k), randn(o, k, seed=o)
        assert torch.equal(ops.binary_linear(x, w).double(), signs(x) @ signs(w).t())


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("stride", range(1, 5))
def test_conv_equals_torch_for_every_kernel_and_stride(variant, kernel, stride):
    x, w = randn(2, 20, 11, 9, seed=kernel), randn(37, 20, kernel, kernel, seed=stride)
    for padding in {0, kernel // 2, kernel - 1}:
        y = ops.binary_conv2d(x, w, stride, padding)
        assert torch.equal(y.double(), conv_reference(x, w, stride, padding))


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


@pytest.mark.parametrize("name", USABLE)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_conv_equals_torch_on_random_geometries(name, monkeypatch, data):
    use(monkeypatch, name)
    groups, cg = (
        data.draw(st.sampled_from([1, 1, 2, 3])),
        data.draw(st.sampled_from([1, 3, 8, 20, 33, 64, 65, 128])),
    )
    og = data.draw(st.sampled_from([1, 7, 32, 64, 130]))
    kernel = [data.draw(st.integers(1, 4)) for _ in range(2)]
    stride, padding, dilation = ([data.draw(st.integers(low, 3)) for _ in range(2)] for low in (1, 0, 1))
    size = [data.draw(st.integers(1 + d * (k - 1), 13)) for k, d in zip(kernel, dilation, strict=True)]
    x = randn(data.draw(st.integers(1, 3)), cg * groups, *size, seed=data.draw(st.integers(0, 9)))
    layout = data.draw(st.sampled_from(["nchw", "channels_last", "transposed", "slice"]))
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == "slice":
        x = F.pad(x, (1, 2, 1, 0))[:, :, 1:, 1:-2]
    w = randn(og * groups, cg, *kernel, seed=1)
    y = ops.binary_conv2d(x, w, stride, padding, dilation, groups)
    assert torch.equal(y.double(), conv_reference(x, w, stride, padding, dilation, groups))
    bits = ops.conv2d_packed(
        ops.pack_activation(x), ops.pack_weight(w), w.shape, stride, padding, dilation, groups, out="bits"
    )
    assert torch.equal(ops.unpack_activation(bits, og * groups).double(), signs(y))


@pytest.mark.parametrize("a", [-1.0, 1.0])
@pytest.mark.parametrize("b", [-1.0, 1.0])
def test_extreme_counts_do_not_overflow(variant, a, b):
    for k in (
        252,
        253,
        1000,
        65280,
        65281,
        70001,
    ):  # around the ends of the kernels' 8-bit and 16-bit stretches
        x, w = torch.full((3, k), a), torch.full((33, k), b)
        assert torch.equal(ops.binary_linear(x, w), torch.full((3, 33), k * a * b))


def test_long_dot_products_in_every_epilogue(variant):
    k, o = 131_080, 70
    x, w = randn(2, k), randn(o, k, seed=1)
    dot = signs(x) @ signs(w).t()
    assert torch.equal(ops.binary_linear(x, w).double(), dot)
    threshold = torch.linspace(-500, 500, o).to(torch.int32)
    bits = ops.linear_packed(x, ops.pack_weight(w), w.shape, threshold=threshold, out="bits")
    assert torch.equal(ops.unpack_words(bits, o), dot >= threshold)


def test_zeros_and_nans_have_the_documented_sign(variant):
    x = torch.tensor([[0.0, -0.0, math.nan, 1e-45, -1e-45]])
    assert torch.equal(ops.unpack_activation(ops.pack_activation(x), 5), torch.tensor([[1.0, 1, -1, 1, -1]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_keep_their_signs_and_their_dtype(dtype):
    x = torch.tensor([[1e-300, -1e-300, 0.0, -3.0]], dtype=torch.float64).to(dtype)
    w = torch.ones(1, 4, dtype=dtype)
    y = ops.binary_linear(x, w)
    assert y.dtype == dtype and y.item() == signs(x).sum().item()


def test_empty_batches():
    assert ops.binary_linear(torch.empty(0, 5), torch.ones(3, 5)).shape == (0, 3)
    assert ops.binary_conv2d(torch.empty(0, 5, 4, 4), torch.ones(3, 5, 3, 3)).shape == (0, 3, 2, 2)


# -------------------------------------------------------------------------------------------------- formats


def test_stored_weights_are_numpys_packbits():
    w = randn(5, 3, 3, 3)
    expected = np.packbits(w.reshape(5, -1).numpy() >= 0, axis=1, bitorder="little")
    assert np.array_equal(ops.pack_weight(w).numpy(), expected)
    assert torch.equal(ops.unpack_weight(ops.pack_weight(w), w.shape).double(), signs(w))


@pytest.mark.parametrize("channels", [1, 20, 63, 64, 65, 130])
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


def test_result_follows_the_memory_format_of_the_input(variant):
    w = randn(16, 8, 3, 3)
    x = randn(2, 8, 6, 6)
    assert ops.binary_conv2d(x, w).is_contiguous()
    assert ops.binary_conv2d(x.to(memory_format=torch.channels_last), w).is_contiguous(
        memory_format=torch.channels_last
    )


# ------------------------------------------------------------------------------------------------ epilogues


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
def test_thresholds_flips_and_pooling(variant, pool):
    x, w = randn(2, 70, 10, 11), randn(131, 70, 3, 3, seed=1)
    threshold = torch.randint(-60, 60, (131,), generator=torch.Generator().manual_seed(2)).to(torch.int32)
    threshold[:2] = torch.tensor([-(2**31), 2**31 - 1])  # always, never
    falls = torch.arange(131) % 3 == 0
    dot = conv_reference(x, w, 1, 1)
    expected = (F.max_pool2d(dot, pool) >= threshold[:, None, None]) ^ falls[:, None, None]
    bits = ops.conv2d_packed(
        x,
        ops.pack_weight(w),
        w.shape,
        padding=1,
        threshold=threshold,
        flip=ops.pack_words(falls),
        pool=pool,
        out="bits",
    )
    assert torch.equal(ops.unpack_activation(bits, 131) > 0, expected)


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


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ops.binary_linear(torch.ones(2, 5), torch.ones(3, 6)), r"\[2, 5\] and \[3, 6\]"),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 3, 4, 4), torch.ones(2, 4, 3, 3)),
            r"needs x \[N, 4, H, W\], got float32 \[1, 3, 4, 4\]",
        ),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 5, 5)),
            "larger than the padded input",
        ),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3), 0),
            "stride and pool must be 1 or more",
        ),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3), 1, -1),
            "padding is negative",
        ),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 4, 4, 4), torch.ones(3, 2, 3, 3), 1, 0, 1, 2),
            "do not divide by the groups",
        ),
        (lambda: ops.pack_weight(torch.ones(4)), "at least two dimensions"),
        (lambda: ops.pack_activation(torch.ones(4, 4, 4)), r"\[4, 4, 4\]"),
        (
            lambda: ops.prepack(torch.zeros(3, 1, dtype=torch.uint8), (3, 9)),
            r"uint8 \[3, 2\], got uint8 \[3, 1\]",
        ),
        (
            lambda: ops.linear_packed(torch.ones(2, 9), torch.zeros(3, 2, dtype=torch.int32), (3, 9)),
            "got int32",
        ),
        (
            lambda: ops.linear_packed(
                torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), out="int8"
            ),
            'got "int8"',
        ),
        (
            lambda: ops.linear_packed(
                torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), scale=torch.ones(4)
            ),
            "scale must be",
        ),
        (
            lambda: ops.or_pool(torch.zeros(1, 4, 4, 1, dtype=torch.int64), 64, 5),
            "larger than the padded input",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


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


def python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_unknown_and_unsupported_variants_are_refused_by_name():
    done = python("from bnnlib import ops; ops.backend()", BNN_KERNEL="avx9000")
    assert done.returncode and "BNN_KERNEL=avx9000" in done.stderr and "pytorch" in done.stderr
    for name, _, supported in _backend.variants() if USABLE else []:
        if not supported:
            done = python("from bnnlib import ops; ops.backend()", BNN_KERNEL=name)
            assert done.returncode and f"BNN_KERNEL={name} needs" in done.stderr


def test_the_listing_marks_the_variant_in_use():
    done = subprocess.run(
        [sys.executable, "-m", "bnnlib.ops"],
        capture_output=True,
        text=True,
        env={**os.environ, "BNN_KERNEL": ALL[-2]},
    )
    assert done.returncode == 0 and [line for line in done.stdout.splitlines() if "in use" in line][
        0
    ].startswith(ALL[-2])


# ---------------------------------------------------------------------------------- torch.library, autograd


def test_opcheck():
    x, w = randn(2, 5, 6, 7), randn(4, 5, 3, 3, seed=1)
    bits, ready = ops.pack_activation(x), ops.prepack(ops.pack_weight(w), w.shape)
    o = torch.ops.bnn
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    grad = [t.clone().requires_grad_() for t in (x, w)]
    opcheck(o.pack_activation.default, (x,))
    opcheck(o.pack_activation.default, (x[0, 0],))
    opcheck(o.pack_weight.default, (w,))
    opcheck(o.prepack.default, (ops.pack_weight(w), list(w.shape), 1))
    opcheck(o.binary_conv2d.default, (*grad, *geometry))
    opcheck(
        o.binary_conv2d.default,
        (grad[0].detach().to(memory_format=torch.channels_last).requires_grad_(), grad[1], *geometry),
    )
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for bias in (None, randn(4).requires_grad_()):
            given = x.clone().requires_grad_(), signs(w).float().requires_grad_(), bias, *geometry, 0.0, dtype
            opcheck(o.conv2d_of_signs.default, given)
    for form in (torch.contiguous_format, torch.channels_last):
        a, b = (signs(t).bfloat16().contiguous(memory_format=form) for t in (x, w))
        opcheck(o.conv2d_of_signs.default, (a, b, None, *geometry, 0.5, torch.bfloat16))
        for needed in ([True, True], [False, True], [True, False]):
            given = randn(2, 4, 6, 7).bfloat16(), a, b, ops.pack_activation(a)[None], *geometry, 0.0, needed
            opcheck(o.conv2d_of_signs_backward.default, given)
    opcheck(o.binary_linear.default, (randn(3, 2, 9).requires_grad_(), randn(4, 9, seed=1).requires_grad_()))
    for out in ("float32", "bfloat16", "int16", "bits"):
        for source in (x, bits):
            opcheck(
                o.conv2d_packed.default,
                (source, ready, list(w.shape), *geometry, None, None, None, None, None, 1, out),
            )
        flat, wide = randn(3, 2, 9), randn(4, 9, seed=1)
        opcheck(
            o.linear_packed.default, (flat, ops.pack_weight(wide), [4, 9], None, None, None, None, None, out)
        )
    opcheck(o.or_pool.default, (bits, 5, 2, 2, 0, None))


def test_the_gradient_is_the_clipped_estimators():
    x, w = randn(3, 6, 8, 8).mul(1.5), randn(8, 3, 3, 3, seed=1).mul(1.5)

    def estimator(t):
        clipped = t.clamp(-1, 1)
        return clipped + (signs(t).float() - clipped).detach()

    a, b = (t.clone().requires_grad_() for t in (x, w))
    c, d = (t.clone().requires_grad_() for t in (x, w))
    weight = randn(3, 8, 4, 4, seed=3)
    (ops.binary_conv2d(a, b, 2, 1, 1, 2) * weight).sum().backward()
    (F.conv2d(estimator(c), estimator(d), None, 2, 1, 1, 2) * weight).sum().backward()
    assert torch.allclose(a.grad, c.grad, atol=1e-5) and torch.allclose(b.grad, d.grad, atol=1e-4)
    a, b = randn(5, 2, 7).requires_grad_(), randn(4, 7, seed=1).requires_grad_()
    c, d = a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()
    ops.binary_linear(a, b).square().sum().backward()
    F.linear(estimator(c), estimator(d)).square().sum().backward()
    assert torch.allclose(a.grad, c.grad, atol=1e-5) and torch.allclose(b.grad, d.grad, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.75])
@pytest.mark.parametrize("biased", [False, True])
def test_conv2d_of_signs_is_conv2d(variant, dtype, channels_last, dropout, biased):
    x, w = randn(3, 70, 9, 8), randn(34, 35, 3, 3, seed=1)
    alpha = randn(34, 1, 1, 1, seed=2).abs()
    alpha[0] = 0
    rest = 2, (1, 0), (1, 2), 2
    format = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(4)
    a = F.dropout(signs(x), dropout).to(dtype).contiguous(memory_format=format).requires_grad_()
    b = (alpha.double() * signs(w)).float().to(torch.float64 if dtype == torch.float64 else torch.float32)
    b.requires_grad_()
    c, d = (t.detach().double().requires_grad_() for t in (a, b))
    e = randn(34, seed=5).requires_grad_() if biased else None
    f = e.detach().double().requires_grad_() if biased else None
    y, exact = ops.conv2d_of_signs(a, b, e, *rest, dropout), F.conv2d(c, d, f, *rest)
    assert y.dtype == dtype and (channels_last or y.is_contiguous())
    # counted and rounded once, or a sum of 35 * 9 products
    rounding = torch.finfo(dtype).eps * (315 if variant == "pytorch" else 1)
    assert torch.allclose(y.double(), exact, rtol=rounding, atol=rounding)
    given = randn(*y.shape, seed=3)
    y.backward(given.to(dtype))
    exact.backward(given.to(dtype).double())
    near = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float64: 1e-9}[dtype]
    for mine, reference in ((a.grad, c.grad), (b.grad, d.grad)):
        assert torch.allclose(mine.double(), reference, rtol=near, atol=near * reference.abs().max())
    if biased:
        assert e.grad.dtype == torch.float32 and torch.allclose(e.grad.double(), f.grad, rtol=1e-5, atol=1e-4)


def test_conv2d_of_signs_follows_autocast():
    x, w = (signs(randn(*shape)).float() for shape in ((2, 64, 5, 5), (8, 64, 3, 3)))
    w.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, like = ops.conv2d_of_signs(x, w, padding=1), F.conv2d(x, w, padding=1)
    assert y.dtype == torch.bfloat16 and torch.equal(y, like)
    y.float().square().sum().backward()
    assert w.grad.dtype == torch.float32 and w.grad.abs().sum() > 0


GRADIENTS = [name for name, usable in _build.load().gradients() if usable] if ops.backend().compiled else []


@pytest.fixture(params=GRADIENTS or [pytest.param(None, marks=pytest.mark.skip("no gradients by kernels on this CPU"))])
def by_kernels(request, monkeypatch):
    """Each of the kernels' gradients that this CPU can run, not only those that it would use."""
    monkeypatch.setattr(ops.backend(), "gradients", request.param)
    return request.param


by_any_kernels = pytest.mark.usefixtures("by_kernels")


@by_any_kernels
@pytest.mark.parametrize(("threads", "dropout"), [(1, 0.0), (2, 0.0), (1, 0.5)])
@pytest.mark.parametrize(
    ("n", "c", "o", "h", "w", "kernel", "padding"),
    [
        (1, 1, 1, 1, 1, (1, 1), (0, 0)),
        (5, 40, 17, 1, 1, (1, 1), (0, 0)),
        (2, 5, 7, 6, 7, (3, 3), (1, 1)),
        (3, 70, 34, 9, 8, (3, 3), (1, 1)),
        (1, 33, 25, 5, 4, (5, 5), (2, 2)),  # windows larger than what is left of the image
        (2, 17, 50, 12, 13, (5, 5), (0, 0)),
        (2, 20, 30, 4, 4, (3, 3), (2, 2)),  # the result is larger than the image
        (1, 3, 10, 3, 40, (3, 1), (3, 0)),  # lines of the result that see nothing but padding
        (2, 16, 24, 7, 9, (2, 4), (1, 0)),
        (1, 65, 130, 31, 33, (3, 3), (1, 1)),  # several strips, several words of the index
        (3, 512, 48, 8, 8, (3, 3), (1, 1)),  # several shares of the positions
        (1, 40, 400, 6, 7, (3, 3), (1, 1)),  # several chunks of outputs
    ],
)
def test_gradients_by_kernels_are_exact_where_nothing_is_rounded(n, c, o, h, w, kernel, padding, threads, dropout, monkeypatch):
    """Small integers are multiples of their chunk's step, so float64 must agree to the last bit."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    form = torch.channels_last
    torch.manual_seed(4)
    x = F.dropout(signs(randn(n, c, h, w)), dropout).bfloat16().contiguous(memory_format=form).requires_grad_()
    alpha = 2.0 ** torch.randint(-2, 3, (o, 1, 1, 1), generator=torch.Generator().manual_seed(1))
    alpha[0] = 0
    weight = (alpha * signs(randn(o, c, *kernel, seed=2))).requires_grad_()
    y = ops.conv2d_of_signs(x, weight, padding=padding, dropout=dropout)
    dy = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    y.backward(dy)
    a, b = (t.detach().double().requires_grad_() for t in (x, weight))
    F.conv2d(a, b, None, 1, padding).backward(dy.double())
    assert torch.equal(x.grad, a.grad.bfloat16()) and x.grad.is_contiguous(memory_format=form)
    assert torch.equal(weight.grad.double(), b.grad)


@by_any_kernels
@pytest.mark.parametrize("size", [1e-36, 1.0, 1e30])
@pytest.mark.parametrize("outputs", [64, 300])
def test_gradients_by_kernels_are_as_near_as_multiplied_ones(size, outputs):
    x = signs(randn(8, 96, 12, 12)).bfloat16().requires_grad_()
    weight = (randn(outputs, 1, 1, 1, seed=1).abs() * signs(randn(outputs, 96, 3, 3, seed=2))).requires_grad_()
    dy = size * randn(8, outputs, 12, 12, seed=3)
    dy *= randn(1, outputs, 1, 1, seed=4).exp() * randn(8, 1, 12, 12, seed=5).exp()  # of different sizes
    a, b = (t.detach().double().requires_grad_() for t in (x, weight))
    F.conv2d(a, b, padding=1).backward(dy.double())
    c, d = (t.detach().bfloat16().requires_grad_() for t in (x, weight))
    F.conv2d(c, d, padding=1).backward(dy.bfloat16())
    ops.conv2d_of_signs(x, weight, padding=1).backward(dy.bfloat16())
    for mine, multiplied, exact in ((x.grad, c.grad, a.grad), (weight.grad, d.grad, b.grad)):
        off, other = ((t.double() - exact).norm() / exact.norm() for t in (mine, multiplied))
        assert off < 1.2 * other < 0.01


@by_any_kernels
@pytest.mark.parametrize("outputs", [64, 128, 300])
def test_gradients_by_kernels_are_off_by_about_one_rounding(outputs):
    """Against float64 of the same bfloat16 gradient: no more than twice what rounding the exact result does."""
    x = signs(randn(8, 96, 12, 12)).bfloat16().requires_grad_()
    weight = (randn(outputs, 1, 1, 1, seed=1).abs() * signs(randn(outputs, 96, 3, 3, seed=2))).requires_grad_()
    dy = randn(8, outputs, 12, 12, seed=3).bfloat16()
    a, b = (t.detach().double().requires_grad_() for t in (x, weight))
    F.conv2d(a, b, padding=1).backward(dy.double())
    ops.conv2d_of_signs(x, weight, padding=1).backward(dy)
    for mine, exact in ((x.grad, a.grad), (weight.grad, b.grad)):
        off, rounding = ((t.double() - exact).norm() / exact.norm() for t in (mine, exact.bfloat16()))
        assert off < 2 * rounding


@by_any_kernels
def test_no_sum_of_gradients_overflows():
    """All signs alike, and one value far above the rest: the largest sums there can be."""
    x, weight = torch.ones(1, 40, 30, 30).bfloat16().requires_grad_(), torch.ones(600, 40, 3, 3).requires_grad_()
    for dy in (torch.ones(1, 600, 30, 30), torch.full((1, 600, 30, 30), -1.5)):
        dy[0, 7, 3, 4] = 3000.0
        x.grad = weight.grad = None
        ops.conv2d_of_signs(x, weight, padding=1).backward(dy.bfloat16())
        a, b = (t.detach().double().requires_grad_() for t in (x, weight))
        F.conv2d(a, b, padding=1).backward(dy.bfloat16().double())
        assert (x.grad.double() - a.grad).abs().max() < 0.01 * a.grad.abs().max()
        assert (weight.grad.double() - b.grad).abs().max() < 0.01 * b.grad.abs().max()


@by_any_kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_every_gradient_that_it_is_part_of(value):
    x = signs(randn(2, 33, 9, 9)).bfloat16().requires_grad_()
    weight = signs(randn(40, 33, 3, 3, seed=1)).requires_grad_()
    dy = randn(2, 40, 9, 9, seed=2).bfloat16()
    dy[1, 35, 4, 5] = value
    ops.conv2d_of_signs(x, weight, padding=1).backward(dy)
    seen = torch.zeros(2, 33, 9, 9, dtype=bool)
    seen[1, :, 3:6, 4:7] = True
    assert torch.equal(~x.grad.isfinite(), seen)
    assert not weight.grad[35].isfinite().any() and weight.grad[:35].isfinite().all()


def test_the_kernels_refuse_gradients_of_other_convolutions(by_kernels):
    module, name = _build.load(), by_kernels
    dy, bits, scale = np.zeros((1, 4, 4, 8), np.int16), np.zeros((8, 3, 3, 1), np.int64), np.zeros(8, np.float32)
    x, dw, dx = np.zeros((1, 4, 4, 1), np.int64), np.zeros((8, 3, 3, 5), np.float32), np.zeros((1, 4, 4, 5), np.int16)
    good = [1, 4, 4, 5, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    module.gradient_of_input(name, good, dy, bits, scale, dx, 1)
    module.gradient_of_weight(name, good, dy, x, dw, 1)
    for at, value in ((7, 2), (11, 2)):
        with pytest.raises(ValueError, match="stride 1, dilation 1 and one group"):
            module.gradient_of_weight(name, [*good[:at], value, *good[at + 1 :]], dy, x, dw, 1)
    with pytest.raises(ValueError, match='no gradients "scalar" on this CPU'):
        module.gradient_of_weight("scalar", good, dy, x, dw, 1)
    with pytest.raises(ValueError, match=r"gradient has shape \[1, 4, 4, 8\], expected \[2, 4, 4, 8\]"):
        module.gradient_of_input(name, [2, *good[1:]], dy, bits, scale, dx, 1)
    with pytest.raises(ValueError, match="scale has the wrong dtype"):
        module.gradient_of_input(name, good, dy, bits, scale.astype(np.float64), dx, 1)


def test_training_through_the_operator_lowers_the_loss():
    torch.manual_seed(0)
    x = torch.randn(64, 40)
    target = signs(x @ torch.randn(40, 10)).float()
    w = torch.nn.Parameter(torch.randn(10, 40) * 0.1)
    optimizer = torch.optim.Adam([w], 0.01)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(ops.binary_linear(x, w) / 40**0.5, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_torch_compile_sees_no_graph_break():
    w, scale = randn(8, 5, 3, 3, seed=1), randn(8, seed=2)
    ready = ops.prepack(ops.pack_weight(w), w.shape)

    def network(x):
        y = ops.conv2d_packed(x, ready, (8, 5, 3, 3), padding=1, scale=scale)
        return ops.binary_conv2d(torch.relu(y) - 0.5, w.transpose(0, 1), padding=1)

    x = randn(2, 5, 6, 6)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), network(x))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    binary = lambda t: ops.binary_conv2d(t, w, padding=1).square().sum()  # noqa: E731
    torch.compile(binary, fullgraph=True, backend="aot_eager")(a).backward()
    binary(b).backward()
    assert torch.equal(a.grad, b.grad)
