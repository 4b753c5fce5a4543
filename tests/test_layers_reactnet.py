"""ReActNet's learned shifts against their formulas in float64."""

import itertools

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F

from bnnlib.layers import RPReLU, RSign
from bnnlib.quantizers import sign


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_rsign_and_rprelu_against_loops(shape):
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64)
    rsign, rprelu = RSign(3).double(), RPReLU(3).double()
    with torch.no_grad():
        for p in (rsign.shift, rprelu.before, rprelu.slope, rprelu.after):
            p.copy_(torch.randn(3))
    a, b = rsign(x), rprelu(x)
    for where in itertools.product(*map(range, shape)):
        c, v = where[1], x[where].item()
        assert a[where] == (1 if v + rsign.shift[c].item() >= 0 else -1)
        shifted = v - rprelu.before[c].item()
        expected = (shifted if shifted > 0 else rprelu.slope[c].item() * shifted) + rprelu.after[c].item()
        assert b[where].item() == pytest.approx(expected, rel=1e-12)


def test_rprelu_passes_gradcheck_and_rsign_moves_its_shift():
    torch.manual_seed(2)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RPReLU(3).double(), (x,))
    rprelu = RPReLU(3)
    rprelu(torch.randn(4, 3, 5)).square().sum().backward()
    assert all(p.grad.abs().min() > 0 for p in rprelu.parameters())
    rsign = RSign(3, ste="clipped").double()
    g = torch.randn(2, 3, 4, dtype=torch.float64)
    rsign(x).backward(g)
    expected = [(g[:, c] * (x[:, c].detach().abs() <= 1)).sum().item() for c in range(3)]
    assert rsign.shift.grad.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ste", ["clipped", "polynomial"])
def test_rsign_may_leave_the_sign_to_the_layer_behind_it(ste):
    torch.manual_seed(3)
    signing, leaving = RSign(3, ste).double(), RSign(3, ste, signs=False).double()
    x, g = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    for rsign in (signing, leaving):
        with torch.no_grad():
            rsign.shift.copy_(torch.tensor([0.2, 0.0, -0.3]))
    found = []
    for rsign in (signing, leaving):
        at = x.clone().requires_grad_()
        y = rsign(at)
        y.backward(g)
        found.append((sign(y.detach()), at.grad, rsign.shift.grad))
    assert torch.equal(leaving(x), x + leaving.shift[:, None, None])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_rprelu_starts_as_a_prelu():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(RPReLU(3, slope=0.1)(x), F.prelu(x, torch.full((3,), 0.1)))
