"""Nets of a user's own: an example of everything that the table of supported operations names, converted, saved, loaded, and equal to the
model with its shape; and what used to be wrong without an error."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from bnnlib import deploy, layers
from bnnlib.deploy import tracer
from bnnlib.deploy.device import DeviceRunner
from bnnlib.deploy.run import Runner, result
from bnnlib.deploy.tensorkinds import SUPPORTED

B = layers.BinaryConv2d
IMAGE, ROW, VECTOR = (4, 9, 8), (6, 11), (12,)


class Do(nn.Module):
    """A function of images and of the modules that it names."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module) if not isinstance(module, torch.Tensor) else self.register_buffer(name, module)

    def forward(self, x, y=None):
        return self.function(self, x) if y is None else self.function(self, x, y)


def do(function, shape=IMAGE, **modules):
    return lambda: (Do(function, **modules), shape)


def one(*stack, shape=IMAGE):
    return lambda: (nn.Sequential(*stack), shape)


def _shuffled(x, groups):
    n, c, h, w = x.size()
    x = torch.transpose(x.view(n, groups, c // groups, h, w), 1, 2).contiguous()
    return x.view(n, -1, h, w)


POSITIVE = lambda s, x: x.abs() + 0.5  # noqa: E731
EXAMPLES: dict[str, dict[str, Any]] = {
    "binary layers": {
        "depthwise and pointwise": one(B(4, 4, 3, padding=1, groups=4), B(4, 10, 1), nn.BatchNorm2d(10), B(10, 3, 3, stride=2)),
        "dilated, dense": do(lambda s, x: torch.cat([x, s.b(torch.cat([x, s.a(x)], 1))], 1), a=B(4, 3, 3, padding=2, dilation=2), b=B(7, 5, 1)),
        "1-d": one(layers.BinaryConv1d(6, 9, 3, padding=1), nn.BatchNorm1d(9), nn.ReLU(), layers.BinaryConv1d(9, 70, 5, stride=2, groups=1), shape=ROW),
        "1-d to bits": one(layers.BinaryConv1d(6, 9, 3, padding=1, padding_value=-1, scale="learned"), nn.MaxPool1d(2),
                           layers.BinaryConv1d(9, 4, 3), shape=ROW),
        "linear on rows": one(nn.LayerNorm(11), layers.BinaryLinear(11, 7), shape=ROW),
        "linear": one(layers.BinaryLinear(12, 70), nn.BatchNorm1d(70), layers.BinaryLinear(70, 5), shape=VECTOR),
    },
    "real layers": {
        "1-d": one(nn.Conv1d(6, 9, 3, 2, 1, 2, groups=3), nn.BatchNorm1d(9), nn.Conv1d(9, 2, 1), shape=ROW),
        "one tap": one(nn.Conv2d(4, 6, 1, stride=(2, 1)), nn.Conv2d(6, 5, 1, stride=(1, 2)), nn.Conv2d(5, 4, 1, padding=(1, 0)),
                       nn.Conv2d(4, 3, 1, padding=(0, 1))),
        "kernels of the image's size": do(lambda s, x: s.a(x) + s.b(x).mean(3, keepdim=True), a=nn.Conv2d(4, 3, (9, 8), padding=(1, 0)),
                                          b=nn.Conv2d(4, 3, (9, 8), padding=(1, 2))),
        "reflect": one(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")),
        "replicate": one(nn.Conv2d(4, 6, (3, 5), padding=(1, 2), padding_mode="replicate")),
        "circular": one(nn.Conv2d(4, 6, 3, padding=2, padding_mode="circular"), nn.ReLU()),
        "same": one(nn.Conv2d(4, 6, 4, padding="same", dilation=2), nn.Conv2d(6, 2, 3, padding="valid")),
        "transposed": one(nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), nn.ConvTranspose2d(6, 3, (2, 3), (1, 2), dilation=2)),
        "transposed, cropped": one(nn.ConvTranspose2d(4, 6, 1, 2, 0), nn.ConvTranspose2d(6, 2, 2, 1, 3)),
        "transposed 1-d": one(nn.ConvTranspose1d(6, 4, 4, 2, 1), shape=ROW),
        "linear on rows": one(nn.Linear(11, 5), nn.ReLU(), nn.Linear(5, 3), shape=ROW),
        "linear on pixels": do(lambda s, x: s.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), a=nn.Linear(4, 5)),
        "functions": do(lambda s, x: F.conv_transpose2d(F.conv2d(s.a(x), s.w, stride=2, padding=1), s.w, torch.ones(4), 2, groups=1),
                        a=B(4, 4, 3, padding=1), w=torch.randn(4, 4, 3, 3)),
        "functions on rows": do(lambda s, x: F.conv_transpose1d(F.max_pool1d(F.conv1d(x, s.w, padding="same"), 2), s.w, s.v), shape=ROW,
                                w=torch.randn(6, 6, 3), v=torch.randn(6)),
        "products with a matrix": do(lambda s, x: F.linear(s.a(x) @ s.w, F.normalize(s.w), bias=s.v).matmul(s.w), shape=VECTOR,
                                     a=layers.BinaryLinear(12, 5), w=torch.randn(5, 5), v=torch.randn(5)),
        "rows by a matrix": do(lambda s, x: torch.matmul(s.a(x), s.w), shape=ROW, a=layers.BinaryLinear(11, 5), w=torch.randn(5, 3)),
        "standardised": do(lambda s, x: s.a(F.conv2d(x, (s.w - s.w.mean((1, 2, 3), True)) / s.w.std((1, 2, 3), keepdim=True), groups=2)),
                           a=B(6, 4, 3), w=torch.randn(6, 2, 3, 3)),
    },
    "batch norms and activations": {
        "modules": one(nn.BatchNorm2d(4), nn.PReLU(4), nn.Hardtanh(-1, 2), nn.LeakyReLU(0.2), layers.RPReLU(4), nn.ReLU6()),
        "functions": do(lambda s, x: F.hardtanh(F.leaky_relu(x.clamp(min=-1), 0.3)) + F.relu6(x) + x.clip(-0.5, 0.5) + F.hardtanh(x, -0.2, 0.7)),
        "on a row": one(nn.BatchNorm1d(6), nn.PReLU(6), nn.PReLU(), shape=ROW),
        "functions with parameters": do(lambda s, x: s.a(F.prelu(F.batch_norm(s.a(x), s.m, s.v, s.w, eps=1e-3), s.w)) + torch.prelu(s.a(x), s.w[:1]),
                                        a=B(4, 4, 3, padding=1), m=torch.randn(4), v=torch.rand(4) + 0.5, w=torch.rand(4)),
        "bounds": do(lambda s, x: torch.max(x, s.a(x)) + x.min(s.a(x)) + x.clamp_min(-0.3) + torch.clamp_max(x, 0.4) + torch.clamp(x, min=s.a(x), max=x.abs()),
                     a=B(4, 4, 3, padding=1)),
        "trained by several processes": one(nn.SyncBatchNorm(4), B(4, 5, 3), nn.SyncBatchNorm(5), B(5, 3, 1)),
        "trained by several processes, on a row": one(nn.SyncBatchNorm(6), nn.PReLU(6), shape=ROW),
    },
    "smooth activations": {
        "modules": one(nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.ELU(0.7), nn.SELU(), nn.Softplus(), nn.LogSigmoid()),
        "functions": do(lambda s, x: torch.sigmoid(x) + x.tanh() + F.silu(x) + F.gelu(x) + F.elu(x) + F.softplus(x) + F.logsigmoid(x) + x.exp()),
        "log": do(lambda s, x: POSITIVE(s, x).log()),
        "mish": do(lambda s, x: s.m(x) + F.mish(x) + s.n(s.a(x)), m=nn.Mish(), n=nn.Mish(inplace=True), a=B(4, 4, 3, padding=1)),
        "gated": do(lambda s, x: s.g(s.a(x)) + F.glu(s.a(x), 1), g=nn.GLU(1), a=B(4, 6, 3)),
    },
    "piecewise activations": {
        "modules": one(nn.Hardsigmoid(), nn.Hardswish()),
        "functions": do(lambda s, x: F.hardswish(x) + F.hardsigmoid(x) + x.abs() + x**2 + x.square() + -x),
        "roots": do(lambda s, x: POSITIVE(s, x).sqrt() + POSITIVE(s, x).rsqrt() + POSITIVE(s, x).reciprocal() + POSITIVE(s, x) ** 0.5),
        "sign": do(lambda s, x: torch.sign(F.relu(x)) + x.sign() * s.b(x.sign()), b=B(4, 4, 3, padding=1)),
        "masks": do(lambda s, x: torch.where(x > 0.2, s.b(x), x) + (x >= 0.5).float() * x + x.masked_fill(x < 0, 1.5) + torch.where(0.1 >= x, 1.0, -0.3),
                    b=B(4, 4, 3, padding=1)),
        "masks of constants": do(lambda s, x: torch.where(x <= 0, s.w, 2 * s.w) + x.where(x > -0.5, s.w), w=torch.rand(4, 1, 1)),
    },
    "arithmetic": {
        "gate": do(lambda s, x: x * torch.sigmoid(s.b(F.relu(s.a(x.mean((2, 3), keepdim=True))))), a=nn.Conv2d(4, 2, 1), b=nn.Conv2d(2, 4, 1)),
        "spatial gate": do(lambda s, x: x * s.a(x).sigmoid(), a=nn.Conv2d(4, 1, 3, padding=1)),
        "two": do(lambda s, x: (s.a(x) - x) / POSITIVE(s, x) + torch.maximum(x, s.a(x)) * torch.minimum(x, s.a(x)), a=nn.Conv2d(4, 4, 1)),
        "outer": do(lambda s, x: x.mean(2, keepdim=True) * x.amax(3, keepdim=True) - x.mean(1, keepdim=True)),
        "arguments by name": do(lambda s, x: torch.add(x, other=s.a(x)).mul(other=2), a=B(4, 4, 3, padding=1)),
        "numbers of NumPy": do(lambda s, x: x * np.float32(0.1) + s.a(x).clamp(max=np.float64(0.5)), a=B(4, 4, 3, padding=1)),
        "numbers": do(lambda s, x: 2 * x + 1 - x / 3 + (1 - x) * 0.5 + 1 / POSITIVE(s, x)),
        "buffers": do(lambda s, x: (x - s.mean) / s.std + s.bias.expand_as(x) + s.map, mean=torch.rand(1, 4, 1, 1), std=torch.rand(4, 1, 1) + 1,
                      bias=torch.rand(1, 4, 1, 1), map=torch.rand(9, 8)),  # fmt: skip
        "frozen norm": do(lambda s, x: x * (s.w * (s.v + 1e-5).rsqrt()).reshape(1, -1, 1, 1) + s.w.reshape(1, -1, 1, 1), w=torch.rand(4), v=torch.rand(4)),
    },
    "moving values": {
        "flatten at the end": do(lambda s, x: s.b(s.a(x)).flatten(1), a=B(4, 8, 3), b=B(8, 16, 3)),
        "reshape": do(lambda s, x: s.a(x).reshape(x.size(0), -1), a=B(4, 5, 3)),
        "view to fewer": do(lambda s, x: s.a(x).view(x.shape[0], 2, -1), a=B(4, 6, 3)),
        "permute": do(lambda s, x: s.a(x).permute(0, 2, 3, 1), a=B(4, 6, 3)),
        "transpose": do(lambda s, x: s.a(x).transpose(1, 3).contiguous(), a=B(4, 6, 3)),
        "squeeze": do(lambda s, x: s.a(x).squeeze(), a=B(4, 6, (9, 8))),
        "squeeze one": do(lambda s, x: s.a(x).squeeze(2).unsqueeze(1), a=B(4, 6, (9, 1))),
        "vector to map": one(layers.BinaryLinear(12, 24), nn.Unflatten(1, (6, 2, 2)), nn.BatchNorm2d(6), B(6, 3, 2), nn.Flatten(), shape=VECTOR),
        "slices": do(lambda s, x: s.a(x)[:, 1:, ::2, 1:-1], a=B(4, 6, 3)),
        "one place": do(lambda s, x: s.a(x)[:, :, 2, 3], a=nn.Conv2d(4, 6, 3)),
        "chunk": do(lambda s, x: (lambda p, q: s.a(p) * q.sigmoid())(*x.chunk(2, 1)), a=B(2, 2, 3, padding=1)),
        "split": do(lambda s, x: s.a(x.split([1, 3], 1)[1]), a=B(3, 2, 3)),
        "shuffle": do(lambda s, x: s.a(x.view(x.size(0), 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)), a=B(4, 6, 3)),
        "shuffle by views": do(lambda s, x: s.a(_shuffled(_shuffled(x, 2), 4)), a=B(4, 6, 3)),
        "a view of channels last": do(lambda s, x: s.a(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1).view(len(x), -1, 6),
                                      a=nn.Conv2d(4, 6, 3)),
        "types and devices": do(lambda s, x: s.a(x.to(torch.float32).to(memory_format=torch.channels_last).type_as(s.a.weight)).to(x).cpu(), a=B(4, 6, 3)),
        "five dimensions": do(lambda s, x: x.view(len(x), 2, 2, 9, 8).amax(2)),
        "flip and roll": do(lambda s, x: x.flip(3).roll((1, 2), (2, 3)) + x),
        "expand": do(lambda s, x: s.a(x).expand(-1, 3, -1, -1) + x[:, :1].repeat(1, 3, 1, 1), a=nn.Conv2d(4, 1, 1)),
        "pads": do(lambda s, x: F.pad(x, (1, 2, 0, 3)) + F.pad(F.pad(x, (1, 0, 2, 1), "reflect"), (1, 1, 0, 0), "replicate")
                   - F.pad(x, (0, 3, 1, 2), value=-2.5)),
        "pixel shuffle": one(nn.PixelShuffle(2), nn.Conv2d(1, 3, 3), nn.ChannelShuffle(3), nn.ZeroPad2d((1, 0, 2, 3)), nn.PixelUnshuffle(1)),
        "nearest": do(lambda s, x: F.interpolate(s.a(x), scale_factor=2) + s.up(s.a(x)), a=B(4, 3, 3), up=nn.Upsample(scale_factor=2)),
        "to the size of": do(lambda s, x: F.interpolate(s.a(x), size=x.shape[2:]) + x, a=B(4, 4, 3, stride=2)),
        "rows": do(lambda s, x: s.a(x.flip(2)).transpose(1, 2), shape=ROW, a=layers.BinaryConv1d(6, 5, 3)),
    },
    "joining": {
        "channels": do(lambda s, x: torch.cat([s.a(x), x, s.a(x)], 1), a=B(4, 3, 3, padding=1)),
        "with itself": do(lambda s, x: s.a(x) + torch.cat((x, x), dim=-3) + torch.concat([x] * 2, 1), a=B(4, 8, 3, padding=1)),
        "rows and columns": do(lambda s, x: torch.cat([torch.cat([x, s.a(x)], 2), torch.cat((s.a(x), x), dim=2)], dim=3), a=B(4, 4, 3, padding=1)),
        "stack": do(lambda s, x: torch.stack([x, s.a(x)], 2), a=B(4, 4, 3, padding=1)),
        "vectors": do(lambda s, x: s.b(torch.cat([s.a(x).flatten(1), x.flatten(1)], 1)), a=B(4, 2, 3), b=layers.BinaryLinear(4 * 72 + 2 * 42, 5)),
        "a class token": do(lambda s, x: s.a(torch.cat([s.w.expand(x.shape[0], -1, -1), x], 1) + s.p)[:, 0], shape=ROW,
                            w=torch.rand(1, 1, 11), p=torch.rand(1, 7, 11),
                            a=nn.Linear(11, 5)),
        "tokens, repeated": do(lambda s, x: torch.cat([s.w.repeat(len(x), 1, 1), x, torch.broadcast_to(s.w, (x.size(0), 1, 11))], dim=1),
                               shape=ROW, w=torch.rand(1, 1, 11)),
        "tokens like the rows": do(lambda s, x: torch.cat([x, s.w.expand_as(x[:, :2]), torch.zeros(len(x), 1, 11)], 1), shape=ROW, w=torch.rand(1, 1, 11)),
        "a map of ones": do(lambda s, x: s.b(torch.cat([x.new_ones(len(x), 1, 9, 8), s.a(x)], 1)), a=B(4, 4, 3, padding=1), b=B(5, 3, 3)),
        "stack with a constant": do(lambda s, x: torch.stack([s.w.expand(x.shape[0], 4, 9, 8), x], 2), w=torch.rand(1, 4, 9, 1)),
        "on rows": do(lambda s, x: torch.cat([x, s.a(x)], 1), shape=ROW, a=layers.BinaryConv1d(6, 3, 3, padding=1)),
    },
    "pools": {
        "two dimensions": one(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), B(4, 6, 1), nn.AdaptiveAvgPool2d((2, 3))),
        "to one": do(lambda s, x: F.adaptive_avg_pool2d(x, 1).flatten(1) + s.p(x).flatten(1), p=nn.AdaptiveMaxPool2d(1)),
        "rows": one(nn.MaxPool1d(2), nn.AvgPool1d(2, 1), nn.AdaptiveAvgPool1d(3), shape=ROW),
        "adaptive maxima": do(lambda s, x: s.p(s.a(x)) + F.adaptive_max_pool2d(x, (3, 4)) + s.q(x), a=B(4, 4, 3, padding=1), p=nn.AdaptiveMaxPool2d((3, 4)),
                              q=nn.AdaptiveMaxPool2d((1, 4))),  # fmt: skip
        "uneven maxima": one(nn.AdaptiveMaxPool2d((4, 3)), B(4, 3, 1)),
        "maxima on rows": one(nn.AdaptiveMaxPool1d(3), shape=ROW),
    },
    "sums": {
        "mean": do(lambda s, x: s.a(s.b(x).mean((2, 3))), a=nn.Linear(5, 3), b=B(4, 5, 3)),
        "several": do(lambda s, x: x.mean([2, 3], keepdim=True) + x.sum(1, keepdim=True) + x.amax((1, 3), keepdim=True) + x.amin(-1, keepdim=True)),
        "max of a dimension": do(lambda s, x: x.max(1)[0] + x.max(dim=1).values + torch.min(x, 1)[0]),
        "to one number": do(lambda s, x: x.mean((1, 2, 3))),
        "rows": do(lambda s, x: x.mean(-1) + x.amax(2), shape=ROW),
        "deviations": do(lambda s, x: x.std(1, keepdim=True) + x.var((2, 3), unbiased=False, keepdim=True) + torch.std_mean(x, dim=3, keepdim=True)[0]),
        "sizes": do(lambda s, x: torch.norm(x, dim=1) + x.norm(1, dim=1) + torch.linalg.vector_norm(s.a(x), ord=2, dim=1) + x.norm(float("inf"), 1),
                    a=B(4, 3, 3, padding=1)),
    },
    "resizing": {
        "bilinear": do(lambda s, x: F.interpolate(x, scale_factor=2, mode="bilinear") + F.interpolate(x, (18, 16), mode="bilinear", align_corners=True)),
        "bicubic": one(nn.Upsample(size=(5, 13), mode="bicubic"), B(4, 3, 3)),
        "area": do(lambda s, x: F.interpolate(x, size=(4, 3), mode="area")),
        "linear": do(lambda s, x: F.interpolate(x, size=20, mode="linear"), shape=ROW),
    },
    "norms": {
        "layer": one(nn.LayerNorm([4, 9, 8]), nn.LayerNorm(8, elementwise_affine=False), B(4, 3, 3)),
        "last": do(lambda s, x: s.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), n=nn.LayerNorm(4)),
        "group": one(nn.GroupNorm(2, 4), nn.GroupNorm(1, 4), nn.GroupNorm(4, 4)),
        "instance": one(nn.InstanceNorm2d(4, affine=True)),
        "rows": one(nn.InstanceNorm1d(6), nn.GroupNorm(3, 6), nn.LayerNorm(11), shape=ROW),
        "vectors": one(nn.LayerNorm(12), nn.GroupNorm(3, 12), nn.Softmax(1), shape=VECTOR),
        "root mean square": do(lambda s, x: s.n(x) + F.rms_norm(x, (8,)) + s.m(s.a(x)),
                               n=nn.RMSNorm(8), m=nn.RMSNorm([9, 8], eps=1e-3), a=B(4, 4, 3, padding=1)),
        "normalised": do(lambda s, x: F.normalize(x) + F.normalize(s.a(x), p=1, dim=3) + F.normalize(x, float("inf"), (2, 3)), a=B(4, 4, 3, padding=1)),
        "softmax": do(lambda s, x: x.softmax(1) + F.log_softmax(x, dim=-1) + torch.softmax(x, 2)),
    },
    "form": {
        "two inputs": do(lambda s, x, y: s.a(x) + s.b(y).sigmoid(), shape=[(4, 9, 8), (2, 9, 8)], a=B(4, 3, 3), b=nn.Conv2d(2, 3, 3)),
        "a tuple": do(lambda s, x: (s.a(x), x.mean((2, 3))), a=B(4, 3, 3)),
        "a dictionary": do(lambda s, x: {"map": s.a(x), "heads": [s.a(x).flatten(1), (x, x.amax(1))]}, a=B(4, 3, 3)),
        "used twice": do(lambda s, x: s.up(s.a(s.up(s.g(x)))) + 0 * s.up(s.up(s.g(x[:, :3])))[:, :, :32, :28] if False else s.up(s.a(s.up(s.g(x)))),
                         a=B(4, 3, 3), g=nn.GELU(), up=nn.Upsample(scale_factor=2)),  # fmt: skip
        "a layer used twice": do(lambda s, x: s.a(s.n(s.a(x))) + F.pad(s.a(x), (-1, -1, -1, -1)), a=B(4, 4, 3), n=nn.BatchNorm2d(4)),
        "dropouts": do(lambda s, x: x + F.alpha_dropout(s.d(s.a(x)), 0.2, s.training) + F.feature_alpha_dropout(s.a(x)) + torch.dropout(x, 0.5, False),
                       a=B(4, 4, 3, padding=1), d=nn.FeatureAlphaDropout(0.2)),
        "in place": do(lambda s, x: (lambda y: s.b(s.r(y)) + y)(s.a(x)), a=nn.Conv2d(4, 4, 1), b=B(4, 4, 3, padding=1), r=nn.ReLU(inplace=True)),
    },
}  # fmt: skip
CASES = [(row, name) for row, found in EXAMPLES.items() for name in found]


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.dim() == 1 and not name.endswith(("running_var", "v", "w")):
                tensor.add_(torch.rand(tensor.shape, generator=generator) / 2)
            elif name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def images(shape, batch: int = 4, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, *s, generator=generator) for s in (shape if isinstance(shape, list) else [shape])]


