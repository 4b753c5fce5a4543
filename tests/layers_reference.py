"""What layers are compared with: convolution in loops; and inputs and parameters without two alike, zeros among them."""

from __future__ import annotations

import itertools

import torch

from bnnlib.quantizers import sign


def pm(*shape, seed=0):
    """Normal numbers with a few exact zeros of both signs among them."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[::7] = 0.0
    x.view(-1)[3::11] = -0.0
    return x


def weights(n: int, seed: int = 0) -> torch.Tensor:
    """``(n,)`` float64 weights, none nearer to zero than 0.05, so that a sign has a derivative there."""
    w = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 2
    return w + 0.05 * sign(w)


def conv_loops(b, w, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, padding_value=0.0):
    """Convolution of lists of numbers, output by output, exact for small integers."""
    n, c, h, width = b.shape
    out, per_group, kh, kw = w.shape
    ho = (h + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    wo = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = torch.zeros(n, out, ho, wo, dtype=torch.float64)
    bl, wl = b.tolist(), w.tolist()
    for a, o, i, j in itertools.product(range(n), range(out), range(ho), range(wo)):
        first = o // (out // groups) * per_group
        total = 0.0
        for ch, ki, kj in itertools.product(range(per_group), range(kh), range(kw)):
            r, q = (
                i * stride[0] - padding[0] + ki * dilation[0],
                j * stride[1] - padding[1] + kj * dilation[1],
            )
            value = bl[a][first + ch][r][q] if 0 <= r < h and 0 <= q < width else padding_value
            total += value * wl[o][ch][ki][kj]
        y[a, o, i, j] = total
    return y


def scrambled(layer):
    """The layer with learned scales and biases that are all different, and some weights exactly zero."""
    g = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name != "weight":
                p.copy_(torch.randn(p.shape, generator=g))
        layer.weight.view(-1)[::5] = 0.0
    return layer
