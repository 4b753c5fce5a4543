"""Peak memory of one network in this process, for ``bnnlib.verify``: a fresh process for each.

``python -m bnnlib.benchmarks.memory KIND NAME N,C,H,W FOLDER`` loads the network from FOLDER, runs it once on random images,
and prints what the process held at most, above what it held with its libraries imported and used once, and in all.
``packed-alone`` imports no PyTorch; ``packed-alone-int8`` is the same with real-valued weights of int8.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path


def held(field: str) -> int:
    """``VmRSS`` or ``VmHWM`` (the peak since :func:`forget`) of this process, bytes."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1])


def forget() -> None:
    """The peak starts anew, from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def fp32(name: str, shape: tuple[int, ...], path: Path) -> Callable[[], object]:
    """A call that loads the full-precision twin's weights from ``path`` and runs it once."""
    import safetensors.torch
    import torch

    from bnnlib import models, recipes
    from bnnlib.benchmarks import nets

    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))
    model = recipes.load(name).model

    with torch.device("meta"):  # takes no memory, but may import much of PyTorch, which is not the network's
        twin = nets.full_precision_twin(models.build(model.name, **model.options))

    def run() -> object:
        twin.load_state_dict(safetensors.torch.load_file(path), assign=True)
        with torch.inference_mode():
            return twin(torch.rand(shape))

    return run


def packed(shape: tuple[int, ...], path: Path) -> Callable[[], object]:
    """A call that loads the packed network in ``path`` and runs it once, in PyTorch's process."""
    import torch

    from bnnlib import deploy
    from bnnlib.deploy import network, run

    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))
    run.kernels()
    assert network
    return lambda: deploy.load(path)(torch.rand(shape))


def packed_alone(shape: tuple[int, ...], path: Path) -> Callable[[], object]:
    """A call that loads the packed network in ``path`` and runs it once, without PyTorch."""
    import numpy as np

    from bnnlib.deploy import run

    run.kernels()
    images = np.random.default_rng(0)
    return lambda: run.load(path)(images.random(shape, np.float32))


def main(kind: str, name: str, shape: str, folder: str) -> None:
    """Print the peak of memory of one network as JSON; see the module."""
    sizes = tuple(map(int, shape.split(",")))
    if kind == "fp32-eager":
        call = fp32(name, sizes, Path(folder) / f"{name}.fp32")
    else:
        form = "packed-int8" if kind.endswith("int8") else "packed"
        call = (packed if kind == "packed" else packed_alone)(sizes, Path(folder) / f"{name}.{form}")
    if kind.startswith("packed-alone") and "torch" in sys.modules:
        raise SystemExit("PyTorch was imported")
    before = held("VmRSS")
    forget()
    call()
    peak = held("VmHWM")
    print(json.dumps({"above": peak - before, "whole": peak, "images": 4 * math.prod(sizes)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
