"""The sign, its straight-through estimators and the scaled sign, against tables, loops and autograd."""

import ast
import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bnnlib import quantizers
from bnnlib.quantizers import (
    binarize,
    center,
    input_scale,
    mean_scale,
    scaled_sign,
    sign,
    standardize,
    surrogate,
)

ROOT = Path(__file__).parent.parent
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
STES = ["identity", "clipped", "approx_sign", "ede", "polynomial", "tanh"]
GRADIENTS = ["identity", "detached", "paper", "corrected", "s4", "consistent"]
INPUTS = [-2.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 1.5]
SIGNS = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def sech2(x):
    return 1 / math.cosh(x) ** 2


# ste, temperature, gradient at each of INPUTS
TABLE = [
    ("identity", 1.0, [1.0] * 8),
    ("clipped", 1.0, [0, 1, 1, 1, 1, 1, 1, 0]),
    ("polynomial", 1.0, [0, 0, 1, 2, 2, 1.5, 0, 0]),
    ("tanh", 1.0, [sech2(x) for x in INPUTS]),
    ("tanh", 4.0, [4 * sech2(4 * x) for x in INPUTS]),
    ("tanh", 0.1, [sech2(0.1 * x) for x in INPUTS]),  # 1/t outside, t inside: slope 1 at zero
]


# ---- sign --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_sign_is_never_zero_and_keeps_the_dtype(dtype):
    x = torch.tensor(
        [*INPUTS, math.inf, -math.inf, torch.finfo(dtype).tiny, -torch.finfo(dtype).tiny], dtype=dtype
    )
    y = sign(x)
    assert y.dtype == dtype
    assert y.tolist() == [*SIGNS, 1, -1, 1, -1]


def test_sign_of_both_zeros_is_plus_one():
    zeros = torch.tensor([0.0, -0.0])
    assert math.copysign(1, zeros[1].item()) == -1  # it really is the negative zero
    assert sign(zeros).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_fast_forms_give_the_values_of_their_definitions(dtype):
    one = torch.ones((), dtype=dtype)
    edges = [torch.nextafter(one, 2 * one), torch.nextafter(one, 0 * one), one, 0 * one]
    special = [math.inf, 1e-45, 6e-8]
    x = torch.tensor([*(e.item() for e in edges), *special, *torch.linspace(-2, 2, 401)], dtype=dtype)
    x = torch.cat([x, -x]).view(2, -1)
    grad = torch.linspace(-3, 5, x.numel()).to(dtype).view(2, -1)
    for part in (slice(None), slice(None, None, 3)):  # dense, and with gaps in memory
        v, g = x[:, part], grad[:, part]
        v = v.detach().requires_grad_()
        signs = binarize(v, "clipped")
        signs.backward(g)
        assert torch.equal(signs, sign(v))
        assert torch.equal(v.grad, torch.where(v.abs() <= 1, g, torch.zeros_like(g)))
    assert binarize(torch.tensor([math.nan, -math.nan], dtype=dtype), "clipped").tolist() == [-1, -1]


def test_sign_of_nan_is_minus_one_as_documented():
    assert sign(torch.tensor([math.nan])).item() == -1


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3, 5, 7)])
def test_sign_keeps_any_shape(shape):
    x = torch.randn(shape)
    assert sign(x).shape == x.shape
    assert binarize(x).shape == x.shape


def test_sign_reads_strided_memory():
    x = torch.randn(2, 6, 5, 4)
    for view in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(0, 3),
        x[:, ::2],
        x.expand(3, 2, 6, 5, 4),
    ):
        assert torch.equal(sign(view), sign(view.contiguous()))


# ---- binarize ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ste", "temperature", "gradient"), TABLE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_table_of_outputs_and_gradients(ste, temperature, gradient, dtype):
    x = torch.tensor(INPUTS, dtype=dtype, requires_grad=True)
    weight = torch.arange(1, len(INPUTS) + 1, dtype=dtype)  # each incoming gradient different
    y = binarize(x, ste, temperature)
    (y * weight).sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert y.tolist() == SIGNS
    expected = torch.tensor(gradient, dtype=torch.float64) * weight.double()
    rounding = 2 * torch.finfo(dtype).eps  # of tanh(t x), taken times t and the weight; and of t
    torch.testing.assert_close(
        x.grad.double(), expected, rtol=2 * rounding, atol=rounding * max(1, temperature) * len(INPUTS)
    )


