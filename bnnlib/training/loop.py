"""Train a recipe: ``python -m bnnlib.train RECIPE [--seed N] [--profile quick|full] [--data DIR] [--set
field=value]``.

Over several GPUs or machines: ``torchrun --nproc-per-node N -m bnnlib.train RECIPE``. ``batch_size`` is of
the batch that all processes share, so that a recipe is the same run on any number of them, but for batch
norm, whose statistics are of each process's share.

Everything random is a function of (seed, epoch, step): the order of the images, their augmentation, the
dropout. So a checkpoint holds the model, the optimizer and a position, and a run that was killed and resumed
equals one that was not, bit for bit on a CPU.

A full run writes its record to ``results/runs/<recipe>/seed<N>.json``; a quick run, and one with changed
fields (``--set``), only into its run folder. Every run leaves ``model.safetensors`` (weights packed to 1 bit
each) there.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bnnlib import data, deploy, layers, printable, recipes, records
from bnnlib.data import evaluate, random
from bnnlib.ops import precision
from bnnlib.recipes import Recipe
from bnnlib.training import building, checkpoint, fits, objectives, schedules
from bnnlib.training.progress import StandardError

CHECKPOINT_SECONDS = 300
EPOCH_CHECKPOINT_SECONDS = 10  # short epochs share a checkpoint
UPDATES_TO_ASK = (
    10  # between two times that processes ask one another whether to stop or to leave a checkpoint
)
DECODERS = 16  # at most so many processes decode images for one training process
EVALUATION_BATCH = 500


class TrainingError(RuntimeError):
    """A run that cannot go on, with the reason and the way out."""


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by SIGINT, SIGTERM or SIGHUP after leaving a checkpoint."""


@dataclass
class RunResult:
    """What :func:`train` gives back: the record, the trained model in evaluation mode, the run folder, and
    the record's path if it was kept."""

    record: records.Record
    model: nn.Module
    run_dir: Path
    record_path: Path


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
    progress: bool = True,
) -> RunResult:
    """Train ``recipe`` (a name, a path, or a loaded recipe) and return its :class:`RunResult`.

    ``data_root``: as :func:`bnnlib.data.load` takes it. ``out``: folder of full records; where None,
    ``results/runs`` for the recipes that come with the library, the run folder for any other. ``runs``:
    where run folders go. ``overrides``: dotted fields to values; such a run is kept apart from the recipe's
    own. ``restart``: forget a checkpoint.

    Raises :class:`RecipeError`, :class:`bnnlib.data.DataNotFound`, :class:`CheckpointError`,
    :class:`RunBusy`, :class:`TrainingError` (NaN).
    """
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(recipe, overrides)
    elif overrides:
        raise recipes.RecipeError("overrides need the name or path of a recipe, not a loaded one")
    if seed < 0:
        raise recipes.RecipeError(f"seed is {seed}: it must be >= 0")
    recipe = recipe.for_profile(profile, keep=overrides or ())
    label = profile if not overrides else f"{profile}-{recipe.hash()[:8]}"
    run_dir = checkpoint.runs_folder(runs) / recipe.name / label / f"seed{seed}"
    fabric = _fabric(recipe.precision)
    first = fabric.is_global_zero  # it alone writes: lock, checkpoint, record, model
    with ExitStack() as held:

        def lock() -> None:
            held.enter_context(checkpoint.Lock(run_dir))

        on_rank_zero(fabric, lock)
        if progress and first:
            print(f"{recipe.name} seed {seed} ({profile}): run folder {run_dir}", file=StandardError(), flush=True)
        if out is None and recipe.name in recipes.names():
            out = records.FOLDER
        elsewhere = profile != "full" or overrides or out is None
        kept = run_dir / "record.json" if elsewhere else records.path_of(recipe.name, seed, out)
        return _Run(fabric, recipe, seed, profile, data_root, run_dir, restart, progress and first).result(
            kept if first else None
        )


