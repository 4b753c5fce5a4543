"""bfloat16 on a CPU that cannot multiply it: products in float32, rounded, against float64; all else as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from bnnlib import data, layers, ops
from bnnlib.ops import precision
from bnnlib.quantizers import sign
from bnnlib.training import loop

CPU = torch.device("cpu")
HALF_A_STEP = 2**-8  # of bfloat16, relative to the number that is rounded to it
MULTIPLY = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "linear", "linear_backward")


@pytest.fixture
def lacking(monkeypatch):
    """As on a CPU that cannot multiply bfloat16, whatever this one is."""
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: False)


class Products(TorchDispatchMode):
    """Notes the types that products are computed in, gradients included."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in MULTIPLY:
            self.types |= {a.dtype for a in args if isinstance(a, torch.Tensor)}
        return func(*args, **(kwargs or {}))


CASES = {
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, 6, 7, 7), (4, 6, 3, 3)),
    "strided": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=2, dilation=2),
        (2, 6, 9, 9),
        (4, 6, 3, 3),
    ),
    "grouped": (lambda x, w, b: F.conv2d(x, w, b, groups=2), (2, 6, 7, 7), (4, 3, 3, 3)),
    "by-keyword": (lambda x, w, b: F.conv2d(input=x, weight=w, bias=b), (2, 6, 7, 7), (4, 6, 3, 3)),
    "linear": (F.linear, (5, 40), (4, 40)),
    "linear-by-keyword": (lambda x, w, b: F.linear(input=x, weight=w, bias=b), (5, 40), (4, 40)),
}


def arguments(name, dtype=torch.bfloat16):
    torch.manual_seed(0)
    run, *shapes = CASES[name]
    x, w = (torch.randn(shape) for shape in shapes)
    return run, [x.to(dtype), w, torch.randn(len(w))]


def results(run, values, autocast=True, to=None):
    """The output and the gradients of the arguments, for a gradient of the output that bfloat16 holds exactly."""
    values = [v.detach().to(to or v.dtype, copy=True).requires_grad_() for v in values]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = run(*values)
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape).bfloat16().to(y.dtype))
    return [y.detach(), *(v.grad for v in values)]


@pytest.mark.parametrize("name", CASES)
def test_a_product_and_its_gradients_are_exact_but_for_the_last_rounding(lacking, name):
    run, values = arguments(name)
    with Products() as seen, precision.products("bf16-mixed", CPU):
        y, dx, dw, db = results(run, values)
    assert seen.types == {torch.float32}
    assert [t.dtype for t in (y, dx, dw, db)] == 2 * [torch.bfloat16] + 2 * [torch.float32]
    y64, dx64, dw64, db64 = results(run, values, autocast=False, to=torch.float64)
    torch.testing.assert_close(y.double(), y64, rtol=HALF_A_STEP, atol=1e-5)
    torch.testing.assert_close(dx.double(), dx64, rtol=HALF_A_STEP, atol=1e-5)
    torch.testing.assert_close(dw.double(), dw64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(db.double(), db64, rtol=1e-5, atol=1e-5)


def test_it_keeps_the_memory_format(lacking):
    x = torch.randn(2, 6, 7, 7).contiguous(memory_format=torch.channels_last)
    net = nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last)
    with precision.products("bf16-mixed", CPU), torch.autocast("cpu", torch.bfloat16):
        assert net(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.float32, False), (torch.float64, False), (torch.float64, True)], ids=str
)
def test_untouched_in_float64_and_outside_autocast(lacking, name, dtype, autocast):
    run, values = arguments(name)
    plain = results(run, values, autocast, to=dtype)
    with precision.products("bf16-mixed", CPU):
        found = results(run, values, autocast, to=dtype)
    for a, b in zip(found, plain, strict=True):
        assert a.dtype == dtype and torch.equal(a, b)


def test_untouched_under_another_autocast(lacking):
    run, values = arguments("linear", torch.float32)
    with Products() as seen, precision.products("bf16-mixed", CPU), torch.autocast("cpu", torch.float16):
        assert run(*values).dtype == torch.float16
    assert seen.types == {torch.float16}


@pytest.mark.parametrize(
    ("multiplies", "wanted", "device"),
    [
        (True, "bf16-mixed", "cpu"),
        (False, "32-true", "cpu"),
        (False, "64-true", "cpu"),
        (False, "bf16-mixed", "cuda"),
    ],
)
def test_off_where_it_is_not_needed(monkeypatch, multiplies, wanted, device):
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: multiplies)
    run, values = arguments("linear", torch.float32)
    with Products() as seen, precision.products(wanted, torch.device(device)):
        assert torch._functorch.config.backward_pass_autocast == "same_as_forward"
        results(run, values)
    assert seen.types == {torch.bfloat16}


def test_a_cpu_with_avx512_multiplies_bf16():
    """Another one may, too."""
    found = precision.cpu_multiplies_bf16()
    assert isinstance(found, bool) and found >= (torch.backends.cpu.get_cpu_capability() == "AVX512")