@pytest.mark.parametrize("ste", STES)
@pytest.mark.parametrize("temperature", [0.1, 0.3, 1.0, 7.0])
def test_gradient_is_that_of_the_surrogate(ste, temperature):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(501, dtype=torch.float64), torch.tensor(INPUTS, dtype=torch.float64)])
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    grad = torch.randn_like(x)
    binarize(a, ste, temperature).backward(grad)
    surrogate(b, ste, temperature).backward(grad)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("ste", STES)
def test_surrogate_passes_gradcheck(ste):
    x = torch.linspace(-2.3, 2.3, 47, dtype=torch.float64).requires_grad_()  # off the kinks at -1, 0 and 1
    keep = (x.detach().abs() - 1).abs().gt(1e-3) & x.detach().abs().gt(1e-3)
    assert torch.autograd.gradcheck(lambda v: surrogate(v, ste, 3.0), (x.detach()[keep].requires_grad_(),))


@pytest.mark.parametrize("ste", STES)
def test_surrogate_tends_to_the_sign_or_is_a_line(ste):
    """Each surrogate is odd, rises from -1 to 1, and passes through 0: a stand-in for the sign."""
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    y = surrogate(x, ste, 5.0)
    torch.testing.assert_close(y, -y.flip(0), rtol=0, atol=1e-12)
    assert (y.diff() >= -1e-12).all()
    if ste != "identity":
        torch.testing.assert_close(
            y[[0, -1]], torch.tensor([-1.0, 1.0], dtype=torch.float64), rtol=1e-9, atol=1e-9
        )


def test_temperature_may_be_a_tensor_that_changes_in_place():
    t = torch.tensor(0.5)
    x = torch.tensor([0.3], requires_grad=True)
    for value in (0.5, 2.0):
        t.fill_(value)
        x.grad = None
        binarize(x, "tanh", t).backward()
        assert x.grad.item() == pytest.approx(max(1 / value, 1) * value * sech2(value * 0.3), rel=1e-6)


def test_gradient_arrives_in_strided_memory():
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    grad = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    for ste in STES:
        plain = x.clone().requires_grad_()
        binarize(plain, ste).backward(grad)
        last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        binarize(last, ste).backward(grad.transpose(0, 1).contiguous().transpose(0, 1))
        assert torch.equal(plain.grad, last.grad)


# ---- the scaled sign ---------------------------------------------------------------------------------------


def loops(w: torch.Tensor, g: torch.Tensor, kind: str) -> tuple[list, list]:
    """Output and gradient of the scaled sign, weight by weight from the formulas, in Python floats."""
    rows, gradients = w.double().flatten(1).tolist(), g.double().flatten(1).tolist()
    c_in, outputs, results = w.shape[1], [], []
    for row, grad in zip(rows, gradients, strict=True):
        n = len(row)
        alpha = sum(abs(v) for v in row) / n
        s = [1.0 if v >= 0 else -1.0 for v in row]
        outputs.append([alpha * sj for sj in s])
        result = []
        for i in range(n):
            straight = alpha * grad[i] if abs(row[i]) <= 1 else 0.0
            if kind == "identity":
                result.append(grad[i])
            elif kind == "detached":
                result.append(straight)
            elif kind == "paper":
                result.append(grad[i] / n + straight)
            else:
                total = 0.0
                for j in range(n):
                    total += grad[j] * s[j]
                exact = s[i] * total / n
                if kind == "consistent":
                    straight = alpha * (grad[i] - exact) if abs(row[i]) <= 1 else 0.0
                value = exact + straight
                result.append(value * (1 - 1 / c_in) * n if kind == "s4" else value)
        results.append(result)
    return outputs, results


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 1, 3, 3), (4, 3, 5, 2), (2, 6, 1, 1)])
def test_scaled_sign_against_loops(gradient, shape):
    torch.manual_seed(1)
    w = torch.randn(shape, dtype=torch.float64) * 1.2
    w.view(-1)[0] = 0.0  # sign(0) = +1 in every formula
    w.view(-1)[-1] = 1.0  # the border of the mask lies inside
    g = torch.randn(shape, dtype=torch.float64)
    outputs, expected = loops(w, g, gradient)
    w.requires_grad_()
    y = scaled_sign(w, gradient)
    y.backward(g)
    torch.testing.assert_close(
        y.detach().flatten(1), torch.tensor(outputs, dtype=torch.float64), rtol=1e-14, atol=1e-14
    )
    torch.testing.assert_close(
        w.grad.flatten(1), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13
    )