def _fabric(precision: str):
    """Fabric for one process, on the GPU where there is one; under torchrun, which sets WORLD_SIZE, for as
    many as it starts."""
    try:  # imported here: it takes longer than the rest of this module, and a misspelt recipe should not wait for it
        from lightning_fabric import Fabric
    except ImportError:  # the `lightning` package carries Fabric under another name
        from lightning.fabric import Fabric
    world = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    # Fabric's 64-true gives logits back as float32: _Run makes model and images float64 itself
    precision = "32-true" if precision == "64-true" else precision
    fabric = Fabric(
        devices=local, num_nodes=world // local, strategy="ddp" if world > 1 else "auto", precision=precision
    )
    fabric.launch()
    return fabric


def on_rank_zero(fabric, call: Callable[[], Any]) -> Any:
    """``call()`` by the first process alone; what it gives, or the error it raises, is every process's. So
    none waits for one that gave up."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if fabric.is_global_zero:
        try:
            outcome = call(), None
        except Exception as error:  # noqa: BLE001  (raised again, everywhere)
            outcome = None, error
    value, error = fabric.broadcast(outcome)
    if error is not None:
        raise error
    return value


class _Run:
    """One run: data, model, optimizer, and the loop over epochs."""

    def __init__(
        self,
        fabric,
        recipe: Recipe,
        seed: int,
        profile: str,
        data_root: Path | None,
        run_dir: Path,
        restart: bool,
        progress: bool,
    ) -> None:
        self.fabric, self.recipe, self.seed, self.profile, self.run_dir, self.progress = (
            fabric,
            recipe,
            seed,
            profile,
            run_dir,
            progress,
        )
        self.shown = StandardError()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        with fabric.rank_zero_first(local=True):  # what has to be fetched, unpacked or decoded is, once
            self.dataset = data.load(recipe.dataset, data_root)
        if profile == "quick":
            self.dataset = fits.quick(recipe, self.dataset)
        self._prepare_data()
        torch.manual_seed(seed)
        self.model = building.model(recipe)
        fits.check(recipe, self.model, self.dataset)
        layers.project_(self.model)
        self.parameters = building.parameter_count(self.model)
        if recipe.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if recipe.precision == "64-true":
            self.model = self.model.double()
        self.model = self.model.to(fabric.device)
        self.commit = records.commit()  # of the code that is loaded now; the checkout may move on
        self.teacher, self.teacher_known = None, None
        if recipe.distill:
            everyones = run_dir.parent.parent.parent
            self.teacher, self.teacher_known = building.teacher(recipe, profile, everyones, fabric.device)
        self.average = (
            torch.optim.swa_utils.AveragedModel(
                self.model,
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema),
                use_buffers=True,
            )
            if recipe.ema
            else None
        )
        optimizer = building.optimizer(recipe, self.model)
        if fabric.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # the sizes of a recipe never change
        wanted = recipe.compile is True or (recipe.compile == "gpu" and fabric.device.type == "cuda")
        # the smaller last batch of an epoch gets a program of its own, rather than all get one for any size
        compiled = torch.compile(self.model, dynamic=False) if wanted else self.model
        self.forward, self.optimizer = fabric.setup(compiled, optimizer)
        self.epoch = self.step = 0
        self.saved = time.perf_counter() - EPOCH_CHECKPOINT_SECONDS  # the first epoch leaves a checkpoint
        self.totals = self._zero_totals()
        self.curve: list[dict[str, Any]] = []
        self.wall = self.training_seconds = self.epoch_seconds = 0.0
        self.images = 0
        self.stop_signal: int | None = None
        self.identity = {
            "format": 1,
            "recipe_hash": recipe.hash(),
            "profile": profile,
            "seed": seed,
            "fingerprint": self.dataset.fingerprint,
        }
        self._resume(restart)

    def _prepare_data(self) -> None:
        r, d, device = self.recipe, self.dataset, self.fabric.device
        world = self.fabric.world_size
        if r.batch_size < 2 * world:
            raise recipes.RecipeError(
                f"recipe {r.name}: batch_size = {r.batch_size} is shared by {world} processes: batch norm needs at least 2 images each"
            )
        workers = max(
            1, min(DECODERS, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        )
        common = {
            "seed": self.seed,
            "device": device,
            "rank": self.fabric.global_rank,
            "world": world,
            "workers": workers,
        }
        train, validation = d.train, None
        if r.validation:
            train, validation = data.split_validation(d.train, r.validation, self.seed)
        test, transform = d.test, evaluate.input_transform(r.input, dataclasses.replace(d, train=train))
        if isinstance(
            transform, data.ZCAWhitening
        ):  # a product of 3072 x 3072 an image: once, not once an epoch
            transform = transform.to(device)
            train, test = train.to(device).map(transform), test.to(device).map(transform)
            validation = validation.to(device).map(transform) if validation is not None else None
            transform = None
        augment = _augment(r, train)
        if r.augment and r.augment.view:
            shown = data.view(r.augment.view, train=False)
            test, validation = (
                split and dataclasses.replace(split, view=shown) for split in (test, validation)
            )
        self.train_batches = data.Batches(train, r.batch_size, augment=augment, transform=transform, **common)
        evaluation = {**common, "transform": transform, "shuffle": False}
        self.test_batches = data.Batches(test, EVALUATION_BATCH, **evaluation)
        self.validation_batches = (
            data.Batches(validation, EVALUATION_BATCH, **evaluation) if validation is not None else None
        )
        # where several processes would find fewer than two images each in the last batch of an epoch, it is left out
        self.steps = len(self.train_batches)
        if world > 1 and self.train_batches.count(self.steps - 1) < 2 * world:
            self.steps -= 1

    # -- state -------------------------------------------------------------------------------------------------------------------------

    def _zero_totals(self) -> Tensor:
        return torch.zeros(
            3, dtype=torch.float64, device=self.fabric.device
        )  # loss x images, correct, images

    def _state(self) -> dict[str, Any]:
        state = {
            **self.identity,
            "started": self.started,
            "epoch": self.epoch,
            "step": self.step,
            "curve": self.curve,
            "wall": self.wall,
            "training_seconds": self.training_seconds,
            "epoch_seconds": self.epoch_seconds,
            "images": self.images,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def _resume(self, restart: bool) -> None:
        """Go on from the checkpoint, which the first process reads for all: they may be on other machines."""
        path = self.run_dir / "checkpoint.pt"

        def read() -> dict[str, Any] | None:
            if restart:
                path.unlink(missing_ok=True)
            return checkpoint.load(path, self.identity)

        state = on_rank_zero(self.fabric, read)
        if state is None:
            return
        try:
            self._restore(state)
        except Exception as error:  # what is missing, of another shape or of another type can raise almost anything
            raise checkpoint.damaged(path, error) from None
        self._log(f"resumed at epoch {self.epoch + 1}, step {self.step}")

    def _restore(self, state: dict[str, Any]) -> None:
        for name in (
            "started",
            "epoch",
            "step",
            "curve",
            "wall",
            "training_seconds",
            "epoch_seconds",
            "images",
        ):
            setattr(self, name, state[name])
        if self.fabric.is_global_zero:  # they are sums over all processes
            self.totals = state["totals"].to(self.fabric.device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        whole = type(self.epoch) is type(self.step) is int and len(self.curve) == self.epoch <= self.recipe.epochs
        if not whole or not 0 <= self.step <= len(self.train_batches):
            raise ValueError(f"it says that it is at epoch {self.epoch!r:.20}, step {self.step!r:.20}")

    def _save(self) -> None:
        totals = self.fabric.all_reduce(self.totals.clone(), reduce_op="sum")
        if self.fabric.is_global_zero:
            checkpoint.save(self.run_dir / "checkpoint.pt", {**self._state(), "totals": totals})
        self.saved = time.perf_counter()

    # -- the loop ----------------------------------------------------------------------------------------------------------------------

    def result(self, kept: Path | None) -> RunResult:
        with self._signals(), self._logger() as log:
            while self.epoch < self.recipe.epochs:
                self._train_epoch()
                self._finish_epoch(log)
        model = self._evaluated()
        record = self._record()
        if kept is not None:
            deploy.save(
                model,
                self.run_dir / "model.safetensors",
                recipe=self.recipe,
                seed=self.seed,
                top1=record.top1_last,
                dataset=self.dataset,
            )
            records.write(record, kept)
            self._log(
                f"{record.top1_last:.2f} % top-1 at the last epoch, {record.top1_best:.2f} at the best of {record.best_of}; record {kept}"
            )
        return RunResult(record, model.eval(), self.run_dir, kept or self.run_dir)

    def _train_epoch(self) -> None:
        r, steps = self.recipe, self.steps
        if r.temperature:
            start, end = r.temperature
            layers.set_temperature_(self.model, start * (end / start) ** (self.epoch / max(1, r.epochs - 1)))
        self.forward.train()
        started = time.perf_counter()
        with tqdm(
            total=steps,
            initial=self.step,
            desc=f"epoch {self.epoch + 1}/{r.epochs}",
            disable=not self.progress,
            leave=False,
            file=self.shown,
        ) as bar:
            batches = self.train_batches.epoch(self.epoch, start=self.step)
            for _, (_, x, y) in zip(range(self.step, steps), batches, strict=False):
                loss = self._train_step(x, y, steps)
                self.step += 1
                bar.update()
                now = time.perf_counter()
                if self.step % 50 == 0:
                    self._show(bar)
                # before a checkpoint is left: a run resumed from it would go on with an epoch that has ended
                if (
                    r.stop_epoch_below_loss is not None
                    and self.fabric.all_reduce(loss).item() < r.stop_epoch_below_loss
                ):
                    break
                # a checkpoint holds no half-accumulated gradient
                if self.step % r.accumulate == 0 and self._checkpoint_due(
                    now - self.saved > CHECKPOINT_SECONDS
                ):
                    self._check_finite()
                    self._clock(now - started)
                    started = time.perf_counter()
                    self._save()
                    self._stop_if_asked()
        self._check_finite()
        self._clock(time.perf_counter() - started)

    def _train_step(self, x: Tensor, y: Tensor, steps: int) -> Tensor:
        r = self.recipe
        if self.step % r.accumulate == 0:
            rate = r.optimizer.lr * schedules.factor(r.schedule, self.epoch + self.step / steps, r.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(dropout_seed(self.seed, self.epoch, self.step, self.fabric.global_rank))
        x = self._input(x)
        update = (self.step + 1) % r.accumulate == 0 or self.step + 1 == steps
        # every image of an update counts the same, however it is cut into batches and shares; gradients are averaged over processes
        first = self.step - self.step % r.accumulate
        images = sum(
            self.train_batches.count(step) for step in range(first, min(first + r.accumulate, steps))
        )
        weight = len(y) * self.fabric.world_size / images
        with self.fabric.no_backward_sync(self.forward, enabled=not update):
            with precision.products(r.precision, self.fabric.device):
                logits = self.forward(x)
                loss = self._loss(logits, x, y)
            self.fabric.backward(loss * weight)
        if update:
            if self.epoch == first == 0:
                self._check_gradients()
            self.optimizer.step()
            layers.project_(self.model)
            if self.average is not None:
                self.average.update_parameters(self.model)
        with torch.no_grad():
            self.totals += torch.stack(
                [
                    loss.detach().double() * len(y),
                    (logits.argmax(1) == y).sum().double(),
                    self.totals.new_full((), len(y)),  # a tensor made on the CPU would wait for the GPU
                ]
            )
        return loss.detach()

    def _input(self, x: Tensor) -> Tensor:
        if self.recipe.precision == "64-true":
            x = x.double()
        return x.contiguous(memory_format=torch.channels_last) if self.recipe.channels_last else x

    def _loss(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        r = self.recipe
        if self.teacher is None:
            return nn.functional.cross_entropy(logits, y, label_smoothing=r.label_smoothing)
        with torch.no_grad(), self.fabric.autocast(), layers.counting(self.teacher):
            target = self.teacher(x)
        return objectives.distillation(
            logits, target.to(logits.dtype), y, r.distill.temperature, r.distill.mix, r.label_smoothing
        )

    def _finish_epoch(self, log) -> None:
        seconds = self.epoch_seconds
        loss, correct, images = self.fabric.all_reduce(self.totals, reduce_op="sum").tolist()
        self.images += int(images)
        model = self._evaluated()
        self._share_buffers(model)
        before = time.perf_counter()
        test = self._evaluate(model, self.test_batches)
        validation = self._evaluate(model, self.validation_batches) if self.validation_batches else None
        self.wall += time.perf_counter() - before
        rate = self.recipe.optimizer.lr * schedules.factor(
            self.recipe.schedule, self.epoch, self.recipe.epochs
        )
        point = records.Epoch(
            epoch=self.epoch + 1,
            lr=rate,
            train_loss=loss / images,
            train_top1=100 * correct / images,
            test_loss=test["loss"],
            test_top1=test["top1"],
            test_top5=test["top5"],
            validation_top1=validation and validation["top1"],
            seconds=seconds,
        )
        self.curve.append(point.model_dump())
        for name in ("lr", "train_loss", "train_top1", "test_loss", "test_top1"):
            log.add_scalar(name, getattr(point, name), point.epoch)
        self._log(
            f"epoch {point.epoch}/{self.recipe.epochs}: loss {point.train_loss:.4f}, train {point.train_top1:.2f} %, test {point.test_top1:.2f} %, "
            f"{images / max(seconds, 1e-9):.0f} images/s, {self._time_left()} left"
        )
        self.epoch, self.step, self.totals, self.epoch_seconds = self.epoch + 1, 0, self._zero_totals(), 0.0
        last = self.epoch == self.recipe.epochs
        if self._checkpoint_due(last or time.perf_counter() - self.saved > EPOCH_CHECKPOINT_SECONDS):
            self._save()
        self._stop_if_asked()

    @torch.no_grad()
    def _evaluate(self, model: nn.Module, batches: data.Batches) -> dict[str, float]:
        model.eval()
        totals = torch.zeros(4, dtype=torch.float64, device=self.fabric.device)
        with layers.counting(model):
            for _, x, y in batches.epoch(0):
                if not len(y):  # this process's share of a last batch
                    continue
                # not in bf16, which rounds a binary layer's exact sums
                logits = model(self._input(x)).float()
                top = logits.topk(min(5, logits.shape[1]), dim=1).indices == y[:, None]
                loss = nn.functional.cross_entropy(logits, y, reduction="sum")
                totals += torch.stack(
                    [
                        loss.double(),
                        top[:, 0].sum().double(),
                        top.sum().double(),
                        totals.new_full((), len(y)),
                    ]
                )
        loss, top1, top5, images = self.fabric.all_reduce(totals, reduce_op="sum").tolist()
        return {"loss": loss / images, "top1": 100 * top1 / images, "top5": 100 * top5 / images}

    def _evaluated(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's batch norm statistics, each having seen its own images: those
        are what is saved."""
        if self.fabric.world_size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    # -- around the loop -----------------------------------------------------------------------------------------------------------------

    def _check_finite(self) -> None:
        """Raise for a loss or a state that is not finite: a sign turns NaN into -1, so that a binary net's
        loss can stay finite without being right."""
        bad = [f"the loss became {self.totals[0].item()}"] if not math.isfinite(self.totals[0].item()) else []
        bad += [
            f"{name} is not finite"
            for name, v in self.model.state_dict().items()
            if v.is_floating_point() and not v.isfinite().all()
        ]
        if bad:
            raise TrainingError(
                f"{self.recipe.name} seed {self.seed}: {bad[0]} in epoch {self.epoch + 1} at or before step {self.step}; "
                f"the last good checkpoint is kept in {self.run_dir}. Lower optimizer.lr, or look at the inputs"
            )

    def _check_gradients(self) -> None:
        """Raise where no gradient arrives at any binary weight: an estimator, or what a compiler made of it,
        may drop it without a word, and the net still learns something with its other weights. At single
        layers it may rightly be missing, behind signs whose inputs are all large."""
        weights = [layer.weight for layer in layers.binary_layers(self.model).values()]
        if weights and not any(w.grad is not None and w.grad.any() for w in weights):
            raise TrainingError(
                f"{self.recipe.name} seed {self.seed}: no gradient arrives at any binary weight in the first step. "
                "If --set compile=false mends it, this version of PyTorch compiles the net wrongly"
            )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP (a terminal that was closed) ask the loop to stop at the next step; a second one
        stops at once. A SIGHUP that is ignored (nohup) stays so. Only the main thread may catch signals."""

        def ask(number, frame):
            # of several processes none may stop by itself, and torchrun hands a signal on that they got already
            if self.stop_signal is not None and self.fabric.world_size == 1:
                raise KeyboardInterrupt
            self.stop_signal = number

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

    def _checkpoint_due(self, late: bool) -> bool:
        """Whether to leave a checkpoint now: the last is ``late`` in being old, or a signal came. Several
        processes must all do so at the same step, or one would wait for another that has stopped: they ask
        one another, every few updates."""
        if self.fabric.world_size == 1:
            return late or self.stop_signal is not None
        if self.step % (self.recipe.accumulate * UPDATES_TO_ASK):
            return False
        asked = torch.tensor([int(late), self.stop_signal or 0], device=self.fabric.device)
        late, number = self.fabric.all_reduce(asked, reduce_op="max").tolist()
        self.stop_signal = number or None
        return bool(late or number)

    def _stop_if_asked(self) -> None:
        if self.stop_signal is not None:
            name = signal.Signals(self.stop_signal).name
            raise Interrupted(
                f"stopped by {name} at epoch {self.epoch + 1}, step {self.step}; the same command resumes from {self.run_dir / 'checkpoint.pt'}"
            )

    @contextmanager
    def _logger(self) -> Iterator[Any]:
        """TensorBoard's writer, in the run folder."""
        if not self.fabric.is_global_zero:
            yield _Silent()
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.run_dir / "tensorboard") as writer:
            yield writer

    def _clock(self, seconds: float) -> None:
        self.wall += seconds
        self.training_seconds += seconds
        self.epoch_seconds += seconds

    def _show(self, bar: tqdm) -> None:
        if not bar.disable:
            loss, correct, images = self.totals.tolist()
            rate = (bar.format_dict["rate"] or 0) * self.recipe.batch_size
            if not math.isfinite(loss):
                self._check_finite()
            bar.set_postfix_str(
                f"loss {loss / images:.4f}, {100 * correct / images:.2f} %, {rate:.0f} images/s"
            )

    def _time_left(self) -> str:
        left = self.wall / (self.epoch + 1) * (self.recipe.epochs - self.epoch - 1)
        return f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"

    def _log(self, text: str) -> None:
        if self.progress and self.fabric.is_global_zero:
            tqdm.write(printable(text), file=self.shown)
            self.shown.flush()

    def _record(self) -> records.Record:
        by = "validation_top1" if self.validation_batches else "test_top1"
        best = max(self.curve, key=lambda e: e[by])
        last = self.curve[-1]
        return records.Record(
            recipe=self.recipe.name,
            source=self.recipe.source,
            resolved=self.recipe.resolved(),
            recipe_hash=self.recipe.hash(),
            profile=self.profile,
            seed=self.seed,
            dataset={
                "name": self.dataset.name,
                "fingerprint": self.dataset.fingerprint,
                "train": len(self.dataset.train),
                "test": len(self.dataset.test),
            },
            top1_last=last["test_top1"],
            top5_last=last["test_top5"],
            top1_best=best["test_top1"],
            top5_best=best["test_top5"],
            best_epoch=best["epoch"],
            best_of="validation" if self.validation_batches else "test",
            curve=self.curve,
            parameters=self.parameters,
            teacher=self.teacher_known,
            images_per_second=self.images / max(self.training_seconds, 1e-9),
            wall_time_s=self.wall,
            started=self.started,
            commit=self.commit,
            versions=records.versions(),
            hardware=records.hardware(self.fabric.device, self.fabric.world_size),
        )


class _Silent:
    def add_scalar(self, *args) -> None:
        pass


def dropout_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Seed of the dropout masks of one step: a 63-bit integer whose low 32 bits, the only ones that PyTorch's CPU
    generator reads, differ from step to step (see :func:`bnnlib.data.random.mix`)."""
    return random.mix(seed, "dropout", epoch, step, rank)


def _augment(recipe: Recipe, train: data.Split | data.LazySplit) -> Any:
    """What a recipe's ``augment`` names, for :class:`bnnlib.data.Batches`."""
    a, lazy = recipe.augment, isinstance(train, data.LazySplit)
    if a is None:
        return None
    if bool(a.view) != lazy:
        what = (
            "decoded as they are needed: augment them by a view (augment: {view: s5})"
            if lazy
            else "held in memory: leave augment.view out"
        )
        raise recipes.RecipeError(f"recipe {recipe.name}: images of {recipe.dataset} are {what}")
    return data.view(a.view, train=True) if lazy else data.Augment(**a.model_dump(exclude={"view"}))
