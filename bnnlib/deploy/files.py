"""Packed files: a network in one safetensors file, a bit to a binary weight. What is in a file, and which is for what.

A file holds one of two things, in the container of :mod:`bnnlib.deploy.container`:

a trained model (``results/models``, and what training writes)
    Every weight of a binary layer as a sign bit with its scale, everything else as trained (or its real-valued weights
    as bf16 or int8), and under what name and options :func:`bnnlib.models.build` makes the module they belong to.
    :func:`load` gives back that module with the same predictions: to evaluate, to teach another, to train on, to
    export, to convert. Needs PyTorch.
a packed network (what :func:`bnnlib.deploy.convert` makes of a model)
    The graph of :mod:`bnnlib.deploy.graph` with its constants: batch norms have become thresholds, there is nothing
    left to train. :func:`load` gives a :class:`PackedNetwork` to run; :func:`read_graph` gives the graph itself to who
    has NumPy alone. Made anew from the model whenever one likes; the model cannot be made from it.

Both describe themselves by the same fields of the document, which :func:`info` returns:

================ ===========================================================================================
``format``       3; files of format 2 (whose graphs are of version 1) and 1 (trained models without checksum) are read,
                 and no longer written
``model``,       of a trained model: ``name`` and ``options``; and for each binary layer the ``shape`` of its
``packed``       weight and the kind of its ``scale``
``graph``        of a packed network: see :meth:`bnnlib.deploy.graph.Graph.to_json`
``real``         how real-valued weights are stored: float32, bfloat16 or int8
``input``        what the network is fed with, as in a recipe: normalized, unit, mean-subtracted, gcn-zca
``images``       of one image: ``shape`` [C, H, W], ``mean`` and ``std`` by channel, ``view`` (how images of
                 any size are cut), the names of the ``classes``, and ``whitening`` where the file holds that
                 (:mod:`bnnlib.deploy.whitened`); may be missing
``recipe``, ...  where it comes from: ``recipe_hash``, ``seed``, ``top1`` (of the trained model, test set,
                 per cent), ``dataset``, ``fingerprint``
================ ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bnnlib.deploy import container, imagefields, limits
from bnnlib.deploy.container import FORMAT, DeployError
from bnnlib.deploy.graph import Graph, GraphError
from bnnlib.paths import RESULTS

if TYPE_CHECKING:
    from torch import nn

    from bnnlib.data import Dataset, ZCAWhitening
    from bnnlib.recipes import Recipe

__all__ = ["FOLDER", "FORMAT", "DeployError", "RealDtype", "info", "load", "path_of", "read_graph", "save"]

FOLDER = RESULTS / "models"
RealDtype = Literal["float32", "bfloat16", "int8"]
WHITENING = tuple(f"images.whitening.{name}" for name in ("mean", "kernel", "step", "rest"))
"""Tensors that are not the network's (:mod:`bnnlib.deploy.whitened`)."""


def path_of(name: str) -> Path:
    """Where the trained model of the recipe ``name`` lies that comes with the book, if one does."""
    return FOLDER / f"{name}.safetensors"


