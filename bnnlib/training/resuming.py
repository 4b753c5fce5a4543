"""A run's checkpoint: left, and gone on from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from bnnlib import printable, recipes
from bnnlib.training import checkpoint, code, status
from bnnlib.training.setup import on_rank_zero
from bnnlib.training.state import Checkpoint, Progress

if TYPE_CHECKING:
    from bnnlib.training.loop import Run


def save(run: Run) -> None:
    """Leave a checkpoint. Every process must call this."""
    net = run.net
    sums = net.meter.over_all()
    if net.fabric.is_global_zero:
        state = Checkpoint.model_construct(
            **dict(run.progress),
            **run.identity,
            recipe=net.recipe.resolved(),
            model=net.model.state_dict(),
            optimizer=net.optimizer.state_dict(),
            average=net.average.state_dict() if net.average is not None else None,
            watch=run.watch and run.watch.state(),
            totals=torch.tensor([sums[name] for name in ("loss", "top1", "images")], dtype=torch.float64),
        )
        checkpoint.save(run.folder / "checkpoint.pt", state.file())
        told = status.Status(
            recipe=net.recipe.name,
            seed=net.seed,
            epoch=run.progress.epoch,
            share=min(1.0, run.progress.step / net.steps),
            epochs=net.recipe.epochs,
            seconds=run.progress.wall,
            top1=run.progress.curve[-1]["test_top1"] if run.progress.curve else None,
        )
        status.write(run.folder, told)
    run.saved = time.perf_counter()


def resume(run: Run, restart: bool = False, accept_changed_code: bool = False) -> None:
    """Go on from the checkpoint, if there is one. The first process reads it for all: they may be on other machines.

    Raises :class:`CheckpointError` for one that is damaged, belongs to another run, or, unless
    ``accept_changed_code``, was made by other code: that of a full run. A shorter run then starts anew.
    """
    state, changed = on_rank_zero(run.net.fabric, lambda: _read(run, restart, accept_changed_code))
    if state is None:
        return
    path = run.folder / "checkpoint.pt"
    try:
        _restore(run, Checkpoint.model_validate(state))
    except Exception as error:  # what is missing, of another shape or of another type can raise almost anything
        if changed:
            raise checkpoint.CheckpointError(
                f"checkpoint {path} does not fit the changed code: train anew with {checkpoint.RESTART}"
            ) from None
        raise checkpoint.damaged(path, error) from None
    progress = run.progress
    if changed:
        progress.commit = progress.commit.model_copy(update={"dirty": True})
    if progress.epoch == run.net.recipe.epochs:
        run.note(
            f"this run was finished before (begun {printable(progress.started)}): its result is given again, nothing "
            f"is trained; {checkpoint.RESTART} trains anew"
        )
    else:
        run.display.log(f"resumed at epoch {progress.epoch + 1}, step {progress.step}")


def _read(run: Run, restart: bool, accept_changed_code: bool) -> tuple[dict | None, list[str]]:
    """The file's content, and the code that changed since it was written."""
    path = run.folder / "checkpoint.pt"
    if restart:
        path.unlink(missing_ok=True)
    state = checkpoint.load(path, run.identity, lambda state, key: _change(run, state, key))
    try:
        changed = [] if state is None else code.changed(state.get("code"), run.progress.code)
    except ValueError as error:
        raise checkpoint.damaged(path, error) from None
    if not changed or accept_changed_code:
        return state, changed
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    named = ", ".join(map(printable, changed[:3])) + more
    if run.profile == "full":
        raise checkpoint.CheckpointError(
            f"checkpoint {path} was made by other code: {named} changed since. {checkpoint.RESTART} trains anew; "
            f"{checkpoint.ACCEPT} goes on, and marks the record as made by changed code"
        )
    run.note(f"{named} changed since this run was begun: it starts anew")
    path.unlink(missing_ok=True)
    return None, changed


def _change(run: Run, state: dict, key: str) -> str | None:
    """What is otherwise in a checkpoint, in words; None where there are none."""
    if key == "fingerprint":
        return printable(f"the images or labels of {run.net.recipe.dataset} were others then (their fingerprint was {state.get(key)!r:.80})")
    return _recipe_change(run, state) if key == "recipe_hash" else None


def _recipe_change(run: Run, state: dict) -> str | None:
    """What the recipe of a checkpoint says otherwise, in words; None where earlier versions did not keep it."""
    try:
        fields = recipes.differences(run.net.recipe, state["recipe"])
    except Exception:  # a damaged one may hold almost anything
        return None
    if not fields:
        return None
    return printable("its recipe says otherwise: " + ", ".join(f"{name} {then!r:.60} → {now!r:.60}" for name, then, now in fields))


def _restore(run: Run, state: Checkpoint) -> None:
    net, now = run.net, run.progress
    if state.epoch > net.recipe.epochs or state.step > len(net.train):
        raise ValueError(f"it says that it is at epoch {state.epoch}, step {state.step}")
    for name in set(Progress.model_fields) - {"code"}:  # what it goes on with is the code of now
        if getattr(state, name) is not None:  # earlier versions kept no commit
            setattr(now, name, getattr(state, name))
    if net.fabric.is_global_zero:  # they are sums over all processes
        net.meter.restore(state.totals)
    net.model.load_state_dict(state.model)
    net.optimizer.load_state_dict(state.optimizer)
    if run.watch is not None:
        run.watch.restore(state.watch)
    if net.average is not None:
        net.average.load_state_dict(state.average)