def test_scaled_sign_by_hand():
    """One channel (0.5, -1.5), g = (1, 3): alpha = 1, s = (1, -1), sum g s = -2, the mask drops w_2."""
    expected = {
        "identity": [1, 3],
        "detached": [1, 0],
        "paper": [1.5, 1.5],
        "corrected": [0, 1],
        "s4": [0, 1],
    }
    for gradient, values in expected.items():
        w = torch.tensor([[0.5, -1.5]], requires_grad=True)
        y = scaled_sign(w, gradient)
        y.backward(torch.tensor([[1.0, 3.0]]))
        assert y.tolist() == [[1, -1]]
        assert w.grad.tolist() == [values], gradient  # s4: (1 - 1/2) x 2 = 1


def test_corrected_is_autograd_through_alpha():
    """The clipped STE for the sign's derivative, nothing else left out: alpha(W) stays in the graph."""
    torch.manual_seed(2)
    w = (torch.randn(5, 4, 3, 3, dtype=torch.float64) * 0.9).requires_grad_()
    g = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    exact = torch.autograd.grad((mean_scale(w) * binarize(w, "clipped") * g).sum(), w)[0]
    torch.testing.assert_close(
        torch.autograd.grad(scaled_sign(w, "corrected"), w, g)[0], exact, rtol=1e-12, atol=1e-13
    )
    for other in ("detached", "paper"):
        assert not torch.allclose(torch.autograd.grad(scaled_sign(w, other), w, g)[0], exact)


def test_what_corrected_adds_is_the_derivative_through_alpha():
    """Between sign changes alpha(W) sign(W) is smooth: its differences are what ``detached`` lacks."""
    torch.manual_seed(3)
    w = torch.randn(3, 4, dtype=torch.float64)
    w = w + 0.1 * sign(w)  # no sign changes within the finite difference
    g = torch.randn(3, 4, dtype=torch.float64)

    def cost(values):
        return (mean_scale(values) * sign(values) * g).sum()

    through_alpha = torch.zeros_like(w)
    for i in range(3):
        for j in range(4):
            step = torch.zeros_like(w)
            step[i, j] = 1e-6
            through_alpha[i, j] = (cost(w + step) - cost(w - step)) / 2e-6
    v = w.clone().requires_grad_()
    corrected = torch.autograd.grad(scaled_sign(v, "corrected"), v, g)[0]
    detached = torch.autograd.grad(scaled_sign(v, "detached"), v, g)[0]
    torch.testing.assert_close(corrected - detached, through_alpha, rtol=1e-7, atol=1e-8)


def test_s4_is_corrected_times_its_factors():
    torch.manual_seed(4)
    w, g = torch.randn(6, 20, 5, 5, dtype=torch.float64), torch.randn(6, 20, 5, 5, dtype=torch.float64)
    a, b = w.clone().requires_grad_(), w.clone().requires_grad_()
    scaled_sign(a, "corrected").backward(g)
    scaled_sign(b, "s4").backward(g)
    torch.testing.assert_close(b.grad, a.grad * (1 - 1 / 20) * 500, rtol=1e-13, atol=0)


def test_gain_multiplies_the_gradient_alone():
    w = torch.randn(3, 4, dtype=torch.float64)
    a, b = w.clone().requires_grad_(), w.clone().requires_grad_()
    y, z = scaled_sign(a, "corrected"), scaled_sign(b, "corrected", gain=1e9)
    y.sum().backward()
    z.sum().backward()
    assert torch.equal(y, z)
    assert torch.equal(b.grad, a.grad * 1e9)