def save(
    net: nn.Module | Graph | Any,
    path: Path,
    *,
    recipe: Recipe | None = None,
    seed: int | None = None,
    top1: float | None = None,
    fingerprint: str | None = None,
    dataset: Dataset | None = None,
    real: RealDtype | None = None,
    about: Mapping[str, Any] | None = None,
    whitening: ZCAWhitening | Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write ``net`` to ``path``; whole or not at all. Returns ``path``.

    A module must be the one that ``recipe.model`` (or the ``model`` of ``about``) builds (else ``ValueError``), and ``real`` says how its
    real-valued weights are stored (float32 by default; int8: symmetric, a scale per output channel). A packed network or its
    :class:`Graph` needs no recipe, and takes no ``real``, which was chosen when it was converted.

    ``about``: a description as :func:`info` gives it, to hand on from one file to the next; the other arguments add to
    it; NumPy's numbers may stand in it. Its fields ``input`` and ``images`` are checked as a reader checks them.
    ``dataset``: where the names of the classes and the statistics of the images are taken from, and the whitening where
    the network is fed with whitened images. ``whitening``: that of another place, or the tensors of another file
    (``bnnlib.deploy.images.expected(...).whitening``).
    Raises ``ValueError`` for what does not fit together, :class:`DeployError` for a network with parts in PyTorch.
    """
    described = {k: v for k, v in dict(about or {}).items() if k not in ("format", "packed", "graph")}
    if recipe is not None:
        described |= {
            "model": {"name": recipe.model.name, "options": recipe.model.options},
            "recipe": recipe.name,
            "recipe_hash": recipe.hash(),
            "dataset": recipe.dataset,
            "input": recipe.input,
        }
    if dataset is not None:
        from bnnlib.deploy import images

        described["images"] = images.describe(dataset, recipe)
        fingerprint = fingerprint or dataset.fingerprint
        if described.get("input") == "gcn-zca" and whitening is None:
            whitening = images.evaluate.input_transform("gcn-zca", dataset)
    given = {"seed": seed, "top1": top1, "fingerprint": fingerprint}
    described |= {key: value for key, value in given.items() if value is not None}
    before = _whitening(described, whitening)
    described = imagefields.plain(described)
    graph = net if isinstance(net, Graph) else getattr(net, "graph", None)
    _check_images(described, graph if isinstance(graph, Graph) else None)
    if isinstance(graph, Graph):
        if real is not None:
            raise ValueError(f"how a packed network holds its real-valued weights is chosen when it is converted: deploy.convert(model, shape, real={real!r})")
        return _write_graph(graph, path, described, getattr(net, "notes", []), before)
    from bnnlib.deploy import trained

    if "model" not in described:
        raise ValueError("to save a module, say what builds it: give its recipe, or about= with a 'model'")
    real = real or "float32"
    document, tensors = trained.pack(net, real)
    trained.check(path, {**described, **document}, tensors)
    return container.write(path, {**described, **document, "real": real}, {**tensors, **before})


def _check_images(described: Mapping[str, Any], graph: Graph | None) -> None:
    """Raises ``ValueError`` for what a description says of images and no reader would take."""
    fed, said = described.get("input"), described.get("images")
    try:
        if said is not None:
            imagefields.check(said, "normalized" if fed is None else fed)
            imagefields.check_size(said, graph.slots[graph.inputs[0]].shape if graph else None)
        elif fed is not None and fed not in imagefields.INPUTS:
            raise ValueError(f"input is {fed!r:.100}: it must be one of {', '.join(imagefields.INPUTS)}")
    except ValueError as error:
        raise ValueError(f"about: {error}") from None


def _whitening(described: dict[str, Any], whitening: ZCAWhitening | Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """The tensors of ``whitening``, of which the field ``images`` then tells."""
    told = described.get("images")
    said = {key: value for key, value in told.items() if key != "whitening"} if isinstance(told, Mapping) else {}
    scale = told.get("whitening") if said else None
    if said:
        described["images"] = said
    if whitening is None:
        return {}
    if not said or described.get("input") != "gcn-zca":
        raise ValueError("whitening goes with a network whose input is gcn-zca and whose images are described: give recipe= and dataset=")
    if not isinstance(whitening, Mapping):
        from bnnlib.deploy import whitened

        whitening, scale = whitened.pack(whitening), {"scale": whitening.scale}
    if scale is None:
        raise ValueError("the tensors of a whitening go with the description of their file: give about=")
    described["images"] = {**said, "whitening": scale}
    return dict(whitening)


def tells_of_whitening(document: Mapping[str, Any]) -> bool:
    """Whether a file of this document holds the whitening of its images."""
    said = document.get("images")
    return isinstance(said, Mapping) and said.get("whitening") is not None


def _of_network(document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """``tensors`` without those of the whitening that the document tells of."""
    if not tells_of_whitening(document):
        return tensors
    return {name: array for name, array in tensors.items() if name not in WHITENING}


def info(path: Path) -> dict[str, Any]:
    """The description in a packed file. Raises :class:`DeployError` for a file that is absent, damaged, or not one of
    ours."""
    return container.read(path)[0]


def load(path: Path):
    """What is in ``path``: the trained model (an ``nn.Module`` in evaluation mode), or the packed network
    (:class:`bnnlib.deploy.PackedNetwork`). Raises :class:`DeployError` for a file that is damaged or does not fit."""
    document, tensors = container.read(path)
    tensors = _of_network(document, tensors)
    if "graph" in document:
        from bnnlib.deploy.network import PackedNetwork

        return PackedNetwork(_graph(path, document, tensors))
    from bnnlib.deploy import trained

    return trained.unpack(path, document, tensors)


def read_graph(path: Path) -> tuple[Graph, dict[str, Any]]:
    """The graph of a packed network, checked, and the rest of its description; without PyTorch. Raises
    :class:`DeployError`."""
    document, tensors = container.read(path)
    if "graph" not in document:
        raise DeployError(f"{path} holds a trained model, not a packed network: convert it first (deploy.convert)")
    graph = _graph(path, document, _of_network(document, tensors))
    return graph, {key: value for key, value in document.items() if key != "graph"}


def _write_graph(
    graph: Graph, path: Path, described: dict[str, Any], notes: Sequence[Mapping[str, Any]], before: Mapping[str, np.ndarray]
) -> Path:
    outside = [str(op.attributes.get("module", op.name)) for op in graph.ops if op.kind == "torch"]
    if outside:
        said = {note["layer"]: ", ".join(filter(None, (note.get("how"), note.get("line")))) for note in notes}
        raise DeployError(
            "the network has parts that run in PyTorch and cannot be in a file: "
            f"{'; '.join(f'{name} ({said[name]})' if said.get(name) else name for name in outside)}. Write these parts with what the "
            "executor has (the table in the book's page on nets of your own), or save the trained model with torch.save"
        )
    graph.validate()
    kinds = {op.attributes["weights"] for op in graph.ops if op.kind == "real_conv"}
    described["real"] = ", ".join(sorted(kinds)) or "none"
    described.pop("model", None)
    return container.write(path, {**described, "graph": graph.to_json()}, {**graph.tensors, **before})


def _graph(path: Path, document: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Graph:
    if "model" in document or "packed" in document:
        raise DeployError(f"{path} claims to hold both a trained model and a packed network")
    try:
        limits.check_parts(document["graph"])
        graph = Graph.from_json(document["graph"], tensors)
    except (GraphError, OverflowError, RecursionError) as error:
        raise DeployError(f"{path} holds no network that can run: {str(error)[:500]}") from None
    if any(op.kind == "torch" for op in graph.ops):
        raise DeployError(f"{path} holds no network that can run: a part of it is PyTorch's, which no file holds")
    if unused := sorted(set(tensors) - graph.named()):
        raise DeployError(f"{path} holds tensors that its network does not use: {', '.join(unused)[:200]}")
    limits.check(path, graph)
    checked = set()
    for op in graph.ops:
        if op.one_bit:
            name, rest = op.constants["weight"], graph.products(op) % 8
            if rest and (name, rest) not in checked and (graph.tensors[name][:, -1] >> rest).any():
                raise DeployError(f"{path}: the weights of {op.name or op.kind} have bits beyond the last one")
            checked.add((name, rest))
    return graph
