"""Train a recipe: ``python -m bnnlib.train RECIPE [--seed N] [--profile quick|demo|full] [--data DIR] [--set
field=value]``.

Over several GPUs or machines: ``torchrun --nproc-per-node N -m bnnlib.train RECIPE``. ``batch_size`` is of
the batch that all processes share, so that a recipe is the same run on any number of them, but for batch
norm, whose statistics are of each process's share.

Everything random is a function of (seed, epoch, step): the order of the images, their augmentation, the
dropout. So a checkpoint holds the model, the optimizer and a position, and a run that was killed and resumed
equals one that was not, bit for bit on a CPU with the same number of threads.

A full run writes its record to ``results/runs/<recipe>/seed<N>.json``, unless there is one; a shorter run, and one with
changed fields (``--set``), only into its run folder. Every run leaves ``model.safetensors`` (weights packed to 1 bit
each) there.
"""

from __future__ import annotations

import operator
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bnnlib import layers, recipes, records
from bnnlib.recipes import Recipe
from bnnlib.training import checkpoint, checks, code, diagnostics, fits, memory, schedules, stopping
from bnnlib.training.checks import TrainingError
from bnnlib.training.clock import Clock
from bnnlib.training.finishing import RunResult, finish
from bnnlib.training.progress import Curves, Display
from bnnlib.training.resuming import resume, save
from bnnlib.training.setup import Net, load_data, on_rank_zero, setup, start_fabric
from bnnlib.training.state import Progress
from bnnlib.training.steps import share_buffers, train_step, validate
from bnnlib.training.stopping import Interrupted

__all__ = ["Interrupted", "Run", "RunResult", "TrainingError", "fit", "train"]


@dataclass
class Run:
    """A run: its net, where it stands, and what watches over it. ``saved``: when the last checkpoint was left; ``watch``: of a
    recipe with diagnostics."""

    net: Net
    profile: str
    folder: Path
    progress: Progress
    stop: stopping.Stop
    display: Display
    saved: float = 0.0
    notes: list[str] = field(default_factory=list)
    watch: diagnostics.Watch | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must say for this run to go on from it."""
        net = self.net
        named = {"recipe_hash": net.recipe.hash(), "profile": self.profile, "seed": net.seed}
        return {"format": 1, **named, "fingerprint": net.dataset.fingerprint}

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.display.log(text)


def train(
    recipe: str | Path | Recipe,
    *,
    seed: int = 0,
    profile: str = "full",
    data_root: Path | None = None,
    out: Path | None = None,
    runs: Path | None = None,
    overrides: dict[str, Any] | None = None,
    restart: bool = False,
    replace: bool = False,
    accept_changed_code: bool = False,
    progress: bool | None = True,
) -> RunResult:
    """Train ``recipe`` (a name, a path, or a loaded recipe) and return its :class:`RunResult`.

    ``data_root``: as :func:`bnnlib.data.load` takes it. ``out``: folder of full records; where None,
    ``results/runs`` for the recipes that come with the library, the run folder for any other. ``runs``:
    where run folders go. ``overrides``: dotted fields to values; such a run is kept apart from the recipe's
    own. ``restart``: forget a checkpoint. ``replace``: put the record in the place of one that is there; otherwise that
    one stays, and this run's goes into its run folder. ``accept_changed_code``: go on from a checkpoint that other code
    made; otherwise a full run asks, and a shorter one starts anew. ``progress``: lines on the standard error, and a
    bar where that is a terminal; None: a bar in a notebook, and nothing elsewhere. From here on the process keeps the
    memory that it frees (:mod:`bnnlib.training.memory`).

    Raises :class:`RecipeError`, :class:`bnnlib.data.DataNotFound`, :class:`CheckpointError`,
    :class:`RunBusy`, :class:`TrainingError` (NaN).
    """
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(recipe, overrides)
    elif overrides:
        raise recipes.RecipeError("overrides need the name or path of a recipe, not a loaded one")
    if not hasattr(seed, "__index__") or not 0 <= seed < 2**63:  # of PyTorch's generators
        raise recipes.RecipeError(f"seed is {seed!r}: it must be a whole number >= 0 and below 2**63")
    seed = operator.index(seed)
    recipe = recipe.for_profile(profile, keep=overrides or ())
    fits.check_names(recipe)
    label = profile if not overrides else f"{profile}-{recipe.hash()[:8]}"
    runs = checkpoint.runs_folder(runs)
    folder = runs / recipe.name / label / f"seed{seed}"
    if out is None and recipe.name in recipes.names():
        out = records.FOLDER
    kept = folder / "record.json"
    if profile == "full" and not overrides and out is not None:
        kept = records.path_of(recipe.name, seed, out)

    memory.keep_freed()
    fabric = start_fabric(recipe.precision)
    display = Display(progress, fabric.is_global_zero, f"{recipe.name} seed {seed}")
    with ExitStack() as held:
        on_rank_zero(fabric, lambda: held.enter_context(checkpoint.Lock(folder)) and None)
        display.log(f"{recipe.name} seed {seed} ({profile}): run folder {folder}")
        display.log(f"curves: tensorboard --logdir {folder / 'tensorboard'}")
        there = None if replace or kept.parent == folder else on_rank_zero(fabric, lambda: _read_if_there(kept))
        if there is not None:
            display.log(f"{kept} is on record and stays: this run's goes to {folder} (--replace or --out decide, in Python replace= or out=)")
        run = begin(fabric, recipe, seed, profile, data_root, runs, folder, display)
        resume(run, restart, accept_changed_code)
        run.saved = time.perf_counter() - stopping.EPOCH_CHECKPOINT_SECONDS  # the first epoch leaves a checkpoint
        fit(run)
        return finish(run, kept, there)


def begin(
    fabric, recipe: Recipe, seed: int, profile: str, data_root: Path | None, runs: Path, folder: Path, display: Display
) -> Run:
    """A run at its start."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    dataset = load_data(fabric, recipe, profile, data_root)
    net = setup(fabric, recipe, dataset, seed, profile=profile, runs=runs)
    made_by = code.hashes(recipe) | ({"the teacher's file": net.known.sha256} if net.known else {})
    # the commit is of the code that is loaded now; the checkout may move on
    progress = Progress(started=started, code=made_by, commit=records.commit())
    watch = diagnostics.Watch(net) if recipe.diagnostics else None
    return Run(net, profile, folder, progress, stopping.Stop(fabric), display, watch=watch)