def test_after_an_error_all_is_as_before(lacking):
    with (
        pytest.raises(RuntimeError),
        precision.products("bf16-mixed", CPU),
        torch.autocast("cpu", torch.bfloat16),
    ):
        F.linear(torch.randn(2, 3), torch.randn(4, 5))
    assert torch._functorch.config.backward_pass_autocast == "same_as_forward"
    assert not torch.overrides._is_torch_function_mode_enabled() and not torch.is_autocast_enabled("cpu")


# ---- in a net ------------------------------------------------------------------------------------------------


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        layers.RPReLU(8),
        layers.BinaryConv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 1),
        nn.Flatten(),
        layers.BinaryLinear(8 * 36, 12),
        nn.BatchNorm1d(12),
        nn.Linear(12, 5),
    ).to(memory_format=torch.channels_last)


def step(model, run, x):
    """Output and gradients of a training step, as :mod:`bnnlib.training.loop` takes it."""
    model.zero_grad()
    with precision.products("bf16-mixed", CPU):
        with torch.autocast("cpu", torch.bfloat16):
            y = run(x.bfloat16())
        loss = F.cross_entropy(y.float(), torch.arange(len(x)) % 5)
    loss.backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters())]


def test_what_is_no_product_stays_in_bfloat16(lacking):
    model, kinds = net(), []
    for module in model:
        module.register_forward_hook(lambda m, x, y: kinds.append((type(m).__name__, x[0].dtype, y.dtype)))
    with Products() as seen:
        step(model, model, torch.randn(4, 3, 6, 6))
    assert seen.types == {torch.float32}
    assert len(kinds) == 10 and all(pair == [torch.bfloat16, torch.bfloat16] for _, *pair in kinds)


def test_compiled_it_is_the_same_to_the_last_bit_in_one_piece(lacking):
    model, x = net(), torch.randn(4, 3, 6, 6)
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=False)
    for _ in range(3):
        for a, b in zip(step(model, compiled, x), step(model, model, x), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    assert graphs.frame_count == 1


def test_compiled_by_inductor(lacking):
    torch.manual_seed(0)
    model, x = nn.Linear(30, 5), torch.randn(6, 30)
    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1):
        found = step(model, torch.compile(model, fullgraph=True), x)
    y, dw, db = step(model, model, x)
    torch.testing.assert_close(found[0], y, rtol=HALF_A_STEP, atol=1e-5)
    torch.testing.assert_close(found[1:], [dw, db], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "conv2d", "strided", "grouped"])
def test_gradients_of_the_binary_operators(lacking, kind):
    """Of bfloat16 tensors, against float64: the straight-through estimator's."""
    torch.manual_seed(0)
    rest = {"conv2d": (1, 1, 1, 1), "strided": (2, 1, 1, 1), "grouped": (1, 1, 1, 2)}.get(kind, ())
    shapes = ((5, 40), (4, 40)) if kind == "linear" else ((2, 6, 8, 8), (4, 6 // rest[3], 3, 3))
    x, w = (torch.randn(s).bfloat16().requires_grad_() for s in shapes)
    with Products() as seen:
        y = ops.binary_linear(x, w) if kind == "linear" else ops.binary_conv2d(x, w, *rest)
        torch.manual_seed(1)
        dy = torch.randn(y.shape).bfloat16()
        y.backward(dy)
    assert seen.types == {torch.float32}
    a, b = (sign(t.detach().double()).requires_grad_() for t in (x, w))
    (F.linear(a, b) if kind == "linear" else F.conv2d(a, b, None, *rest)).backward(dy.double())
    for t, signs in ((x, a), (w, b)):
        assert t.grad.dtype == torch.bfloat16
        expected = torch.where(t.detach().abs() <= 1, signs.grad, 0)
        torch.testing.assert_close(t.grad.double(), expected, rtol=HALF_A_STEP, atol=1e-4)


# ---- a training run ------------------------------------------------------------------------------------------

TINY = """
title: a tiny run on the embedded digits
source: ours
dataset: digits
model: {name: lenet5}
epochs: 1
batch_size: 64
optimizer: {name: adam, lr: 0.01}
schedule: {name: constant}
precision: bf16-mixed
"""


def test_a_run_in_bf16_and_its_teacher_multiply_no_bfloat16(lacking, tmp_path, monkeypatch):
    """Full runs, as quick ones are in float32; of few images."""
    digits = data.load("digits").subset(train=128, test=50)
    monkeypatch.setattr(data, "load", lambda *_: digits)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    options = {"runs": tmp_path / "runs", "out": tmp_path / "out", "progress": False}
    with Products() as seen:
        teacher = loop.train(path, **options)
        taught = {"distill.teacher": str(teacher.run_dir / "model.safetensors")}
        student = loop.train(path, overrides=taught, **options)
    assert student.record.resolved["precision"] == "bf16-mixed"
    assert student.record.teacher.recipe == "tiny"
    assert torch.bfloat16 not in seen.types and torch.float32 in seen.types
