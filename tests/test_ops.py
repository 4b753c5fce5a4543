"""The operators against PyTorch's own convolution on -1/+1 tensors, in double precision, for every variant
this CPU can run.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import ops_reference
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_reference import ALL, USABLE, conv_reference, randn, signs, use
from torch.library import opcheck

from bnnlib import ops
from bnnlib.ops import _backend

variant = ops_reference.variant


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_keep_their_signs_and_their_dtype(dtype):
    x = torch.tensor([[1e-300, -1e-300, 0.0, -3.0]], dtype=torch.float64).to(dtype)
    w = torch.ones(1, 4, dtype=dtype)
    y = ops.binary_linear(x, w)
    assert y.dtype == dtype and y.item() == signs(x).sum().item()


def test_empty_batches():
    assert ops.binary_linear(torch.empty(0, 5), torch.ones(3, 5)).shape == (0, 3)
    assert ops.binary_conv2d(torch.empty(0, 5, 4, 4), torch.ones(3, 5, 3, 3)).shape == (0, 3, 2, 2)


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
            r"larger than the padded input: kernel 5 x 5, dilation \[1, 1\], input 4 x 4 with padding \[0, 0\]",
        ),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3), 0),
            r"stride must be 1 or more, got \[0, 0\]",
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
            "window 5 is larger than the padded input, 4 x 4 with padding 0",
        ),
        (
            lambda: ops.or_pool(torch.zeros(1, 4, 4, 1, dtype=torch.int64), 65, 2),
            r"65 channels are int64 \[N, H, W, 2\], got int64 \[1, 4, 4, 1\]",
        ),
        (lambda: ops.or_pool(torch.zeros(1, 4, 4, 1), 64, 2), r"got float32 \[1, 4, 4, 1\]"),
        (lambda: ops.or_pool(torch.zeros(4, 4, 1, dtype=torch.int64), 64, 2), r"got int64 \[4, 4, 1\]"),
        (
            lambda: ops.or_pool(torch.zeros(1, 4, 4, 1, dtype=torch.int64), 64, 3, padding=2),
            "cannot pool with window 3, stride 3, padding 2",
        ),
        (
            lambda: ops.or_pool(torch.zeros(1, 4, 4, 1, dtype=torch.int64), 64, 2, flip=torch.zeros(2, dtype=torch.int64)),
            r"flip must be int64 \[1\], got int64 \[2\]",
        ),
        (
            lambda: ops.conv2d_packed(torch.ones(1, 5, 4, 4), ops.pack_weight(torch.ones(3, 5, 1, 1)), (3, 5)),
            r"4-dimensional x and weight, got x \[1, 5, 4, 4\] and weight shape \[3, 5\]",
        ),
        (
            lambda: ops.binary_conv2d(torch.ones(1, 5, 4, 4), torch.ones(3, 5)),
            r"x \[N, C, H, W\] and weight \[O, C/groups, kh, kw\], got \[1, 5, 4, 4\] and \[3, 5\]",
        ),
        (
            lambda: ops.linear_packed(
                torch.ones(2, 4, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), residual=torch.ones(8, 3)
            ),
            r"residual must be float32 \[2, 4, 3\], got float32 \[8, 3\]",
        ),
        (
            lambda: ops.linear_packed(
                torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), residual=torch.ones(2, 3).double()
            ),
            r"residual must be float32 \[2, 3\], got float64 \[2, 3\]",
        ),
        (
            lambda: ops.conv2d_packed(
                torch.ones(2, 9, 4, 4), ops.pack_weight(torch.ones(3, 9, 1, 1)), (3, 9, 1, 1), residual=torch.ones(1, 3, 4, 4)
            ),
            r"residual must be float32 \[2, 3, 4, 4\], got float32 \[1, 3, 4, 4\]",
        ),
        (
            lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), threshold=torch.zeros(3, dtype=torch.int32)),
            'threshold, flip and pool need out="bits", got "float32"',
        ),
        (
            lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), residual=torch.ones(2, 3), out="bits"),
            'a residual needs out="float32", got "bits"',
        ),
        (
            lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9), bias=torch.ones(3), out="int16"),
            'scale and bias need out="float32" or "bfloat16", got "int16"',
        ),
        (
            lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3, 9, 1, 1)),
            r"weight of shape \(O, K\), got \[3, 9, 1, 1\]",
        ),
        (
            lambda: ops.linear_packed(torch.ones(2, 8), ops.pack_weight(torch.ones(3, 9)), (3, 9)),
            r"\[3, 9\] needs x \[..., 9\], got float32 \[2, 8\]",
        ),
        (
            lambda: ops.unpack_activation(torch.zeros(2, 2, dtype=torch.int64), 64),
            r"64 channels are int64 \[..., 1\], got int64 \[2, 2\]",
        ),
        (lambda: ops.prepack(torch.zeros(3, 8, dtype=torch.uint8), (3, 8, 8)), r"got \(3, 8, 8\)"),
        (
            lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)).to("meta"), (3, 9)),
            "x is on cpu and weight on meta",
        ),
        (lambda: ops.linear_packed(torch.ones(2, 9), None, (3, 9)), "weight must be prepacked .* got NoneType"),
        (lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), 3), "shape is 3: give the shape of the float weight"),
        (lambda: ops.linear_packed(torch.ones(2, 9), ops.pack_weight(torch.ones(3, 9)), (3.0, 9)), r"shape is \(3.0, 9"),
        (lambda: ops.linear_packed(torch.tensor(1.0), ops.pack_weight(torch.ones(3, 9)), (3, 9)), r"needs x \[..., 9\], got float32 \[\]"),
        (lambda: ops.linear_packed(torch.ones(2, 0), ops.pack_weight(torch.ones(3, 9)), (3, 0)), r"weight of shape \(O, K\), got \[3, 0\]"),
        (lambda: ops.conv2d_packed(torch.ones(1, 9, 4, 4), ops.pack_weight(torch.ones(3, 9, 1, 1)), "abcd"), "shape is 'abcd'"),
        (lambda: ops.unpack_weight(ops.pack_weight(torch.ones(3, 9)), 3), "shape is 3: give the shape of the float weight"),
        (lambda: ops.prepack(ops.pack_weight(torch.ones(3, 9)), (3, None)), r"shape is \(3, None\)"),
        (
            lambda: ops.conv2d_packed(torch.ones(1, 9, 4, 4), ops.pack_weight(torch.ones(3, 9, 1, 1)), (3, 9, 1, 1), out="bits", pool=2.0),
            "pool is 2.0: it must be a whole number >= 1",
        ),
        (lambda: ops.or_pool(torch.zeros(1, 4, 4, 1, dtype=torch.int64), 64, (2, 2)), r"window is \(2, 2\): it must be a whole number >= 1"),
        (lambda: ops.pack_activation(torch.ones(2, 3) > 0), r"bool \[2, 3\] holds no negative .* every sign would be \+1: give torch.where"),
        (lambda: ops.pack_weight(torch.ones(2, 3).byte()), r"uint8 \[2, 3\] holds no negative number"),
        (lambda: ops.conv2d_of_signs(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3), dropout=1.0), r"dropout is 1.0: it must lie in \[0, 1\)"),
        (lambda: ops.conv2d_of_signs(torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3), dropout=-0.5), "dropout is -0.5"),
        (lambda: ops.pack_words(torch.ones(2, 3)), "takes booleans, such as x >= 0, got torch.float32"),
        (lambda: ops.unpack_words(torch.zeros(2, 1, dtype=torch.int64), 65), r"65 bits are int64 \[..., 2\], got int64 \[2, 1\]"),
        (lambda: ops.unpack_words(torch.zeros(2, 1, dtype=torch.int64), -1), r"-1 bits are int64 \[..., 0\]"),
        (lambda: ops.unpack_words(torch.zeros(2, 1), 3), r"got float32 \[2, 1\]"),
        (lambda: ops.threshold_of(torch.ones(5, 2, dtype=torch.bool), 3), r"bits are bool \[5, 2\], expected bool \[2k \+ 1, C\].*k is 3"),
        (lambda: ops.threshold_of(torch.ones(5, 2), 2), r"bits are float32 \[5, 2\]"),
        (lambda: ops.fold_threshold(torch.nn.BatchNorm1d(2), 2, 9), r"BatchNorm1d in training mode: call its eval\(\) first"),
        (lambda: ops.fold_threshold(lambda v: v, 1, 2**24), "k is 16777216: from 2\\*\\*24 on"),
        (lambda: ops.fold_threshold(lambda v: v, 1, -1), "k is -1: it must be a whole number >= 1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, w: ops.linear_packed(x.numpy(), ops.pack_weight(w), w.shape), r"linear_packed takes tensors, and x is a ndarray: give torch.from_numpy\(x"),
        (lambda x, w: ops.linear_packed(x, ops.pack_weight(w).numpy(), w.shape), "weight is a ndarray"),
        (lambda x, w: ops.linear_packed(x, ops.pack_weight(w), w.shape, scale=2.0), "scale is a float: give torch.as_tensor"),
        (lambda x, w: ops.linear_packed(x, ops.pack_weight(w), w.shape, residual=np.zeros((2, 3), np.float32)), "residual is a ndarray"),
        (lambda x, w: ops.conv2d_packed(x[:, :, None, None].numpy(), ops.pack_weight(w), (*w.shape, 1, 1)), "conv2d_packed takes tensors"),
        (lambda x, w: ops.pack_activation(x.tolist()), "pack_activation takes tensors, and x is a list"),
        (lambda x, w: ops.pack_weight(w.numpy()), "weight is a ndarray"),
        (lambda x, w: ops.prepack(ops.pack_weight(w).numpy(), w.shape), "bits is a ndarray"),
        (lambda x, w: ops.unpack_weight(ops.pack_weight(w).numpy(), w.shape), "bits is a ndarray"),
        (lambda x, w: ops.unpack_activation(ops.pack_activation(x).numpy(), 9), "bits is a ndarray"),
        (lambda x, w: ops.or_pool(None, 9, 2), "bits is a NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_named(call, words):
    with pytest.raises(TypeError, match=words):
        call(torch.ones(2, 9), torch.ones(3, 9))


@pytest.mark.parametrize(
    "call", [ops.pack_activation, lambda x: ops.binary_linear(x, torch.ones(2, 3))], ids=["pack_activation", "binary_linear"]
)
def test_complex_numbers_have_no_sign(call):
    with pytest.raises(TypeError, match="complex numbers have no sign: got torch.complex64"):
        call(torch.ones(2, 3, dtype=torch.complex64))


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
        for needed in ([True, True, False], [False, True, True], [True, False, True]):
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