def test_mean_scale_minimises_the_error():
    """alpha = mean|W| is the best scale of the signs (XNOR-Net paper, eq. 6): any other is further from W."""
    torch.manual_seed(5)
    w = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    alpha = mean_scale(w)
    assert alpha.shape == (3, 1, 1, 1)
    for factor in (0.5, 0.9, 0.999, 1.001, 1.1, 2):
        best = (w - alpha * sign(w)).square().sum((1, 2, 3))
        assert (best < (w - factor * alpha * sign(w)).square().sum((1, 2, 3))).all()


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_sign_keeps_the_dtype(gradient, dtype):
    torch.manual_seed(6)
    w = torch.randn(4, 8, 3, 3).to(dtype)
    g = torch.randn(4, 8, 3, 3).to(dtype)
    outputs, expected = loops(w, g, gradient)
    w.requires_grad_()
    y = scaled_sign(w, gradient)
    y.backward(g)
    assert y.dtype == w.grad.dtype == dtype
    tolerance = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(
        y.detach().double().flatten(1), torch.tensor(outputs, dtype=torch.float64), rtol=tolerance, atol=0
    )
    factor = max(1.0, torch.tensor(expected).abs().max().item())
    torch.testing.assert_close(
        w.grad.double().flatten(1) / factor,
        torch.tensor(expected, dtype=torch.float64) / factor,
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_scaled_sign_of_strided_weights(gradient):
    torch.manual_seed(7)
    w, g = torch.randn(6, 4, 3, 5), torch.randn(6, 4, 3, 5)
    plain = w.clone().requires_grad_()
    y = scaled_sign(plain, gradient)
    y.backward(g)
    for make in (
        lambda t: t.clone().contiguous(memory_format=torch.channels_last),
        lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        lambda t: torch.stack([t, t], dim=-1)[..., 0],
    ):
        other = make(w).detach().requires_grad_()
        z = scaled_sign(other, gradient)
        z.backward(make(g))
        torch.testing.assert_close(z, y, rtol=1e-6, atol=0)
        torch.testing.assert_close(other.grad, plain.grad, rtol=1e-5, atol=1e-5)


def test_a_nan_weight_is_not_hidden():
    w = torch.tensor([[0.5, math.nan], [1.0, -1.0]])
    y = scaled_sign(w)
    assert y[0].isnan().all()
    assert y[1].tolist() == [1, -1]


# ---- transforms of the weights, and the input's scale ----------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 3, 2), (2, 6, 1, 1)])
def test_standardize_and_center(shape):
    torch.manual_seed(8)
    w = torch.randn(shape, dtype=torch.float64) * 3 + 1
    n = w[0].numel()
    for row, out in zip(w.flatten(1).tolist(), standardize(w, eps=1e-5).flatten(1).tolist(), strict=True):
        mean = sum(row) / n
        variance = sum((v - mean) ** 2 for v in row) / n
        for v, o in zip(row, out, strict=True):
            assert o == pytest.approx((v - mean) / math.sqrt(variance + 1e-5), rel=1e-12)
    expected = w.clone()
    for o in range(shape[0]):
        expected[o] -= sum(w[o, c] for c in range(shape[1])) / shape[1]
    torch.testing.assert_close(center(w), expected, rtol=1e-13, atol=1e-14)
    v = w.clone().requires_grad_()
    assert torch.autograd.gradcheck(standardize, (v,))
    assert torch.autograd.gradcheck(center, (v,))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        ((5, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((7, 5), (3, 2), (2, 1), (1, 0), (1, 1)),
        ((9, 8), (2, 3), (1, 2), (2, 1), (3, 2)),
        ((1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    ],
)
def test_input_scale_against_loops(size, kernel, stride, padding, dilation):
    torch.manual_seed(9)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    y = input_scale(x, kernel, stride, padding, dilation)
    assert y.shape[1] == 1
    for n in range(2):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                total = 0.0
                for ki in range(kernel[0]):
                    for kj in range(kernel[1]):
                        h, w = (
                            i * stride[0] - padding[0] + ki * dilation[0],
                            j * stride[1] - padding[1] + kj * dilation[1],
                        )
                        if 0 <= h < size[0] and 0 <= w < size[1]:
                            total += sum(abs(x[n, c, h, w].item()) for c in range(3)) / 3
                assert y[n, 0, i, j].item() == pytest.approx(total / (kernel[0] * kernel[1]), rel=1e-12)


# ---- under torch.compile and autocast --------------------------------------------------------------------


def _network(x, w, ste, gradient):
    product = F.linear if x.dim() == 2 else F.conv2d
    return product(binarize(x, ste, 2.0), scaled_sign(w, gradient)).square().mean()


@pytest.mark.parametrize(
    ("ste", "gradient"), [*zip(STES[:4], GRADIENTS[1:5], strict=True), ("clipped", "identity"), ("clipped", "consistent")]
)
@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv, channels last"])
def test_compiled_without_a_graph_break(ste, gradient, conv):
    torch.manual_seed(10)
    x, w = torch.randn(7, 12), torch.randn(5, 12)
    if conv:
        x, w = (t.reshape(-1, 3, 2, 2).contiguous(memory_format=torch.channels_last) for t in (x, w))
    results = []
    torch._dynamo.reset()
    for run in (_network, torch.compile(_network, backend="aot_eager", fullgraph=True)):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = run(a, b, ste, gradient)
        y.backward()
        results.append((y.detach(), a.grad, b.grad))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    """Latent weights and their gradient stay float32; the product is of the lower precision, and close."""
    torch.manual_seed(11)
    x, w = torch.randn(7, 12, requires_grad=True), torch.randn(5, 12, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = F.linear(binarize(x), scaled_sign(w))
    y.float().square().mean().backward()
    assert y.dtype == dtype
    assert x.grad.dtype == w.grad.dtype == torch.float32
    a, b = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    F.linear(binarize(a), scaled_sign(b)).square().mean().backward()
    torch.testing.assert_close(x.grad, a.grad, rtol=0.05, atol=0.02)
    torch.testing.assert_close(w.grad, b.grad, rtol=0.05, atol=0.02)


# ---- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: binarize(torch.zeros(1), "clip"),
            "unknown ste 'clip': choose one of identity, clipped, approx_sign, ede",
        ),
        (
            lambda: surrogate(torch.zeros(1), "approx"),
            "unknown ste 'approx': choose one of identity, clipped, approx_sign, ede",
        ),
        (
            lambda: scaled_sign(torch.zeros(1, 1), "xnor"),
            "unknown gradient 'xnor': choose one of identity, detached, paper, corrected, s4",
        ),
        (lambda: scaled_sign(torch.zeros(3)), "(C_out, C_in, ...) without a 0, got (3,)"),
        (lambda: scaled_sign(torch.zeros(3, 0)), "got (3, 0)"),
        (lambda: scaled_sign(torch.zeros(0, 3)), "got (0, 3)"),
        (lambda: scaled_sign(torch.zeros(())), "got ()"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


# ---- the one sign ----------------------------------------------------------------------------------------


def sources() -> list[tuple[str, str]]:
    """Every Python file of the library and the kernels, and the code of every chapter, by name."""
    found = [
        (str(p.relative_to(ROOT)), p.read_text())
        for folder in ("bnnlib", "kernels")
        for p in sorted((ROOT / folder).rglob("*.py"))
    ]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        found.append((path.name, re.sub(r"^[%!].*$", "", code, flags=re.MULTILINE)))
    return found


def other_signs(code: str) -> list[str]:
    """Uses of a sign that is 0 at 0: torch.sign, x.sign(), np.sign, sgn, from torch import sign.

    ``self.sign`` is a module's own (RSign).
    """
    banned = {"sign", "sign_", "sgn", "sgn_", "signbit", "copysign"}
    found = []
    for node in ast.walk(ast.parse(code)):
        owner = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
        if isinstance(node, ast.Attribute) and node.attr in banned and owner not in ("quantizers", "self"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and node.module != "bnnlib.quantizers":
            found += [
                f"line {node.lineno}: {ast.unparse(node)}" for name in node.names if name.name in banned
            ]
    return found


def test_nothing_else_takes_a_sign():
    files = sources()
    assert any("layers/" in name for name, _ in files)
    assert {name: other_signs(code) for name, code in files if other_signs(code)} == {}


@pytest.mark.parametrize(
    "code",
    ["torch.sign(x)", "x.sign()", "np.sign(x)", "x.data.sign_()", "from torch import sign", "f = torch.sgn"],
)
def test_the_search_for_signs_finds_them(code):
    assert other_signs(code)
    assert not other_signs("from bnnlib.quantizers import sign\nquantizers.sign(x)\nsign(x)")


def test_the_choices_are_the_ones_tested():
    assert list(quantizers.STE.__args__) == STES
    assert list(quantizers.WeightGradient.__args__) == GRADIENTS