def same(want: Any, got: Any, tolerance: float = 1e-5) -> None:
    """Equal in form, in shape, and in value within ``tolerance`` of the largest."""
    if isinstance(want, dict):
        assert want.keys() == got.keys()
        want, got = list(want.values()), list(got.values())
    if isinstance(want, (tuple, list)):
        assert type(want) is type(got) and len(want) == len(got)
        for a, b in zip(want, got, strict=True):
            same(a, b, tolerance)
        return
    got = torch.as_tensor(got)
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * max(1.0, want.abs().max().item()))


def _as_slot(x: torch.Tensor) -> torch.Tensor:
    return x if x.dim() == 4 else x.reshape(len(x), x.shape[1], 1, -1)


def test_every_row_of_the_table_has_examples():
    assert [row[0] for row in SUPPORTED] == list(EXAMPLES)


@pytest.mark.parametrize(("row", "name"), CASES, ids=[f"{row}-{name}" for row, name in CASES])
def test_what_is_supported_is_the_models_after_save_and_load(row, name, tmp_path):
    torch.manual_seed(3)
    model, shape = EXAMPLES[row][name]()
    model, xs = shaken(model), images(shape)
    with torch.no_grad():
        want = model(*(x.clone() for x in xs))
    net = deploy.convert(model, shape)
    assert [op.name for op in net.graph.ops if op.kind == "torch"] == []
    same(want, net(*xs))
    loaded = deploy.load(deploy.save(net, tmp_path / "net"))
    same(want, loaded(*xs))
    held = DeviceRunner(net.graph, torch.device("cpu")).values([_as_slot(x) for x in xs], net.graph.outputs)
    same(want, result(net.graph, [held[name] for name in net.graph.outputs], False, lambda y: y))  # as on a GPU
    same(want, Runner(deploy.read_graph(tmp_path / "net")[0], threads=2)(*(x.numpy() for x in xs)))


