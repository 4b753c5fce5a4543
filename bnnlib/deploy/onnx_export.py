"""A trained model as ONNX, to compare with: its binary weights and activations as floats that are +-1.

The same numbers as the model in evaluation mode, without the use of a bit: what ONNX Runtime makes of the topology.
Needs the optional packages of ``pip install 'bnnlib[bench]'``.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from bnnlib.deploy.container import DeployError
from bnnlib.storage import write_atomically


def write(
    model: nn.Module, shape: tuple[int, int, int], path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write ``model``, which takes images ``(N, *shape)`` as ``images`` and gives ``logits``, any N; ``metadata`` (input,
    mean and std, classes) goes into the file. Raises :class:`DeployError` where the package onnx is missing."""
    content = encode(model, shape)
    if metadata:
        import onnx

        written = onnx.load_from_string(content)
        onnx.helper.set_model_props(written, dict(metadata))
        content = written.SerializeToString()
    write_atomically(path, content)
    return path


def encode(model: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """The ONNX file's bytes; see :func:`write`."""
    if importlib.util.find_spec("onnx") is None:
        raise DeployError("the package onnx is missing: pip install 'bnnlib[bench]'")
    out = io.BytesIO()
    any_n = {"images": {0: "n"}, "logits": {0: "n"}}
    training = [module for module in model.modules() if module.training]
    with warnings.catch_warnings(), _evaluated(model, training):
        warnings.simplefilter("ignore")  # that shapes are checked while it is traced; that newer exporters exist
        torch.onnx.export(
            model,
            (torch.zeros(1, *shape),),
            out,
            dynamo=False,  # the newer exporter needs a package more, and writes nothing better here
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes=any_n,
            opset_version=17,
        )
    return out.getvalue()


@contextmanager
def _evaluated(model: nn.Module, training: list[nn.Module]) -> Iterator[None]:
    """The model in evaluation mode; the modules ``training`` are back in training afterwards."""
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