def fit(run: Run) -> None:
    """Train the epochs that are left, each followed by an evaluation."""
    progress, epochs = run.progress, run.net.recipe.epochs
    with run.stop.listening(), Curves(run) as curves, run.display.bar(progress, epochs, run.net.steps) as bar:
        while progress.epoch < epochs:
            train_epoch(run, bar)
            validate_epoch(run, curves)


def _clock(net: Net) -> Clock:
    return Clock(net.fabric.device.type == "cpu" and not net.train.lazy)  # other processes decode lazy splits


def train_epoch(run: Run, bar: Any = None) -> None:
    """The steps of an epoch that are left. A checkpoint is left on the way where one is due."""
    net, progress, recipe = run.net, run.progress, run.net.recipe
    if recipe.temperature:
        start, end = recipe.temperature
        share = progress.epoch / max(1, recipe.epochs - 1)
        layers.set_temperature_(net.model, start * (end / start) ** share)
    net.forward.train()
    clock = _clock(net)
    batches = net.train.epoch(progress.epoch, start=progress.step)
    for _, (_, x, y) in zip(range(progress.step, net.steps), batches, strict=False):
        if run.watch is not None:
            run.watch.step_begins(progress.step)
        loss = train_step(net, x, y, progress.epoch, progress.step)
        if run.watch is not None:
            run.watch.step_ended()
        progress.step += 1
        if bar is not None and not bar.step(run):
            _check_finite(run)
        now = time.perf_counter()
        # before a checkpoint is left: a run resumed from it would go on with an epoch that has ended
        below = recipe.stop_epoch_below_loss
        if below is not None and net.fabric.all_reduce(loss).item() < below:
            break
        updates, begun = divmod(progress.step, recipe.accumulate)
        # a checkpoint holds no half-accumulated gradient
        late = now - run.saved > stopping.CHECKPOINT_SECONDS
        if not begun and run.stop.checkpoint_due(late, updates):
            _check_finite(run)
            progress.clock(clock.seconds())
            clock = _clock(net)
            save(run)
            _stop_if_asked(run)
    _check_finite(run)
    progress.clock(clock.seconds())


def validate_epoch(run: Run, curves: Curves | None = None) -> None:
    """Evaluate after an epoch, put its point on the curve, leave a checkpoint where one is due."""
    net, progress, recipe = run.net, run.progress, run.net.recipe
    trained = net.meter.means()
    progress.images += int(trained["images"])
    share_buffers(net)
    clock = _clock(net)
    test = validate(net, net.test)
    validation = validate(net, net.validation) if net.validation else None
    progress.wall += clock.seconds()
    point = records.Epoch(
        epoch=progress.epoch + 1,
        lr=recipe.optimizer.lr * schedules.factor(recipe.schedule, progress.epoch, recipe.epochs),
        train_loss=trained["loss"],
        train_top1=trained["top1"],
        test_loss=test["loss"],
        test_top1=test["top1"],
        test_top5=test["top5"],
        validation_top1=validation and validation["top1"],
        seconds=progress.epoch_seconds,
    )
    progress.curve.append(point.model_dump())
    if run.watch is not None:
        progress.diagnostics.append(run.watch.epoch_ended(point.epoch, point.test_top1).model_dump())
    if curves is not None:
        curves.add(point)
    progress.epoch, progress.step, progress.epoch_seconds = progress.epoch + 1, 0, 0.0
    net.meter.reset()
    run.display.epoch(run, point, trained["images"])
    late = progress.epoch == recipe.epochs or time.perf_counter() - run.saved > stopping.EPOCH_CHECKPOINT_SECONDS
    if run.stop.checkpoint_due(late, 0):
        save(run)
    _stop_if_asked(run)


def _check_finite(run: Run) -> None:
    net = run.net
    bad = checks.not_finite(net.model, net.meter.local()[0])
    if bad:
        raise TrainingError(
            f"{net.recipe.name} seed {net.seed}: {bad} in epoch {run.progress.epoch + 1} at or before step "
            f"{run.progress.step}; the last good checkpoint is kept in {run.folder}. Lower optimizer.lr, or look at the inputs"
        )


def _stop_if_asked(run: Run) -> None:
    where = f"epoch {run.progress.epoch + 1}, step {run.progress.step}"
    run.stop.raise_if_asked(f"{where}; the same command resumes from {run.folder / 'checkpoint.pt'}")


def _read_if_there(path: Path) -> records.Record | None:
    return records.read(path) if path.exists() else None
