"""The gradients of the operators, by PyTorch and by every kernel that this CPU can run, against float64."""

from __future__ import annotations

import numpy as np
import ops_reference
import pytest
import torch
import torch.nn.functional as F
from ops_reference import randn, signs

from bnnlib import layers, native, ops

variant = ops_reference.variant


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("through", ["images", "weights"])
@pytest.mark.parametrize(
    ("what", "dtype", "near"),
    [("binary_linear", torch.float32, 1e-5), ("binary_conv2d", torch.float32, 1e-5),
     ("conv2d_of_signs", torch.float32, 1e-5), ("conv2d_of_signs", torch.bfloat16, 0.05)],
)  # fmt: skip
def test_a_gradient_has_the_gradient_of_products_of_signs(what, dtype, near, through):
    def estimator(t, bound):
        passes = t.clamp(-bound, bound)
        return passes + (signs(t) - passes).detach()

    binary, (x, w, factor) = what != "conv2d_of_signs", (randn(2, 70, 6, 6), randn(8, 70, 3, 3, seed=1), randn(2, 70, 6, 6, seed=2))
    multiply, bound = F.conv2d, 1 if binary else 1000
    if what == "binary_linear":
        multiply, x, w, factor = F.linear, x[:, :, 0, 0], w[:, :, 0, 0], factor[:, :, 0, 0]
    found = []
    for kind, call in ((dtype, getattr(ops, what)), (torch.float64, lambda x, w: multiply(estimator(x, bound), estimator(w, bound)))):
        leaves = [t.to(dtype).to(kind).requires_grad_() for t in (x, w if binary else signs(w), factor)]
        y = call(leaves[0] * leaves[2], leaves[1])
        (slope,) = torch.autograd.grad(y.square().sum(), leaves[0 if through == "images" else 1], create_graph=True)
        found.append([t.double() for t in torch.autograd.grad(slope.square().sum(), leaves[1:])])
    for mine, exact in zip(*found, strict=True):
        assert exact.any() and (mine - exact).norm() <= near * exact.norm()


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


@pytest.mark.parametrize("images", [0, 1, 130])
def test_the_bias_of_signs_gets_its_gradient_in_float32(images):
    """That of bfloat16, on more images than are added at once."""
    x, w = signs(randn(images, 8, 40, 41)).bfloat16(), signs(randn(3, 8, 1, 1)).requires_grad_()
    bias = randn(3, seed=1).requires_grad_()
    y = ops.conv2d_of_signs(x.to(memory_format=torch.channels_last), w, bias)
    given = (100 + randn(*y.shape, seed=2)).to(y.dtype)
    y.backward(given)
    assert bias.grad.dtype == torch.float32
    assert torch.allclose(bias.grad.double(), given.double().sum((0, 2, 3)), rtol=1e-6, atol=0)


def test_bf16_of_more_outputs_than_are_rounded_at_once(variant):
    x, bias = signs(randn(2, 64, 3, 3)).bfloat16().to(memory_format=torch.channels_last), randn(1100, seed=3)
    w = signs(randn(1100, 64, 1, 1, seed=1)).float() * randn(1100, 1, 1, 1, seed=2).abs()
    y, exact = ops.conv2d_of_signs(x, w, bias), F.conv2d(x.double(), w.double(), bias.double())
    near = torch.finfo(torch.bfloat16).eps * (64 if variant == "pytorch" else 1)
    assert y.dtype == torch.bfloat16 and torch.allclose(y.double(), exact, rtol=near, atol=near)


