"""``torch.compile`` for a net in training.

On a CPU, what PyTorch 2.14's compiler makes of a max-pooling's gradient adds one number at a time to planes of float32,
and takes many times as long as PyTorch's own kernel. So there it calls that kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import lookup_backend

POOL, POOL_BACKWARD = torch.ops.aten.max_pool2d_with_indices, torch.ops.aten.max_pool2d_with_indices_backward


def compiled(model: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """``model`` as PyTorch's compiler makes it: a program for each size of a batch, since the last of an epoch is smaller."""
    backend = _inductor_without_pools if device.type == "cpu" else "inductor"
    return torch.compile(model, dynamic=False, backend=backend)


def _inductor_without_pools(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
    for node in graph.graph.nodes:
        if node.target is F.max_pool2d and not node.kwargs.get("return_indices"):
            node.target = _max_pool2d
    graph.recompile()
    return lookup_backend("inductor")(graph, inputs)


def _max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False) -> Tensor:
    """``F.max_pool2d``. Without a gradient the compiler's own, which it joins to what stands around."""
    if not (torch.is_grad_enabled() and input.requires_grad):
        return F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    sizes = ([n] if isinstance(n, int) else list(n) for n in (kernel_size, stride or (), padding, dilation))
    return _pool(input, *sizes, ceil_mode)[0]


@torch.library.custom_op("bnn::max_pool2d", mutates_args=())
def _pool(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    return POOL(x, kernel, stride, padding, dilation, ceil_mode)


@torch.library.custom_op("bnn::max_pool2d_backward", mutates_args=())
def _pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    return POOL_BACKWARD(gradient, x, kernel, stride, padding, dilation, ceil_mode, indices)


def _keep(ctx, inputs, output):
    x, *ctx.rest = inputs
    ctx.save_for_backward(x, output[1])


def _backward(ctx, gradient, _):
    x, indices = ctx.saved_tensors
    return _pool_backward(gradient, x, *ctx.rest, indices), None, None, None, None, None


_pool.register_fake(POOL)
_pool_backward.register_fake(POOL_BACKWARD)
_pool.register_autograd(_backward, setup_context=_keep)
