"""Losses: cross entropy with label smoothing, and knowledge distillation (Hinton et al. 2015, arXiv
1503.02531)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distillation(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    mix: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """``(1 - mix) CE(logits, labels) + mix T^2 KL(softmax(teacher / T) || softmax(logits / T))``, the mean
    over the batch.

    ``logits`` and ``teacher_logits``: ``(N, classes)``; ``labels``: ``(N,)``. Raises ``ValueError`` where
    the shapes differ.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            f"the teacher gives logits of shape {tuple(teacher_logits.shape)}, the student {tuple(logits.shape)}: they must be equal"
        )
    hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    soft = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - mix) * hard + mix * temperature**2 * soft