# ---- wrong without an error, once ---------------------------------------------------------------------------------


def converted(model: nn.Module, shape=IMAGE, batch: int = 4, left: set[str] | None = None, **options):
    """The network, which gives what the model gives."""
    model, xs = model.eval(), images(shape, batch)
    with torch.no_grad():
        want = model(*(x.clone() for x in xs))
    net, before = deploy.convert(model, shape, **options), [x.clone() for x in xs]
    same(want, net(*xs))
    assert all(torch.equal(a, b) for a, b in zip(xs, before, strict=True))
    kept = {op.attributes["module"] for op in net.graph.ops if op.kind == "torch"}
    assert left is None or kept == left, kept
    return net


def _named_again(s, x):
    y = s.a(x)
    z = y
    y += s.a(x)
    return z * 2 + y


def _through_a_view(s, x):
    y = s.a(x)
    y.flatten(1).relu_()
    return s.b(y)


IN_PLACE = {
    "relu module": lambda s, x: (lambda y: s.b(s.r(y)) + y)(s.a(x)),
    "relu_": lambda s, x: (lambda y: s.b(y.relu_()) + y)(s.a(x)),
    "add_": lambda s, x: (lambda y: s.b(y.add_(x)) + y)(s.a(x)),
    "mul_ by a number": lambda s, x: (lambda y: s.b(y.mul_(-2)) + y)(s.a(x)),
    "function": lambda s, x: (lambda y: s.b(F.relu(y, inplace=True)) + y)(s.a(x)),
    "hardtanh_": lambda s, x: (lambda y: s.b(F.hardtanh_(y)) + y)(s.a(x)),
    "another name": _named_again,
    "the input": lambda s, x: s.b(x.relu_()) + x,
    "a view": _through_a_view,
    "behind an identity": lambda s, x: (lambda y: s.b(s.r(s.i(y))) + y)(s.a(x)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operations(name):
    torch.manual_seed(0)
    parts = {"a": nn.Conv2d(4, 4, 1), "b": B(4, 4, 3, padding=1), "r": nn.ReLU(inplace=True), "i": nn.Dropout(0.5)}
    converted(Do(IN_PLACE[name], **parts), left=set())


def test_what_writes_into_a_part_stays_whole_or_is_named():
    def part(s, x):
        y = s.a(x)
        y[:, :1].mul_(3)
        return s.b(y)

    inside = Do(part, a=nn.Conv2d(4, 4, 1), b=B(4, 4, 3))
    net = converted(nn.Sequential(B(4, 4, 3), inside, nn.ReLU()), left={"1"})
    assert "writes into a tensor" in net.report()
    with pytest.raises(deploy.ConvertError, match="model's own forward, it writes into a tensor"):
        deploy.convert(inside, IMAGE)


@pytest.mark.parametrize("kind", ["forward", "pre", "always"])
def test_a_hook_is_kept(kind):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), B(4, 5, 3))
    add = {"forward": model[1].register_forward_hook, "pre": model[1].register_forward_pre_hook, "always": model[1].register_forward_hook}[kind]
    add((lambda m, a: (a[0] - 1,)) if kind == "pre" else (lambda m, a, y: y * 3 - 1))
    net = converted(model, left={"1"})
    assert "it has a forward hook" in net.report()
    model.register_forward_hook(lambda m, a, y: y)
    with pytest.raises(deploy.ConvertError, match="the model itself has a forward hook"):
        deploy.convert(model, IMAGE)


