"""Global contrast normalisation and ZCA whitening, as S4's Network in Network needs them.

S4 trains on CIFAR-10 prepared by pylearn2's `make_cifar10_gcn_whitened.py`: contrast normalisation with scale
55, then ZCA with its default `filter_bias` of 0.1. The definitions below are pylearn2's
(`pylearn2/expr/preprocessing.py: global_contrast_normalize`, `pylearn2/datasets/preprocessing.py: ZCA`):

    GCN   x <- x - average(x);  x <- 55 x / |x|, each image by itself
    ZCA   C = cov(x) + 0.1 I = V diag(l) V';  P = V diag(1/sqrt(l)) V';  y = (x - mean) P

`ZCAWhitening` holds both: it takes images on the 0..255 scale (GCN does not see that scale) and its
state_dict goes into checkpoints and packed files like any module's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnlib.data import cache
from bnnlib.data.splits import Split

SCALE = 55.0
EPS = 0.1
MIN_DIVISOR = 1e-8  # an image of less contrast than this is centred but not scaled


def gcn(x: Tensor, scale: float = SCALE) -> Tensor:
    """Global contrast normalisation of images (B, C, H, W): each one's mean is 0 and its norm is `scale`.

    Computed in float32, or in float64 for float64 images.
    """
    if x.dtype != torch.float64:
        x = x.float()
    flat = x.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    divisor = flat.norm(dim=1, keepdim=True) / scale
    return (flat / torch.where(divisor < MIN_DIVISOR, 1.0, divisor)).view_as(x)


class ZCAWhitening(nn.Module):
    """y = (GCN(x) - mean) P for images x (B, C, H, W), 0..255; y is float32 of the same shape.

    Make one by `fit`, or by `ZCAWhitening(shape)` and `load_state_dict`.

    shape: (C, H, W). scale: of the contrast normalisation; 0 leaves it out, and x is taken on the 0..1 scale.
    Buffers: `mean` (D,), `matrix` (D, D), float32 with D = C H W. They are buffers, not parameters: no
    optimiser touches them.
    """

    def __init__(self, shape: tuple[int, int, int], scale: float = SCALE) -> None:
        super().__init__()
        if not scale >= 0:
            raise ValueError(
                f"scale = {scale} is impossible: give a positive norm, or 0 for no contrast normalisation"
            )
        self.shape, self.scale = tuple(shape), float(scale)
        size = shape[0] * shape[1] * shape[2]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("matrix", torch.eye(size))

    @classmethod
    def fit(
        cls, images: Tensor, eps: float = EPS, scale: float = SCALE, batch_size: int = 5000
    ) -> ZCAWhitening:
        """Fit on training images (N, C, H, W), 0..255, in float64. `fitted` keeps the result.

        eps: added to the covariance's diagonal, so that directions without variance are not blown up.
        """
        if len(images) < 2:
            raise ValueError(f"whitening is fitted on at least 2 images, not on {len(images)}")
        if not eps > 0:
            raise ValueError(
                f"eps = {eps} is impossible: a positive one keeps directions without variance finite"
            )
        made = cls(tuple(images.shape[1:]), scale)
        size, count = made.mean.numel(), len(images)
        total = torch.zeros(size, dtype=torch.float64, device=images.device)
        for part in images.split(batch_size):
            total += made._prepare(part.double()).sum(0)
        mean = total / count
        covariance = torch.zeros(size, size, dtype=torch.float64, device=images.device)
        for part in images.split(batch_size):
            centred = made._prepare(part.double()) - mean
            covariance.addmm_(centred.T, centred)
        covariance.div_(count).diagonal().add_(eps)
        values, vectors = torch.linalg.eigh(covariance)
        made.mean.copy_(mean)
        made.matrix.copy_((vectors * values.rsqrt()) @ vectors.T)
        return made

    def _prepare(self, x: Tensor) -> Tensor:
        x = gcn(x, self.scale) if self.scale else x / 255
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"this whitening was fitted on images of shape {self.shape}, not {tuple(x.shape[1:])}"
            )
        return ((self._prepare(x.float()) - self.mean) @ self.matrix).view(x.shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, scale={self.scale:g}"


def fitted(split: Split, eps: float = EPS, scale: float = SCALE) -> ZCAWhitening:
    """`ZCAWhitening.fit` on a split's images, kept in the cache folder by the split's fingerprint."""
    group = f"zca-{split.fingerprint.rpartition(':')[2][:32]}-eps{eps:g}-scale{scale:g}"

    def fit() -> dict[str, Tensor]:
        return dict(ZCAWhitening.fit(split.images, eps, scale).cpu().state_dict())

    whitening = ZCAWhitening(split.shape, scale)
    whitening.load_state_dict(cache.remember(group, "1", fit))
    return whitening
