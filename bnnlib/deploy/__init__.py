"""Ship a trained net in 1 bit: convert it, save it, load it, run it.

* :func:`save`, :func:`load`, :func:`info`: one safetensors file, a bit to a binary weight (:mod:`bnnlib.deploy.files`);
* :func:`convert`: a trained model as a :class:`PackedNetwork`, which runs on packed bits (:mod:`bnnlib.deploy.converter`);
* :mod:`bnnlib.deploy.graph`: what a packed network is, as data.

``python -m bnnlib.deploy info|run|export`` does all of it on the command line.

Names are imported when they are asked for: :mod:`bnnlib.deploy.graph` and :mod:`bnnlib.deploy.run` need NumPy alone.
"""

from __future__ import annotations

from importlib import import_module

_HOME = {
    "DeployError": "container",
    "FOLDER": "files",
    "FORMAT": "files",
    "RealDtype": "files",
    "app": "commands",
    "info": "files",
    "load": "files",
    "path_of": "files",
    "read_graph": "files",
    "save": "files",
    "ConvertError": "preparing",
    "RealWeights": "converter",
    "convert": "converter",
    "PackedNetwork": "network",
    "Graph": "graph",
    "GraphError": "graph",
}
__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
