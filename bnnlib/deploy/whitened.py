"""ZCA whitening in a packed file, in an eighth of its bytes, so that a network of whitened images needs no training images.

The matrix P of :class:`bnnlib.data.ZCAWhitening` is symmetric, and nearly a convolution: its entry for two pixels depends
mostly on their channels and on the displacement from one to the other. What is left differs from place to place, small but
in all entries. For ``D = C H W`` values of an image the file holds (:data:`bnnlib.deploy.files.WHITENING`):

=================================== ==============================================================================
``images.whitening.mean``, F32      ``(D,)``, subtracted first
``images.whitening.kernel``, F16    ``(C, C, 2H - 1, 2W - 1)``: the mean of P over all pairs of one displacement
``images.whitening.step``, F16      of the same shape: a seventh of the largest difference from that mean
``images.whitening.rest``, U8       ``(ceil(D (D + 1) / 4),)``: the differences in steps, -7 to 7, plus 8: the upper triangle of
                                    P row by row, two entries to a byte, the first in the lower four bits
=================================== ==============================================================================

and ``images.whitening.scale`` in the document is the norm of the contrast normalisation before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bnnlib.data.whitening import ZCAWhitening
from bnnlib.deploy.container import DeployError
from bnnlib.deploy.files import WHITENING

LARGEST = 4096
"""Values of an image; CIFAR-10's have 3072. The matrix is this squared."""


def _by_displacement(table: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """``(D, D)``: the entry of ``table`` ``(C, C, 2H - 1, 2W - 1)`` for each pair of values."""
    c, h, w = shape
    rows, columns = torch.arange(h), torch.arange(w)
    i = rows[:, None, None, None] - rows[None, None, :, None] + h - 1
    j = columns[None, :, None, None] - columns[None, None, None, :] + w - 1
    return table[:, :, i, j].permute(0, 2, 3, 1, 4, 5).reshape(c * h * w, c * h * w)


def pack(whitening: ZCAWhitening) -> dict[str, np.ndarray]:
    """The tensors of a file. Raises ``ValueError`` for a whitening that they cannot hold."""
    c, h, w = shape = whitening.shape
    size, matrix = c * h * w, whitening.matrix.detach().cpu().float()
    if size > LARGEST:
        raise ValueError(f"whitening of {size} values is not held in a file, at most of {LARGEST}")
    if not torch.allclose(matrix, matrix.T, atol=1e-4 * float(matrix.abs().max())):
        raise ValueError("the matrix of a ZCA whitening is symmetric; this one is not")
    table = (c, c, 2 * h - 1, 2 * w - 1)
    where = _by_displacement(torch.arange(int(np.prod(table))).view(table), shape).flatten()

    def over_pairs(values: Tensor, what: str) -> Tensor:
        made = torch.zeros(int(np.prod(table)), dtype=values.dtype)
        return made.scatter_reduce(0, where, values.flatten(), what, include_self=False).view(table)

    kernel = over_pairs(matrix.double(), "mean").half()
    rest = matrix - _by_displacement(kernel.float(), shape)
    step = (over_pairs(rest.abs(), "amax") / 7).half()
    if not (kernel.isfinite().all() and step.isfinite().all()):
        raise ValueError("the whitening has values beyond float16's: fit it with a larger eps")
    steps = _by_displacement(step.float(), shape)
    levels = torch.where(steps > 0, rest / steps.clamp(min=1e-30), 0.0).round().clamp(-7, 7) + 8
    levels = levels[tuple(torch.triu_indices(size, size))].to(torch.uint8).numpy()
    levels = np.append(levels, np.zeros(len(levels) % 2, np.uint8))
    mean = whitening.mean.detach().cpu().float().numpy()
    return dict(zip(WHITENING, (mean, kernel.numpy(), step.numpy(), levels[::2] | levels[1::2] << 4), strict=True))


def check(path: object, tensors: Mapping[str, np.ndarray], shape: tuple[int, int, int]) -> None:
    """Raises :class:`DeployError` unless ``tensors`` can be the whitening of images of ``shape``."""
    c, h, w = shape
    size, table = c * h * w, (c, c, 2 * h - 1, 2 * w - 1)
    if size > LARGEST:
        raise DeployError(f"{path} says that it whitens images of {size} values, more than {LARGEST}")
    wanted = zip(WHITENING, ((size,), table, table, (-(-size * (size + 1) // 4),)), ("f4", "f2", "f2", "u1"), strict=True)
    for name, form, kind in wanted:
        found = tensors.get(name)
        if found is None or found.shape != form or found.dtype != np.dtype(kind):
            held = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise DeployError(f"{path} whitens its images, and holds as {name} {held}, not {np.dtype(kind)} {list(form)}")
        if kind != "u1" and not np.isfinite(found).all():
            raise DeployError(f"{path} whitens its images, and {name} has values that are not finite")


def unpack(tensors: Mapping[str, np.ndarray], shape: tuple[int, int, int], scale: float, rest: bool = True) -> ZCAWhitening:
    """The whitening of tensors that :func:`check` has passed. ``rest=False``: as the convolution alone."""
    made = ZCAWhitening(shape, scale)
    mean, kernel, step, levels = (torch.from_numpy(np.array(tensors[name])) for name in WHITENING)
    matrix, size = _by_displacement(kernel.float(), shape), len(mean)
    if rest:
        upper = tuple(torch.triu_indices(size, size))
        levels = torch.stack([levels & 15, levels >> 4], 1).flatten()[: len(upper[0])].float() - 8
        difference = torch.zeros(size, size)
        difference[upper] = levels * _by_displacement(step.float(), shape)[upper]
        matrix += difference + difference.triu(1).T
    made.mean.copy_(mean)
    made.matrix.copy_(matrix)
    return made
