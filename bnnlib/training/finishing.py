"""What a run leaves when it is done: its record and its packed model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from bnnlib import deploy, records
from bnnlib.training import diagnostics, repeat

if TYPE_CHECKING:
    from bnnlib.training.loop import Run


@dataclass
class RunResult:
    """What :func:`train` gives back: the record, the trained model in evaluation mode, the run folder, and
    the record's path if it was kept. ``notes``: what a reader must know of this run, a sentence each (it was taken from
    an earlier call, its code changed, how it compares with the record that was there)."""

    record: records.Record
    model: nn.Module
    run_dir: Path
    record_path: Path
    notes: tuple[str, ...] = ()


def finish(run: Run, kept: Path, there: records.Record | None) -> RunResult:
    """The record and the packed model of a run that is done: ``kept`` is where the record goes, ``there`` the one that is
    on record already and stays."""
    net, record = run.net, record_of(run)
    model = net.evaluated.eval()
    if net.fabric.is_global_zero:
        file = run.folder / "model.safetensors"
        deploy.save(model, file, recipe=net.recipe, seed=net.seed, top1=record.top1_last, dataset=net.dataset)
        if there is not None and not repeat.same_run(there, record):
            shipped, kept = kept, run.folder / "record.json"
            run.note(repeat.told(there, record, _seeds(shipped)))
        if there is None or kept.parent == run.folder:
            records.write(record, kept)
        if net.recipe.diagnostics and (there is None or kept.parent == run.folder):
            of = {name: getattr(record, name) for name in ("recipe", "recipe_hash", "seed", "started")}
            diagnostics.write(diagnostics.path_of(kept), **of, epochs=run.progress.diagnostics)
        best = f"{record.top1_best:.2f} at the best of {record.best_of}"
        run.display.log(f"{record.top1_last:.2f} % top-1 at the last epoch, {best}; record {kept}")
    return RunResult(record, model, run.folder, kept if net.fabric.is_global_zero else run.folder, tuple(run.notes))


def record_of(run: Run) -> records.Record:
    """The record of a run, whose best epoch is chosen on the validation images where there are any."""
    net, progress, recipe, dataset = run.net, run.progress, run.net.recipe, run.net.dataset
    by = "validation_top1" if net.validation else "test_top1"
    best = max(progress.curve, key=lambda e: e[by])
    last = progress.curve[-1]
    return records.Record(
        recipe=recipe.name,
        source=recipe.source,
        resolved=recipe.resolved(),
        recipe_hash=recipe.hash(),
        profile=run.profile,
        seed=net.seed,
        dataset={
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "test": len(dataset.test),
        },
        top1_last=last["test_top1"],
        top5_last=last["test_top5"],
        top1_best=best["test_top1"],
        top5_best=best["test_top5"],
        best_epoch=best["epoch"],
        best_of="validation" if net.validation else "test",
        curve=progress.curve,
        parameters=net.parameters,
        teacher=net.known,
        images_per_second=progress.images / max(progress.training_seconds, 1e-9),
        wall_time_s=progress.wall,
        started=progress.started,
        commit=progress.commit,
        versions=records.versions(),
        hardware=records.hardware(net.fabric.device, net.fabric.world_size),
    )


def _seeds(path: Path) -> list[records.Record]:
    """All records beside ``path``: those of the same recipe, a seed each."""
    return [records.read(p) for p in sorted(path.parent.glob("seed*.json"))]
