"""When a run leaves a checkpoint and when it stops: by the clock, or because a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CHECKPOINT_SECONDS = 300
EPOCH_CHECKPOINT_SECONDS = 10  # short epochs share a checkpoint
UPDATES_TO_ASK = 10  # steps between two polls among processes for a stop or a checkpoint


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by SIGINT, SIGTERM or SIGHUP after leaving a checkpoint."""

    def _render_traceback_(self) -> list[str]:  # what a notebook shows of it: the sentence alone
        return [str(self)]


class Stop:
    """The signal that asked a run to stop, if one did."""

    def __init__(self, fabric) -> None:
        self.fabric = fabric
        self.number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP (a terminal that was closed) ask the loop to stop at the next step; a second one
        stops at once. A SIGHUP that is ignored (nohup) stays so. Only the main thread may catch signals."""

        def ask(number, frame):
            # of several processes none may stop by itself, and torchrun hands a signal on that they got already
            if self.number is not None and self.fabric.world_size == 1:
                raise KeyboardInterrupt
            self.number = number

        try:
            caught = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                caught.append(signal.SIGHUP)
            before = {s: signal.signal(s, ask) for s in caught}
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def checkpoint_due(self, late: bool, updates: int) -> bool:
        """Whether to leave a checkpoint now: one is due by the clock (``late``), or a signal came. ``updates``:
        those that the epoch has made so far. Several processes must stop at the same step, since each waits for
        all others; so they exchange ``late`` and the signal once in :data:`UPDATES_TO_ASK` updates."""
        if self.fabric.world_size == 1:
            return late or self.number is not None
        if updates % UPDATES_TO_ASK:
            return False
        asked = torch.tensor([int(late), self.number or 0], device=self.fabric.device)
        late, number = self.fabric.all_reduce(asked, reduce_op="max").tolist()
        self.number = number or None
        return bool(late or number)

    def raise_if_asked(self, where: str) -> None:
        """Raise :class:`Interrupted`, which says ``where`` the run stopped and how it goes on."""
        if self.number is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.number).name} at {where}")
