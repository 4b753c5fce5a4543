"""What each node of a traced model is to the converter: bits, stages, a move, a sum, ..., or PyTorch's own."""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn

from bnnlib.deploy import layerkinds as known
from bnnlib.deploy import moves, tensorkinds, tensors
from bnnlib.deploy.builder import Builder, settled_shape
from bnnlib.deploy.moves import AXES
from bnnlib.deploy.torch_parts import carried
from bnnlib.deploy.tracer import depends
from bnnlib.deploy.tracing import BATCH


def find(b: Builder, node: torch.fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if not carried(node) or b.kept(node) or node.op not in ("call_module", "call_function", "call_method"):
        return "torch"
    module, full = b.module(node), node.meta["shape"]
    rank = len(full) - 1
    if tensorkinds.join(node) is not None:
        if not moves.carried_parts(b, node):
            return "torch"
        if node.target is not torch.stack and rank in AXES:
            return "join"
        moves.join_as_rows(b, node)
        return "move"
    if known.kind(node, b.model) == "repeat" and "batched" not in node.meta:
        return "repeat"
    reduction = tensorkinds.reduction(node, module, _rank_read(node))
    if reduction is not None and 0 not in reduction[1] and "batched" not in node.meta:
        node.meta["function"], node.meta["dims"] = reduction
        if carried(node.args[0]) or carried(node.args[0].args[0]):
            tensors.reduced(b, node)
            return "reduce"
    if tensorkinds.moves(node, module) and (found := moves.origin(b, node)) is not None:
        root, places, _ = found
        same = places.size == _values(root) and bool((places[1:] > places[:-1]).all() and places[0] == 0)
        if same and (rank == 1 or b.shape(root) == settled_shape(full[1:])):
            node.meta["source"] = root
            return "identity" if root.meta["shape"] == full else "flatten"
        return "move"
    if "batched" in node.meta:  # a number of it is the number of images
        return "torch"
    sources = [a for a in node.all_input_nodes if depends(a)]
    twice = len(sources) == 1 and len(node.args) == 2 and node.args[0] is node.args[1]
    if twice or len(sources) != 1 or not all(carried(a) for a in sources):
        return _kind_of_two(b, node)
    if (old := known.kind(node, b.model)) != "torch":
        return old
    return _kind_of_one(b, node, module, sources[0])


def _values(node: torch.fx.Node) -> int:
    return torch.Size(node.meta["shape"][1:]).numel()


def _rank_read(node: torch.fx.Node) -> int:
    """Dimensions of the first tensor that a node reads."""
    first = node.args[0] if node.args and isinstance(node.args[0], torch.fx.Node) else None
    value = first.meta.get("value") if first is not None else None
    if isinstance(value, tuple) and first.args and isinstance(first.args[0], torch.fx.Node):
        value = first.args[0].meta.get("value")
    return value.dim() if isinstance(value, Tensor) else 1


def _kind_of_two(b: Builder, node: torch.fx.Node) -> str:
    sources = [a for a in node.args if isinstance(a, torch.fx.Node) and depends(a)]
    if len(node.args) == 2 and len(sources) == 2 and tensorkinds.two_values(node) and all(carried(a) for a in sources):
        full = node.meta["shape"]
        if known.kind(node, b.model) == "add" and b.shape(sources[0]) == b.shape(sources[1]):
            return "add"
        if all(len(a.meta["shape"]) == len(full) for a in sources):
            tensors.pair_of(b, node)
            return "pair"
    return "torch"


def _kind_of_one(b: Builder, node: torch.fx.Node, module: nn.Module | None, read: torch.fx.Node) -> str:
    rank = len(node.meta["shape"]) - 1
    if (stages := tensorkinds.one_value(node, module)) is not None:
        node.meta["stages"] = stages
        return "apply"
    if (stages := _with_constant(b, node, read)) is not None:
        node.meta["stages"], node.meta["source"] = stages, read
        return "scalar"
    if node.args[0] is not read:
        return "torch"
    if rank > 1 and known.by_rows(module):
        tensors.by_rows(b, node, "conv" if type(module) is nn.Linear else "binary")
        return "move"
    if type(module) in (nn.ConvTranspose1d, nn.ConvTranspose2d) and len(node.args) == 1 and rank == (3 if type(module) is nn.ConvTranspose2d else 2):
        tensors.transposed(b, node)
        return "conv"
    if type(module) in (nn.Conv1d, nn.Conv2d) and rank == (3 if type(module) is nn.Conv2d else 2):
        tensors.padded(b, node)
        return "conv"
    softmax = tensorkinds.softmax(node, module, rank + 1)
    if softmax is not None and rank in AXES and softmax[1] > 0:
        node.meta["softmax"] = softmax
        return "softmax"
    norm = tensorkinds.norm(node, module)
    if norm is not None and rank in AXES and norm.get("dims", 0) <= rank:
        node.meta["norm"] = norm
        return "normalise"
    if tensorkinds.resamples(node, module) and (lines := tensors.weights_along(b, node)) is not None:
        node.meta["lines"] = lines
        return "resample"
    return "torch"


def _with_constant(b: Builder, node: torch.fx.Node, read: torch.fx.Node) -> list | None:
    """The stages of arithmetic with a number, a parameter or a buffer."""
    stage = tensorkinds.two_values(node)
    if stage is None or read.meta["shape"] != node.meta["shape"]:
        return None
    turned = node.args[1] is read
    other = node.args[0] if turned else node.args[1]
    if isinstance(other, torch.fx.Node):
        if depends(other):
            return None
        other = other.meta["value"]
        if isinstance(other, Tensor) and other.dim() == len(read.meta["shape"]):
            if other.shape[0] not in (1, BATCH) or not bool((other == other[:1]).all()):
                return None
            other = other[0]
    if isinstance(other, bool) or not isinstance(other, (int, float, Tensor)):
        return None
    return tensorkinds.with_constant(stage[turned], torch.as_tensor(other, dtype=torch.float32))
