"""Random small nets of all supported operations: converted, saved, loaded, compared with the model, shape and form included.

    python tests/random_nets.py [--count 1000] [--seed 0]

A value that is binarised may lie so near zero that sums in another order flip its sign. The model in float64 says where that is; images are
drawn again until no such value is left, exact zeros apart. A net of which 30 draws had one each is left out (a norm of a map that is constant
gives zeros up to rounding, whatever the image), and counted. Prints how many nets agreed, what they held, and every seed that did not.
"""

from __future__ import annotations

import argparse
import copy
import functools
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnnlib import deploy, layers

NEAR = 2e-5
ROUNDING = 10
TOLERANCE = 1e-4
"""Of the largest value: several smooth operations and sums in another order, one behind the other."""
LEFT_OUT = ("ties", "unused")


class Step(nn.Module):
    """One operation on earlier values."""

    def __init__(self, row: str, reads: list[int], function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.row, self.reads, self.function, self.parts = row, reads, function, nn.ModuleList(modules)

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*self.parts, *values)


class RandomNet(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        draw = self.draw
        image, row, vector = (draw.choice((2, 4, 6)), draw.randint(5, 10), draw.randint(5, 10)), (draw.choice((4, 6)), draw.randint(6, 14)), (12,)
        self.shapes = [draw.choice((image, image, image, row, vector))]
        if draw.random() < 0.15:
            self.shapes.append(self.shapes[0])
        self.steps = nn.ModuleList()
        values = [torch.randn(2, *s, generator=torch.Generator().manual_seed(seed)) for s in self.shapes]
        self.eval()
        wanted, tries = draw.randint(3, 9), 0
        with torch.no_grad():
            while len(self.steps) < wanted and tries < 100:
                tries += 1
                step = self.step(values)
                if step is None:
                    continue
                step.eval()
                try:
                    made = step(*(values[i].clone() for i in step.reads))
                except (RuntimeError, ValueError):  # too small for it
                    continue
                if 0 < made[0].numel() <= 4000 and made.isfinite().all() and made.abs().max() < 1e4 and made.dim() <= 4:
                    self.steps.append(step)
                    values.append(made)
            last = len(values) - 1
            self.tail = self.end(last, values)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        values = [x] if y is None else [x, y]
        for step in self.steps:
            values.append(step(*(values[i] for i in step.reads)))
        return self.tail(values)

    def rows(self) -> list[str]:
        return [step.row for step in self.steps]

    def step(self, values: list[Tensor]) -> Step | None:
        draw = self.draw
        i = draw.choice([len(values) - 1, len(values) - 1, draw.randrange(len(values))])
        x = values[i]
        kinds = {4: (self.binary, self.binary, self.real, self.move, self.join, self.pool, self.resize, self.norm),
                 3: (self.binary, self.real, self.move, self.join, self.norm), 2: (self.binary, self.real, self.join, self.norm)}  # fmt: skip
        kind = draw.choice((*kinds.get(x.dim(), (self.move,)), self.activation, self.smooth, self.arithmetic, self.sums))
        return kind(i, x, values)

    def binary(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        draw, c, row = self.draw, x.shape[1], "binary layers"
        options = {"scale": draw.choice(("none", "mean", "learned")), "sign_of_zero": draw.choice((1, 1, -1))}
        if x.dim() == 2:
            return Step(row, [i], lambda m, x: m(x), layers.BinaryLinear(c, draw.choice((4, 12, 33)), **options))
        if x.dim() == 3 and draw.random() < 0.3:
            return Step(row, [i], lambda m, x: m(x), layers.BinaryLinear(x.shape[2], 5, **options))
        groups = draw.choice([g for g in (1, 1, 2, c) if c % g == 0])
        size = draw.choice([k for k in (1, 2, 3) if k <= min(x.shape[2:])])
        padding = draw.randint(0, size // 2)
        made = (layers.BinaryConv2d if x.dim() == 4 else layers.BinaryConv1d)(
            c, groups * draw.choice((1, 2, 4)), size, draw.choice((1, 1, 2)), padding, groups=groups, bias=draw.random() < 0.3,
            padding_value=draw.choice((0, 0, 1, -1)), **options,
        )  # fmt: skip
        norm = (nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d)(made.out_channels) if draw.random() < 0.5 else nn.Identity()
        return Step(row, [i], lambda m, n, x: n(m(x)), made, norm)

    def real(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        draw, c, row = self.draw, x.shape[1], "real layers"
        if x.dim() == 2 or (x.dim() == 3 and draw.random() < 0.3):
            return Step(row, [i], lambda m, x: m(x), nn.Linear(x.shape[-1], draw.choice((4, 7))))
        size = draw.choice([k for k in (1, 2, 3) if k <= min(x.shape[2:])])
        if draw.random() < 0.3:
            kind = nn.ConvTranspose2d if x.dim() == 4 else nn.ConvTranspose1d
            return Step(row, [i], lambda m, x: m(x), kind(c, draw.choice((2, 4)), size, draw.choice((1, 2)), size // 2))
        kind, mode = nn.Conv2d if x.dim() == 4 else nn.Conv1d, draw.choice(("zeros", "zeros", "reflect", "replicate", "circular"))
        return Step(row, [i], lambda m, x: m(x), kind(c, draw.choice((2, 4, 6)), size, padding=draw.choice((0, size // 2)), padding_mode=mode))

    def activation(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        made = self.draw.choice((nn.ReLU(inplace=self.draw.random() < 0.5), nn.ReLU6(), nn.Hardtanh(-0.7, 0.9), nn.LeakyReLU(0.1), nn.PReLU()))
        copy = isinstance(made, nn.ReLU) and made.inplace  # of a copy: an input's own memory is the caller's
        return Step("batch norms and activations", [i], (lambda m, x: m(x + 1)) if copy else (lambda m, x: m(x)), made)

    def smooth(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        made = self.draw.choice((nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.ELU(0.5), nn.SELU(), nn.Softplus(), nn.Hardsigmoid(),
                                 nn.Hardswish(), nn.Mish(), *([nn.GLU(1)] if x.shape[1] % 2 == 0 else [])))  # fmt: skip
        return Step("piecewise activations" if "Hard" in type(made).__name__ else "smooth activations", [i], lambda m, x: m(x), made)

    def arithmetic(self, i: int, x: Tensor, values: list[Tensor]) -> Step:
        draw, row = self.draw, "arithmetic"
        same = [j for j, v in enumerate(values) if v.shape == x.shape]
        function = draw.choice((torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum))
        if draw.random() < 0.5:
            return Step(row, [i, draw.choice(same)], function)
        if x.dim() > 2 and draw.random() < 0.5:
            dims = draw.choice(((2,), (1,), tuple(range(2, x.dim()))))
            return Step(row, [i], lambda x: function(x, x.mean(dims, keepdim=True)))
        if draw.random() < 0.15:
            i, limit = draw.randrange(len(self.shapes)), draw.choice((0.0, 0.3, -0.25))  # of an input, which is finite whatever it is
            masks = (lambda x: torch.where(x > limit, x, 0.5), lambda x: x.masked_fill(x <= limit, -1.0), lambda x: (x < limit).float() * x, lambda x: x.sign())
            return Step("piecewise activations", [i], draw.choice(masks))
        constant = torch.rand(x.shape[1], *[1] * (x.dim() - 2)) if draw.random() < 0.5 else torch.rand(x.shape[1:])
        return Step(row, [i], draw.choice((lambda x: (x - constant) / (constant + 0.5), lambda x: 1.5 - x * 0.5, lambda x: x * constant)))

    def move(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        draw, row = self.draw, "moving values"
        choices: list[Callable[[Tensor], Tensor]] = [lambda x: x.flip(1), lambda x: x.roll(1, -1), lambda x: x[:, 1:], lambda x: x.flatten(1)]
        if x.dim() == 3:
            choices += [lambda x: x.transpose(1, 2), lambda x: x.unsqueeze(2), lambda x: F.pad(x, (2, 1))]
        if x.dim() == 4:
            choices += [
                lambda x: x.permute(0, 2, 3, 1), lambda x: x.transpose(2, 3), lambda x: x[:, :, ::2, 1:], lambda x: F.pad(x, (1, 0, 2, 1), value=0.5),
                lambda x: F.pad(x, (1, 1, 0, 1), "reflect"), lambda x: F.interpolate(x, scale_factor=2), lambda x: x.repeat(1, 2, 1, 1),
                lambda x: x.flatten(2), lambda x: x.chunk(2, 1)[0],
            ]  # fmt: skip
            if x.shape[1] % 2 == 0:
                choices.append(lambda x: x.view(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape))
            if x.shape[1] % 4 == 0:
                choices.append(lambda x: F.pixel_shuffle(x, 2))
        if x.dim() == 2 and x.shape[1] % 4 == 0:
            choices.append(lambda x: x.view(-1, 4, x.shape[1] // 4, 1))
        return Step(row, [i], draw.choice(choices))

    def join(self, i: int, x: Tensor, values: list[Tensor]) -> Step:
        dim = self.draw.randrange(1, x.dim())
        if self.draw.random() < 0.2:
            token = nn.Parameter(torch.randn(1, *(1 if d == dim else n for d, n in enumerate(x.shape[1:], 1))))
            made = Step("joining", [i], lambda x: torch.cat([made.token.expand(x.shape[0], *[-1] * (x.dim() - 1)), x], dim))
            made.token = token
            return made
        outside = lambda v: [size for d, size in enumerate(v.shape) if d != dim]  # noqa: E731
        fits = [j for j, v in enumerate(values) if v.dim() == x.dim() and outside(v) == outside(x)]
        return Step("joining", [i, self.draw.choice(fits)], lambda *v: torch.cat(v, dim))

    def pool(self, i: int, x: Tensor, _: list[Tensor]) -> Step | None:
        if min(x.shape[2:]) < 3:
            return None
        pools = (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d(1),
                 nn.AdaptiveMaxPool2d(1), nn.AdaptiveMaxPool2d((2, 3)))  # fmt: skip
        made = self.draw.choice(pools)
        return Step("pools", [i], lambda m, x: m(x), made)

    def sums(self, i: int, x: Tensor, _: list[Tensor]) -> Step | None:
        if x.dim() < 3:
            return None
        dims = self.draw.choice([(d,) for d in range(1, x.dim())] + [tuple(range(2, x.dim()))])
        keep = x.dim() == 3 or self.draw.random() < 0.5
        function = self.draw.choice((torch.mean, torch.sum, torch.amax, torch.amin, torch.linalg.vector_norm))
        function = functools.partial(torch.var, unbiased=False) if self.draw.random() < 0.1 else function
        if function is torch.linalg.vector_norm:
            return Step("sums", [i], lambda x: function(x, dim=dims, keepdim=keep))
        return Step("sums", [i], lambda x: function(x, dims, keepdim=keep))

    def resize(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        size, mode = (self.draw.randint(2, 9), self.draw.randint(2, 9)), self.draw.choice(("bilinear", "bicubic", "area"))
        return Step("resizing", [i], lambda x: F.interpolate(x, size, mode=mode))

    def norm(self, i: int, x: Tensor, _: list[Tensor]) -> Step:
        c = x.shape[1]
        groups = self.draw.choice([g for g in (1, 2, c) if c % g == 0])
        choices: list[nn.Module] = [nn.LayerNorm(x.shape[-1]), nn.GroupNorm(groups, c), nn.Softmax(1), nn.RMSNorm(x.shape[-1])]
        if self.draw.random() < 0.1:
            return Step("norms", [i], lambda x: F.normalize(x, dim=1))
        if x.dim() == 4:
            choices += [nn.LayerNorm(list(x.shape[1:])), nn.BatchNorm2d(c), nn.LogSoftmax(3)]
            choices += [nn.InstanceNorm2d(c)] if x.shape[2] * x.shape[3] > 1 else []
        made = self.draw.choice(choices)
        if isinstance(made, nn.LayerNorm) and x[0].numel() == x.shape[-1] == 1 or isinstance(made, nn.GroupNorm) and x[0].numel() == made.num_groups:
            made = nn.Softmax(1)
        return Step("norms", [i], lambda m, x: m(x), made)

    def end(self, last: int, values: list[Tensor]) -> Callable[[list[Tensor]], Any]:
        other = self.draw.randrange(len(self.shapes), len(values)) if len(values) > len(self.shapes) else 0
        return self.draw.choice((
            lambda v: v[last], lambda v: v[last].flatten(1), lambda v: v[last].reshape(v[last].shape[0], -1, 1), lambda v: v[last].transpose(1, -1),
            lambda v: (v[last], v[other]), lambda v: {"last": v[last], "other": [v[other], v[last].flatten(1)]},
        ))  # fmt: skip


def _shake(net: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if name.endswith("running_var") else -0.4))


def _binarised(net: RandomNet, xs: list[Tensor]) -> list[Tensor]:
    """What the binary layers take the signs of."""
    found: list[Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0])) for m in layers.binary_layers(net).values()]
    with torch.no_grad():
        net(*(x.clone() for x in xs))
    for hook in hooks:
        hook.remove()
    return found


def ties(value: Tensor, exact: Tensor) -> bool:
    """Whether rounding may turn a sign of ``value``, of which ``exact`` is the float64 reference: one lies within
    :data:`NEAR` of the largest from zero, or within :data:`ROUNDING` times what float32 is off in this tensor."""
    size, off = exact.abs(), (value - exact).abs().max()
    near = size <= torch.maximum(NEAR * size.max(), ROUNDING * off)
    return bool((near & ~((exact == 0) & (value == 0))).any())


def _images(net: RandomNet, seed: int) -> list[Tensor] | None:
    """Images of which no binarised value is a tie by the model in float64; None where 30 draws gave none."""
    reference = copy.deepcopy(net).double()
    for again in range(30):
        generator = torch.Generator().manual_seed(1000 * seed + again)
        xs = [torch.randn(3, *s, generator=generator) for s in net.shapes]
        pairs = zip(_binarised(net, xs), _binarised(reference, [x.double() for x in xs]), strict=True)
        if not any(ties(value, exact) for value, exact in pairs):
            return xs
    return None


def _differs(want: Any, got: Any) -> str | None:
    if isinstance(want, dict):
        if not isinstance(got, dict) or list(want) != list(got):
            return f"{type(got).__name__} for a dictionary"
        want, got = list(want.values()), list(got.values())
    if isinstance(want, (tuple, list)):
        if type(want) is not type(got) or len(want) != len(got):
            return f"{type(got).__name__} for a {type(want).__name__}"
        return next((d for a, b in zip(want, got, strict=True) if (d := _differs(a, b))), None)
    if want.shape != got.shape:
        return f"shape {tuple(got.shape)} for {tuple(want.shape)}"
    far = (want - got).abs().max().item()
    return None if far <= TOLERANCE * max(1.0, want.abs().max().item()) else f"off by {far:.3g} of {want.abs().max().item():.3g}"


def check(seed: int, folder: Path) -> tuple[str | None, list[str]]:
    """(what is wrong with the net of this seed, or None; the rows of the table that it holds). ``ties`` where no images without one were
    found, ``unused`` where the result does not depend on the input."""
    torch.manual_seed(seed)
    net = RandomNet(seed)
    _shake(net, seed)
    xs = _images(net.eval(), seed)
    if xs is None:
        return "ties", []
    with torch.no_grad():
        want = net(*(x.clone() for x in xs))
    try:
        made = deploy.convert(net, net.shapes if len(net.shapes) > 1 else net.shapes[0])
        loaded = deploy.load(deploy.save(made, folder / "net"))
        return _differs(want, loaded(*xs)), net.rows()
    except ValueError as error:
        if "does nothing with its input" in str(error):
            return "unused", []
        return f"{type(error).__name__}: {error}", net.rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows, left, wrong, done, seed = Counter(), Counter(), 0, 0, given.seed
    with tempfile.TemporaryDirectory() as folder:
        while done < given.count:
            what, held = check(seed, Path(folder))
            if what in LEFT_OUT:
                left[what] += 1
            else:
                done += 1
                rows.update(set(held))
                if what:
                    wrong += 1
                    print(f"seed {seed}: {what}", flush=True)
            seed += 1
    print(f"{done} nets (seeds {given.seed} to {seed - 1}), {wrong} mismatches; left out: {dict(left)}; nets that hold: {dict(rows.most_common())}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
