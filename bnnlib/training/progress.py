"""What a run shows while it goes on: lines and a bar on the standard error, or a bar in a notebook's cell."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from bnnlib import printable

if TYPE_CHECKING:
    from bnnlib.records import Epoch
    from bnnlib.training.loop import Run
    from bnnlib.training.state import Progress

STEPS_TO_SHOW = 50  # between two looks at the loss, for which a GPU must be waited for
SECONDS_TO_SHOW = 0.5  # between two looks at it on a CPU


class StandardError:
    """The standard error as far as it goes: what cannot be written (a pipe that was closed, a full disk) is dropped, and
    the training goes on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # the last: a process without standard error
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, and nobody has switched bars off (``TQDM_DISABLE``)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell" and not os.environ.get("TQDM_DISABLE")


class Display:
    """``progress``: True for lines and a bar on the standard error, False for nothing, None for a bar where a notebook
    shows it. Of several processes the ``first`` alone shows anything."""

    def __init__(self, progress: bool | None, first: bool, name: str) -> None:
        self.lines = bool(progress) and first
        self.cell = progress is None and first and in_notebook()
        self.name = name

    def log(self, text: str) -> None:
        """Print a line."""
        if self.lines:
            from tqdm import tqdm

            shown = StandardError()
            tqdm.write(printable(text), file=shown)
            shown.flush()

    def epoch(self, run: Run, point: Epoch, images: float) -> None:
        """Print what an epoch gave."""
        progress, epochs = run.progress, run.net.recipe.epochs
        left = progress.wall / progress.epoch * (epochs - progress.epoch)
        self.log(
            f"epoch {point.epoch}/{epochs}: loss {point.train_loss:.4f}, train {point.train_top1:.2f} %, test "
            f"{point.test_top1:.2f} %, {images / max(point.seconds, 1e-9):.0f} images/s, {duration(left)} left"
        )

    @contextmanager
    def bar(self, progress: Progress, epochs: int, steps: int) -> Iterator[Bar]:
        """A bar over all steps of a run."""
        if self.cell:
            from tqdm.auto import tqdm  # drawn by the notebook where ipywidgets is installed

            options: dict[str, Any] = {"leave": True, "desc": self.name}
        else:
            from tqdm import tqdm

            options = {"leave": False, "file": StandardError(), "disable": not self.lines}
        first = progress.epoch * steps + progress.step
        with tqdm(total=epochs * steps, initial=first, unit="step", dynamic_ncols=True, **options) as shown:
            yield Bar(shown, epochs, self.name if self.cell else "")


class Bar:
    """Epoch, loss and accuracy so far, images/s, and the time that is left for the whole run."""

    def __init__(self, shown: Any, epochs: int, name: str) -> None:
        self.shown, self.epochs, self.name, self.looked = shown, epochs, name, 0.0

    def step(self, run: Run) -> bool:
        """Count a step. False where the loss is seen not to be finite."""
        if self.shown.disable:
            return True
        progress, net = run.progress, run.net
        done = progress.epoch * net.steps + progress.step
        self.shown.update(done - self.shown.n)  # an epoch may break off before its last step
        here = net.fabric.device.type == "cpu" and time.monotonic() - self.looked > SECONDS_TO_SHOW
        if progress.step % STEPS_TO_SHOW and progress.step != net.steps and not here:
            return True
        self.looked = time.monotonic()
        loss, correct, images = net.meter.local()
        rate = (self.shown.format_dict["rate"] or 0) * net.recipe.batch_size
        last = f", test {progress.curve[-1]['test_top1']:.2f} %" if progress.curve else ""
        name = f"{self.name}, " if self.name else ""
        self.shown.set_description_str(f"{name}epoch {progress.epoch + 1}/{self.epochs}", refresh=False)
        self.shown.set_postfix_str(
            f"loss {loss / images:.4f}, {100 * correct / images:.2f} %{last}, {rate:.0f} images/s"
        )
        return math.isfinite(loss)


def duration(seconds: float) -> str:
    """
    >>> duration(80), duration(600), duration(9000)
    ('80 s', '10 min', '2.5 h')
    """
    if seconds <= 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds <= 5400 else f"{seconds / 3600:.1f} h"
