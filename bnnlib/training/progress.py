"""What a run shows while it goes on: lines and a bar on the standard error, or a bar in a notebook's cell."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from bnnlib import printable
from bnnlib.storage import in_words

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

    def isatty(self) -> bool:
        """Whether somebody looks on; False for a file, a pipe, a closed stream and none."""
        try:
            return bool(sys.stderr.isatty())
        except (OSError, ValueError, AttributeError):
            return False

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # the last: a process without standard error
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


class Curves:
    """Fabric's logger for TensorBoard, in the run folder; nothing in all processes but the first. A file that cannot be written (a full disk) is
    told once, and the training goes on: the checkpoint and the record hold the curves, too."""

    def __init__(self, run: Run) -> None:
        self.run, self.logger = run, None
        if run.net.fabric.is_global_zero:
            from lightning_fabric.loggers import TensorBoardLogger

            self.logger = TensorBoardLogger(run.folder, name="tensorboard", version="")

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.logger is not None:
            self._tried(lambda: self.logger.finalize(""))

    def add(self, point: Epoch) -> None:
        """Write what an epoch gave."""
        if self.logger is not None:
            names = ("lr", "train_loss", "train_top1", "test_loss", "test_top1")
            self._tried(lambda: self.logger.log_metrics({name: getattr(point, name) for name in names}, step=point.epoch))

    def _tried(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # Fabric raises a ValueError for what its writer could not write
            self.logger = None
            self.run.display.log(f"TensorBoard's curves end here ({in_words(error.__cause__ or error)}): the record will hold them all")


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, and nobody has switched bars off (``TQDM_DISABLE``)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell" and not os.environ.get("TQDM_DISABLE")


class Display:
    """``progress``: True for lines on the standard error, and a bar where that is a terminal (a log gets a line an epoch);
    False for nothing; None for a bar where a notebook shows it. Of several processes the ``first`` alone shows anything."""

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

            shown_on = StandardError()
            options = {"leave": False, "file": shown_on}
            if not self.lines or not shown_on.isatty():  # else tqdm decides, who reads TQDM_DISABLE
                options["disable"] = True
        first = progress.epoch * steps + progress.step
        with tqdm(total=epochs * steps, initial=first, unit="step", dynamic_ncols=True, **options) as shown:
            yield Bar(shown, epochs, self.name if self.cell else "")


class Bar:
    """Epoch, loss and accuracy so far, images/s, and the time that is left for the whole run."""

    def __init__(self, shown: Any, epochs: int, name: str) -> None:
        self.shown, self.epochs, self.name, self.looked = shown, epochs, name, 0.0
        self.epoch, self.mark = -1, (0, 0.0)  # images and time after the first step of this epoch that was seen

    def step(self, run: Run) -> bool:
        """Count a step. False where the loss is seen not to be finite."""
        if self.shown.disable:
            return True
        progress, net = run.progress, run.net
        done = progress.epoch * net.steps + progress.step
        self.shown.update(done - self.shown.n)  # an epoch may break off before its last step
        if progress.epoch != self.epoch:
            self.epoch, self.mark = progress.epoch, (self.images(run), time.perf_counter())
        here = net.fabric.device.type == "cpu" and time.monotonic() - self.looked > SECONDS_TO_SHOW
        if progress.step % STEPS_TO_SHOW and progress.step != net.steps and not here:
            return True
        self.looked = time.monotonic()
        loss, correct, images = net.meter.local()
        said = [f"loss {loss / images:.4f}", f"{100 * correct / images:.2f} %"]
        if progress.curve:
            said.append(f"test {progress.curve[-1]['test_top1']:.2f} %")
        rate = self.rate(run)
        if rate is not None:
            said.append(f"{rate:.0f} images/s")
        name = f"{self.name}, " if self.name else ""
        self.shown.set_description_str(f"{name}epoch {progress.epoch + 1}/{self.epochs}", refresh=False)
        self.shown.set_postfix_str(", ".join(said))
        return math.isfinite(loss)

    def images(self, run: Run) -> int:
        """Images of this epoch so far, of all processes; all batches but the last are of one size."""
        step, train = run.progress.step, run.net.train
        return (step - 1) * train.count(0) + train.count(step - 1)

    def rate(self, run: Run) -> float | None:
        """Images/s of training: in this epoch from its second step on; before that, in the epochs before."""
        first, at = self.mark
        images, seconds = self.images(run) - first, time.perf_counter() - at
        if not images:
            images, seconds = run.progress.images, run.progress.training_seconds
        return images / seconds if images and seconds else None


def duration(seconds: float) -> str:
    """
    >>> [duration(s) for s in (12.3, 200, 4000, 40000)]
    ['12 s', '3 min', '67 min', '11.1 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