def _spectral(layer):
    return nn.utils.parametrizations.spectral_norm(layer)


def _own(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
    return layer


@pytest.mark.parametrize(
    "norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal, _spectral, _own, nn.utils.weight_norm, nn.utils.spectral_norm]
)
def test_a_parametrized_model_is_left_as_it_was(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(12, 16)), norm(nn.Linear(16, 16)), layers.BinaryLinear(16, 3))
    model(torch.randn(3, 12))
    model.eval()
    classes, x = [type(m) for m in model], torch.randn(5, 12)
    with torch.no_grad():
        want = model(x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):
        same(want, deploy.convert(model, VECTOR)(x))
    assert [type(m) for m in model] == classes
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(x), want)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def _counts(s, x):
    s.n += 1
    return s.b(x) + s.n


def _counts_anew(s, x):
    s.n = s.n + 1
    return s.b(x) + s.n


def _counts_in_python(s, x):
    s.k = getattr(s, "k", 0) + 1
    return s.b(x) * s.k


EFFECTS = {
    "a buffer": (_counts, "it changes n at every call"),
    "a buffer, replaced": (_counts_anew, "n is another at every call"),
    "a number": (_counts_in_python, "a number is 2 and then 3"),
    "random": (lambda s, x: s.b(x + 3 * torch.randn(1, 4, 1, 1)), "a tensor that it makes is another at every call"),
    "random weights": (lambda s, x: F.conv2d(s.b(x), torch.randn(2, 4, 1, 1)), "what conv2d multiplies by is another at every call"),
    "weights by images": (lambda s, x: F.conv2d(s.b(x), s.b.weight / len(x)), "what conv2d multiplies by is another|a number is 3 and then 2"),
    "random, by images": (lambda s, x: torch.cat([torch.randn(len(x), 1, 9, 8), s.b(x)], 1), "a tensor that it makes is another at every call"),
    "a large batch": (lambda s, x: s.b(x) if x.shape[0] > 8 else s.b(-x), "hangs on the number of images: for 3 it goes on with neg .*, for 257 with b"),
    "one image": (lambda s, x: s.b(x) if len(x) == 1 else s.b(x) * 2, "hangs on the number of images: for 3 it goes on with mul .*, for 1 with nothing more"),
    "another source": (lambda s, x: s.b(x) + (lambda a, b: a if len(x) > 200 else b)(x * 2, x * 3), "a number is another|hangs on the number of images"),
    "a number by the batch": (lambda s, x: s.b(x) * (2 if len(x) > 8 else 3), "a number is another for a batch of 257"),
    "a share of the batch": (lambda s, x: s.b(x) * (1 / len(x)), "a number is 0.33.* and then 0.5"),
    "a number of the batch less one": (lambda s, x: s.b(x).clamp(max=len(x) - 1), "a number is 2 and then 1"),
}


