"""The binary layers on an NVIDIA GPU: the kernels of ``kernels/cuda/``, behind the functions of :mod:`bnnlib.ops`.

Give those functions CUDA tensors; :func:`backend` is what they then compute with. The kernels are compiled at the first
use, for the GPU present, by NVRTC, which PyTorch's own packages bring along, and kept in the cache of the CPU's kernels.
They are launched on PyTorch's current stream. Call a layer once before it is captured into a CUDA graph: the first call
loads code.

``BNN_CUDA_KERNEL`` chooses one of the formulations: ``tensor`` (binary products on tensor cores), ``carry-save`` or
``registers`` (popcount). Without it: ``tensor`` where the GPU has that instruction (compute capability 8.0 to 9.0),
else ``carry-save``.
"""

from bnnlib.ops.cuda.backend import FORMULATIONS, Cuda, backend, default_formulation

__all__ = ["FORMULATIONS", "Cuda", "backend", "default_formulation"]