def test_conv2d_of_signs_follows_autocast():
    x, w = (signs(randn(*shape)).float() for shape in ((2, 64, 5, 5), (8, 64, 3, 3)))
    w.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, like = ops.conv2d_of_signs(x, w, padding=1), F.conv2d(x, w, padding=1)
    assert y.dtype == torch.bfloat16 and torch.equal(y, like)
    given = randn(*y.shape, seed=3).bfloat16()
    y.backward(given)
    exact = torch.nn.grad.conv2d_weight(x.double(), w.shape, given.double(), padding=1)
    assert w.grad.dtype == torch.float32
    torch.testing.assert_close(w.grad.double(), exact, rtol=0.01, atol=0.01 * exact.abs().max().item())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, w = x.double(), w.detach().double()
        assert ops.conv2d_of_signs(x, w).dtype == F.conv2d(x, w).dtype == torch.float64


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_new_tensors_may_be_of_another_type_and_lie_elsewhere(variant, dropout):
    x, w = signs(randn(2, 64, 5, 5)).float(), signs(randn(8, 64, 3, 3)).float()

    def gradient() -> torch.Tensor:
        torch.manual_seed(0)
        a, b = layers.dropout(x, dropout).bfloat16().requires_grad_(), w.clone().requires_grad_()
        ops.conv2d_of_signs(a, b, padding=1, dropout=dropout).float().square().sum().backward()
        return torch.cat([a.grad.float().flatten(), b.grad.flatten()])

    expected = gradient()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = gradient()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


GRADIENTS = [name for name, usable in native.load().gradients() if usable] if ops.backend().compiled else []


@pytest.fixture(params=GRADIENTS or [pytest.param(None, marks=pytest.mark.skip("no gradients by kernels on this CPU"))])
def by_kernels(request, monkeypatch):
    """Each of the kernels' gradients that this CPU can run, not only those that it would use."""
    monkeypatch.setattr(ops.backend(), "gradients", request.param)
    return request.param


by_any_kernels = pytest.mark.usefixtures("by_kernels")