@pytest.mark.parametrize("name", EFFECTS)
def test_what_is_another_at_every_call_or_batch_is_named_or_stays_whole(name):
    torch.manual_seed(0)
    function, message = EFFECTS[name]
    model = Do(function, n=torch.zeros(1), b=B(4, 4, 3, padding=1)).eval()
    with pytest.raises(deploy.ConvertError, match=rf"the model's own forward, .*({message}).*put that into a module of its own, .*saved as a file") as raised:
        deploy.convert(model, IMAGE)
    assert "test_deploy_supported.py:" in str(raised.value)
    assert model.n.item() == 0 and not hasattr(model, "k")
    net = deploy.convert(nn.Sequential(B(4, 4, 3, padding=1), model, nn.ReLU()).eval(), IMAGE)
    assert [op.attributes["module"] for op in net.graph.ops if op.kind == "torch"] == ["1"] and "kept whole" in net.report()
    assert model.n.item() == 0
    if "random" not in name and not name.startswith("a buffer") and name != "a number":
        inside = nn.Sequential(B(4, 4, 3, padding=1), model)
        for batch in (1, 16, 260):
            converted(inside, batch=batch, left={"1"})


def test_a_module_that_stays_whole_begins_where_the_models_is():
    model = nn.Sequential(B(4, 4, 3, padding=1), Do(_counts, n=torch.zeros(1), b=B(4, 4, 3, padding=1))).eval()
    net, x = deploy.convert(model, IMAGE), torch.randn(2, *IMAGE)
    for _ in range(3):
        with torch.no_grad():
            same(model(x), net(x))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
