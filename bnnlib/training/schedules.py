"""Learning rates as a function of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from bnnlib.recipes import Schedule


def factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """What multiplies the base rate at ``epoch`` (0 <= epoch < epochs, fractions within an epoch) of
    ``epochs``.

    ``step`` changes between epochs only; ``cosine`` and its restarts follow the fraction; ``cosine`` reaches
    0 at ``epochs``.
    """
    if epoch < schedule.warmup_epochs:
        return epoch / schedule.warmup_epochs
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        whole = int(epoch)
        passed = whole // schedule.every if schedule.every else sum(whole >= m for m in schedule.milestones)
        return schedule.gamma**passed
    if schedule.name == "cosine":
        progress = (epoch - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
        return (1 + math.cos(math.pi * progress)) / 2
    start, length = 0, schedule.first_cycle
    while epoch >= start + length:
        start, length = start + length, length * schedule.growth
    return (1 + math.cos(math.pi * (epoch - start) / length)) / 2