@by_any_kernels
@pytest.mark.parametrize(("threads", "dropout"), [(1, 0.0), (2, 0.0), (5, 0.0), (1, 0.5)])
@pytest.mark.parametrize(
    ("n", "c", "o", "h", "w", "kernel", "padding", "stride"),
    [
        (1, 1, 1, 1, 1, (1, 1), (0, 0), 1),
        (5, 40, 17, 1, 1, (1, 1), (0, 0), 1),
        (3, 65, 30, 6, 6, (1, 1), (0, 0), 1),  # pixels without neighbours, some together
        (2, 5, 7, 6, 7, (3, 3), (1, 1), 1),
        (3, 70, 34, 9, 8, (3, 3), (1, 1), 1),
        (1, 33, 25, 5, 4, (5, 5), (2, 2), 1),  # windows larger than what is left of the image
        (2, 17, 50, 12, 13, (5, 5), (0, 0), 1),
        (2, 20, 30, 4, 4, (3, 3), (2, 2), 1),  # the result is larger than the image
        (1, 3, 10, 3, 40, (3, 1), (3, 0), 1),  # lines of the result that see nothing but padding
        (2, 16, 24, 7, 9, (2, 4), (1, 0), 1),
        (1, 65, 130, 31, 33, (3, 3), (1, 1), 1),  # several strips, several words of the index
        (3, 512, 48, 8, 8, (3, 3), (1, 1), 1),  # several shares of the positions
        (1, 40, 400, 6, 7, (3, 3), (1, 1), 1),  # several chunks of outputs
        (2, 20, 30, 9, 8, (3, 3), (1, 1), 2),
        (2, 33, 17, 8, 11, (1, 1), (0, 0), (2, 3)),  # inputs that no result has read
        (2, 40, 70, 13, 12, (7, 7), (3, 3), (2, 1)),
        (1, 64, 128, 40, 38, (3, 3), (1, 1), (3, 2)),  # several strips
    ],
)
def test_gradients_by_kernels_are_exact_where_nothing_is_rounded(
    n, c, o, h, w, kernel, padding, stride, threads, dropout, by_kernels, monkeypatch
):
    """Small integers are multiples of their chunk's step, so float64 must agree to the last bit."""
    if stride != 1 and by_kernels == "amx":
        pytest.skip("PyTorch's, which rounds in another order")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    form = torch.channels_last
    torch.manual_seed(4)
    x = F.dropout(signs(randn(n, c, h, w)), dropout).bfloat16().contiguous(memory_format=form).requires_grad_()
    alpha = 2.0 ** torch.randint(-2, 3, (o, 1, 1, 1), generator=torch.Generator().manual_seed(1))
    alpha[0] = 0
    weight = (alpha * signs(randn(o, c, *kernel, seed=2))).requires_grad_()
    y = ops.conv2d_of_signs(x, weight, stride=stride, padding=padding, dropout=dropout)
    dy = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    y.backward(dy)
    a, b = (t.detach().double().requires_grad_() for t in (x, weight))
    F.conv2d(a, b, None, stride, padding).backward(dy.double())
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
    module, name = native.load(), by_kernels
    dy, bits, scale = np.zeros((1, 4, 4, 8), np.int16), np.zeros((8, 3, 3, 1), np.int64), np.zeros(8, np.float32)
    x, dw, dx = np.zeros((1, 4, 4, 1), np.int64), np.zeros((8, 3, 3, 5), np.float32), np.zeros((1, 4, 4, 5), np.int16)
    good = [1, 4, 4, 5, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    module.gradient_of_input(name, good, dy, bits, scale, dx, 1)
    module.gradient_of_weight(name, good, dy, x, dw, 1)
    for at, words in ((11, "dilation 1 and one group"), *([(7, "need stride 1 here")] if name == "amx" else [])):
        other = [*good[:at], 2, *good[at + 1 :]]
        assert module.computes_gradients(name, good) and not module.computes_gradients(name, other)
        with pytest.raises(ValueError, match=words):
            module.gradient_of_weight(name, other, dy, x, dw, 1)
    with pytest.raises(ValueError, match='no gradients "scalar" on this CPU'):
        module.gradient_of_weight("scalar", good, dy, x, dw, 1)
    with pytest.raises(ValueError, match=r"gradient has shape \[1, 4, 4, 8\], expected \[2, 4, 4, 8\]"):
        module.gradient_of_input(name, [2, *good[1:]], dy, bits, scale, dx, 1)
    with pytest.raises(ValueError, match="scale has the wrong dtype"):
        module.gradient_of_input(name, good, dy, bits, scale.astype(np.float64), dx, 1)


X, W = torch.ones(1, 3, 4, 4), torch.ones(2, 3, 3, 3)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: ops.binary_conv2d(X, W, torch.ones(2)), ValueError, "stride is a tensor: .* lack the bias: add it to the result"),
        (lambda: ops.binary_conv2d(X, W, padding="same"), ValueError, "padding is 'same': it must be a whole number, or one for rows"),
        (lambda: ops.binary_conv2d(X, W, 1, (1, 1, 1)), ValueError, r"padding is \(1, 1, 1\)"),
        (lambda: ops.binary_conv2d(X, W, None), ValueError, "stride is None"),
        (lambda: ops.binary_conv2d(X.numpy(), W), TypeError, r"x is a ndarray: give torch.from_numpy\(x\)"),
        (lambda: ops.binary_linear(X, [[1.0]]), TypeError, r"weight is a list: give torch.as_tensor\(weight\)"),
        (lambda: ops.binary_conv2d(X.int(), W), ValueError, r"x is int32 \[1, 3, 4, 4\]: give x.float\(\)"),
        (lambda: ops.binary_linear(torch.ones(2, 3), torch.ones(4, 3).char()), ValueError, "weight is int8"),
        (lambda: ops.conv2d_of_signs(X.bool(), W), ValueError, "conv2d_of_signs takes floating-point values, and x is bool"),
        (lambda: ops.conv2d_packed(X, ops.pack_weight(W), W.shape, padding="same"), ValueError, "padding is 'same'"),
    ],
)
def test_operands_that_are_none_are_named(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_sizes_of_numpy_are_sizes():
    found = ops.binary_conv2d(X, W, np.int64(1), (np.int32(1), 1))
    assert torch.equal(found, ops.binary_conv2d(X, W, 1, 1))