def test_numbers_that_are_the_batchs_follow_it(batch):
    for function in (
        lambda s, x: s.b(x) * len(x), lambda s, x: s.b(x) / x.shape[0], lambda s, x: s.b(x).clamp(max=len(x)), lambda s, x: s.b(x).roll(len(x), 2),
        lambda s, x: F.pad(s.b(x), (1, 1), value=len(x)), lambda s, x: torch.cat([s.w.expand(len(x), 1, 9, 8), x], 1).cumsum(1),
    ):  # fmt: skip
        converted(Do(function, b=B(4, 4, 3, padding=1), w=torch.rand(1, 1, 9, 8)), batch=batch)


def test_random_numbers_like_a_value_are_drawn_at_every_call():
    net, x = deploy.convert(Do(lambda s, x: s.b(x) + torch.randn_like(x), b=B(4, 4, 3, padding=1)), IMAGE), torch.randn(2, *IMAGE)
    assert not torch.equal(net(x), net(x))


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_what_is_no_number_is_named(value, said):
    for build, name in (
        (lambda: nn.Sequential(nn.Linear(12, 8), layers.BinaryLinear(8, 2)), "0.weight"), (lambda: layers.BinaryLinear(12, 2), "weight"),
        (lambda: nn.Sequential(nn.BatchNorm1d(12), layers.BinaryLinear(12, 2)), "0.running_var"),
    ):  # fmt: skip
        model = build()
        with torch.no_grad():
            model.get_submodule(name.rpartition(".")[0]).__getattr__(name.rpartition(".")[2]).view(-1)[1] = value
        with pytest.raises(deploy.ConvertError, match=rf"^{name} holds {said}.*\(1 of "):
            deploy.convert(model, VECTOR)


@pytest.mark.parametrize("how", ["weight_norm", "old weight_norm", "spectral_norm", "pruned", "parametrized"])
def test_weights_that_are_computed_are_packed(how, tmp_path):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    if how == "weight_norm":
        nn.utils.parametrizations.weight_norm(conv)
    elif how == "old weight_norm":
        nn.utils.weight_norm(conv)
    elif how == "spectral_norm":
        nn.utils.spectral_norm(conv)
    elif how == "pruned":
        prune.l1_unstructured(conv, "weight", 0.5)
    else:
        nn.utils.parametrize.register_parametrization(conv, "weight", nn.Tanh())
    model = nn.Sequential(conv, B(6, 5, 3))
    model(torch.randn(1, *IMAGE))
    net = converted(model, left=set())
    deploy.save(net, tmp_path / "net")


def test_a_kept_activation_does_not_matter():
    def keep(s, x):
        s.seen = s.a(x)
        return s.b(s.seen)

    model = Do(keep, a=nn.Conv2d(4, 4, 1), b=B(4, 4, 3))
    model(torch.randn(2, *IMAGE))
    converted(model, left=set())


@pytest.mark.parametrize("batch", [1, 4])
def test_masks_and_where(batch):
    model = Do(lambda s, x: torch.where(x > 0, s.b(x), x) + (x > 0.5).float() * x + x.masked_fill(x < 0, 1.5), b=B(4, 4, 3, padding=1))
    converted(model, batch=batch, left=set())
    careful = Do(lambda s, x: torch.where(x > 0, x.log(), s.b(x)), b=B(4, 4, 3, padding=1))  # 0 times what is not chosen would be NaN
    converted(careful, batch=batch, left={"where"})


class Block(nn.Module):
    """As ConvNeXt has it: what it gives depends on all blocks before it."""

    def __init__(self, drop) -> None:
        super().__init__()
        self.a, self.n, self.b, self.drop = B(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4), layers.BinaryLinear(4, 4), drop

    def forward(self, x):
        y = self.n(self.a(x).permute(0, 2, 3, 1))
        return x + self.drop(F.gelu(self.b(y)).permute(0, 3, 1, 2) * 0.1)


def test_deep_nets_are_converted():
    """Each operation asks for what it reads, which took more calls within calls than Python allows by itself."""
    torch.manual_seed(0)
    depth = pytest.importorskip("torchvision.ops").StochasticDepth(0.3, "row")
    before = sys.getrecursionlimit()
    converted(nn.Sequential(*(Block(depth) for _ in range(40))), shape=(4, 5, 4), batch=2, left=set())
    assert sys.getrecursionlimit() == before


def test_functions_with_weights_in_modules_of_a_sequential(tmp_path):
    """What stands for them is no module of the Sequential, which would run it, and takes no name of the model's."""
    part = lambda: Do(lambda s, x: F.conv2d(F.relu(x), s.w, padding=1), w=torch.randn(4, 4, 3, 3))  # noqa: E731
    model = nn.Sequential()
    for name, module in (("conv2d", part()), ("b", B(4, 4, 3, padding=1)), ("other", part()), ("c", B(4, 3, 3))):
        model.add_module(name, module)
    net = converted(model, left=set())
    assert list(dict(model.named_children())) == ["conv2d", "b", "other", "c"] and not hasattr(model, "conv2d_2")
    deploy.save(net, tmp_path / "net")
    kept = converted(model, left={"other"}, keep=["other"])
    assert "asked for" in kept.report()


class Pair(nn.Module):
    def forward(self, x):
        return x, x + 1


def test_a_module_kept_whole_that_gives_two_values_is_named():
    model = nn.Sequential(B(4, 4, 3), Pair()).eval()
    with pytest.raises(deploy.ConvertError, match="1 gives a tuple: name its parts in the model's forward"):
        deploy.convert(model, IMAGE, keep=["1"])


def test_one_module_used_at_two_sizes():
    model = Do(lambda s, x: s.up(s.g(s.up(x)))[:, :, ::4, ::4] + s.g(x), g=nn.GELU(), up=nn.Upsample(scale_factor=2))
    converted(model, left=set())
    odd = Do(lambda s, x: x.roll(1, 1) if x.sum() > 0 else x)
    converted(Do(lambda s, x: F.avg_pool2d(s.o(s.a(s.o(x))), 2), o=odd, a=B(4, 6, 3)), left={"o", "o:2"})


# ---- refused, or misleading, once ---------------------------------------------------------------------------------


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = B(4, 5, 3)

    def forward(self, x, scale=2.0, mask=None):
        n, c, h, w = x.shape
        assert c == 4, "channels"
        assert x.dim() == 4 and x.is_floating_point()
        if h > 3:
            x = x * scale
        return self.conv(x) if mask is None else mask


def test_asserts_sizes_and_defaults_are_plain_python():
    converted(Asserting(), left=set())


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile])
def test_wrappers_are_taken_off(wrap):
    model = Asserting().eval()
    x = torch.randn(2, *IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(deploy.convert(wrap(model), IMAGE)(x), model(x))


def test_what_is_no_module_is_named():
    model = nn.Sequential(nn.Conv2d(4, 2, 1)).eval()
    exported = torch.export.export(model, (torch.zeros(2, *IMAGE),))
    for given, message in (
        (exported, "an exported program"), (torch.jit.trace(model, torch.zeros(1, *IMAGE)), "TorchScript"), (model.state_dict(), "expected an nn.Module"),
    ):  # fmt: skip
        with pytest.raises(deploy.ConvertError, match=message):
            deploy.convert(given, IMAGE)


def test_arguments_by_name():
    model = Do(lambda s, x: torch.flatten(input=s.a(input=F.relu(input=x)), start_dim=1), a=nn.Conv2d(4, 3, 3))
    converted(model, left=set())


def test_what_cannot_be_traced_stays_whole_and_says_so(tmp_path):
    class Branches(nn.Module):
        def forward(self, x):
            return x.roll(1, dims=1) if x.sum() > 0 else x.flip(1)

    net = converted(nn.Sequential(B(4, 4, 3), Branches(), B(4, 5, 3)), left={"1"})
    assert "kept whole: what it does depends on the values of tensors" in net.report()
    with pytest.raises(deploy.DeployError, match=r"1 \(kept whole.*test_deploy_supported.py:\d+.*Write these parts"):
        deploy.save(net, tmp_path / "net")
    with pytest.raises(deploy.ConvertError, match="model's own forward, what it does depends on the values"):
        deploy.convert(Branches(), IMAGE)


def test_several_results_of_one_module():
    class Two(nn.Module):
        def forward(self, x):
            return (x.cumsum(1), x.sort(1).values)

    converted(Do(lambda s, x: (lambda p, q: s.b(p) - s.b(q))(*s.t(x)), t=Two(), b=B(4, 4, 3)))
    lstm = nn.LSTM(11, 5, batch_first=True)
    converted(Do(lambda s, x: s.l(x)[0] * 2, l=lstm), shape=ROW)


def test_the_number_of_images_may_be_read():
    """A batch of its own size at every call, also where PyTorch runs a part."""
    model = Do(lambda s, x: s.a(x).cumsum(1).view(x.shape[0], -1) + x.new_zeros(x.size(0), 1), a=B(4, 3, 3))
    for batch in (1, 2, 3, 7):
        converted(model, batch=batch)


def test_what_stays_in_pytorch_is_named_by_its_module():
    for function, parts, label, why in (
        (lambda s, x: s.l(x)[0], {"l": nn.LSTM(11, 5, batch_first=True)}, "l", "no LSTM"),
        (lambda s, x: s.l(x, x, x)[0], {"l": nn.MultiheadAttention(11, 1, batch_first=True)}, "l", "no MultiheadAttention"),
        (lambda s, x: x.topk(2)[0], {}, "topk", "no topk"), (lambda s, x: x @ x.transpose(1, 2), {}, "matmul", "no matrix product of two activations"),
        (lambda s, x: x @ s.w, {"w": torch.rand(1, 11, 4)}, "matmul", "no matmul of this form"),
        (lambda s, x: s.b(x), {"b": layers.BinaryConv1d(6, 2, 3, padding=1, padding_value=-1, binary_input=False)}, "b", "pads real values by -1"),
        (lambda s, x: s.n(x), {"n": nn.BatchNorm1d(6, track_running_stats=False)}, "n", "no running statistics"),
    ):  # fmt: skip
        net = deploy.convert(Do(function, **parts), ROW)
        (note,) = [n for n in net.notes if n["as"] == "PyTorch"]
        assert note["layer"] == label and why in note["how"]


class Any2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b = B(4, 3, 3)

    def forward(self, *xs, scale=2.0, **rest):
        return self.b(sum(xs)) * scale + len(xs)


def test_any_number_of_inputs():
    model, (x, y) = Any2().eval(), torch.randn(2, 3, *IMAGE)
    with torch.no_grad():
        same(model(x, y), deploy.convert(model, [IMAGE, IMAGE])(x, y))
        same(model(x), deploy.convert(model, IMAGE)(x))


def test_shapes_of_any_kind():
    model = nn.Sequential(B(4, 5, 3))
    for shape in (np.array(IMAGE), torch.Size(IMAGE), [np.int64(n) for n in IMAGE], [np.array(IMAGE)], [IMAGE]):
        assert deploy.convert(model, shape).graph.input_shapes() == [IMAGE]
    for given, message in (
        (torch.zeros(2, *IMAGE), r"a tensor of shape \[2, 4, 9, 8\], expected a shape without the batch: give tuple\(x.shape\[1:\]\)"),
        ([torch.zeros(2, *IMAGE)], r"a tensor of shape \[2, 4, 9, 8\]"), (np.zeros((2, *IMAGE)), "input_shape is"), ((4, 9.0, 8), "input_shape is"),
    ):  # fmt: skip
        with pytest.raises(deploy.ConvertError, match=message) as raised:
            deploy.convert(model, given)
        assert len(str(raised.value)) < 400


def test_a_packed_network_is_a_module(tmp_path):
    model = nn.Sequential(B(4, 5, 3), nn.Flatten(), nn.Linear(5 * 42, 3)).eval()
    net, x = deploy.convert(model, IMAGE), torch.randn(2, *IMAGE)
    assert "takes [N, 4, 9, 8], gives [N, 3]" in repr(net) and "1 of 1-bit weights" in repr(net)
    assert list(net.parameters()) == [] and net.to("cpu") is net
    head = nn.Sequential(net, nn.Linear(3, 2))
    assert head.train()[0] is net and not net.training and set(head.state_dict()) == {"1.weight", "1.bias"}
    head(x).sum().backward()
    assert torch.equal(head(x), head[1](net(x)))
    with pytest.raises(RuntimeError, match=r"deploy.save\(network, path\)"):
        net.state_dict()
    with pytest.raises(deploy.ConvertError, match="a packed network already"):
        deploy.convert(net, IMAGE)
    assert "a packed network already" in deploy.convert(head, IMAGE).report()
    with pytest.raises(ValueError, match=r"deploy.convert\(model, shape, real='int8'\)"):
        deploy.save(net, tmp_path / "net", real="int8")


class BySelf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_a_net_in_which_nothing_is_binary_says_so():
    by_hand = Do(lambda s, x: F.linear(BySelf.apply(x), BySelf.apply(s.w)), w=torch.randn(3, 12))
    for model in (by_hand, nn.Sequential(nn.Linear(12, 3))):
        assert "nothing is binary here" in deploy.convert(model, VECTOR).report()
    assert "nothing is binary" not in deploy.convert(layers.BinaryLinear(12, 3), VECTOR).report()


def test_results_that_no_network_gives():
    for function, message in (
        (lambda s, x: x.argmax(1), "int64 .* do this with the network's result"), (lambda s, x: x.sum(), "of shape ()"), (lambda s, x: None, "returns None"),
        (lambda s, x: torch.ones(3, 4), "the same whatever"), (lambda s, x: x.view(-1, 8), "batch in front"),
    ):  # fmt: skip
        with pytest.raises(deploy.ConvertError, match=message):
            deploy.convert(Do(function, a=nn.ReLU()), IMAGE)


def test_a_constant_in_the_place_of_a_result_has_the_line_of_the_users_code_or_none():
    for function, message in (
        (lambda s, x: torch.ones(len(x), 4), "a tensor that the model makes is"), (lambda s, x: s.w, "w is"),
        (lambda s, x: torch.zeros_like(x), r"zeros_like \(test_deploy_supported.py:\d+\) is"),
    ):  # fmt: skip
        with pytest.raises(deploy.ConvertError, match=f"^{message} the same whatever the images are"):
            deploy.convert(Do(function, w=torch.rand(3, 4)), IMAGE)


def test_a_line_is_named_where_it_is_the_users():
    mine = [__file__, "/venv/lib/python3.11/site-packages/mine/test_deploy_supported.py"]
    assert [tracer.line_of_user(file, 3) for file in mine] == ["test_deploy_supported.py:3"] * 2
    others = [contextlib.__file__, torch.fx.__file__, tracer.__file__, "<frozen runpy>"]
    assert [tracer.line_of_user(file, 3) for file in others] == [""] * 4
    assert tracer.at("net.py:3") == " (net.py:3)" and tracer.at("") == ""


def test_inputs_of_other_kinds_work_or_say_how():
    net = deploy.convert(nn.Sequential(B(4, 5, 3), nn.Flatten(), nn.Linear(5 * 42, 3)), IMAGE)
    x = torch.randn(2, *IMAGE)
    want = net(x)
    assert torch.equal(net(x.numpy()), want)
    assert torch.equal(net(x.double()), want)
    same(want[0], net(x[0]))
    runner = Runner(net.graph)
    same(want[1], runner(x.numpy()[1]))
    for bad, message in (
        ((x * 9).byte(), "got uint8: scale them"), ((x * 9).numpy().astype(np.int64), "got int64: scale"), ([1.0], "got list"),
        (x[:, :3], r"images \[N, 4, 9, 8\], got \[2, 3, 9, 8\]$"),
        (x[:, :, :5], r"images \[N, 4, 9, 8\], got \[2, 4, 5, 8\]: it is for images of one size; convert the model for these"),
        (torch.where(x == x[1, 2, 3, 4], torch.nan, x), "image 1 holds a NaN"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            net(bad)
    with pytest.raises(ValueError, match="image 1 holds a NaN"):
        net(torch.where(x == x[1, 2, 3, 4], torch.nan, x).contiguous(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="takes 1 inputs, got 2"):
        net(x, x)


def test_a_network_of_several_inputs_and_results_is_copied_and_pickled():
    model, shape = EXAMPLES["form"]["two inputs"]()
    net, xs = deploy.convert(model.eval(), shape), images([(4, 9, 8), (2, 9, 8)])
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(*xs), net(*xs))
    with pytest.raises(ValueError, match="different batches"):
        net(xs[0], xs[1][:2])


# ---- ONNX ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exporter", ["ours", "torch", "torch, dynamo"])
@pytest.mark.parametrize("optimised", [True, False])
def test_onnx_keeps_signs_of_sums_that_are_zero(exporter, optimised, tmp_path):
    """Binary layers one behind the other without a batch norm: half of the sums' signs hang on zeros. At any level of the runtime's
    optimisation the model's numbers, in whatever mode the model was, which stays."""
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    if exporter == "torch, dynamo":
        pytest.importorskip("onnxscript")
    from bnnlib.deploy import onnx_export

    torch.manual_seed(0)
    model = nn.Sequential(B(3, 16, 3), B(16, 32, 3, padding=1, scale="learned"), B(32, 8, 3, bias=True), nn.Flatten(), layers.BinaryLinear(8 * 144, 10))
    x, path = torch.randn(4, 3, 16, 16), tmp_path / "net.onnx"
    with torch.no_grad():
        want = copy.deepcopy(model).eval()(x)
    if exporter == "ours":
        model.train()
        model[1].eval()
        onnx_export.write(model, (3, 16, 16), path)
        assert [m.training for m in model] == [True, False, True, True, True] and model.training
    else:
        dynamo = exporter != "torch"
        torch.onnx.export(model.eval(), (x,), path, dynamo=dynamo, input_names=["images"], output_names=["logits"], verbose=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    same(want, torch.from_numpy(got))
