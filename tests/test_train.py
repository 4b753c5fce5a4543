"""Training: what a run leaves behind, that a resumed run equals an uninterrupted one, and what bad input is
told."""

from __future__ import annotations

import errno
import importlib.util
import json
import linecache
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bnnlib import data, deploy, layers, models, quantizers, recipes, records
from bnnlib.recipes import RecipeError
from bnnlib.training import building, checkpoint, cli, loop, steps, stopping

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = """
title: a tiny run on the embedded digits
source: ours
dataset: digits
model: {name: lenet5}
augment: {crop: 2}
epochs: 2
batch_size: 64
optimizer: {name: adam, lr: 0.01, weight_decay: 1e-5}
schedule: {name: cosine, warmup_epochs: 1}
quick: {train: 320, test: 100, epochs: 2}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def run(recipe, tmp_path, name="runs", **options):
    return loop.train(recipe, profile="quick", runs=tmp_path / name, progress=False, **options)


def without_times(record):
    """A record's content less what differs between any two runs."""
    fields = record.model_dump(exclude={"started", "wall_time_s", "images_per_second", "commit"})
    for point in fields["curve"]:
        point.pop("seconds")
    return fields


def assert_equal_runs(a, b):
    assert without_times(a.record) == without_times(b.record)
    for (name, x), (_, y) in zip(a.model.state_dict().items(), b.model.state_dict().items(), strict=True):
        assert torch.equal(x, y), name


def test_a_run_leaves_a_record_a_packed_model_and_a_checkpoint(recipe, tmp_path):
    result = run(recipe, tmp_path, seed=3)
    record = records.read(result.run_dir / "record.json")
    assert record == result.record
    assert (record.recipe, record.seed, record.profile, len(record.curve)) == ("tiny", 3, "quick", 2)
    assert record.dataset.fingerprint == data.load("digits").subset(train=320, test=100).fingerprint
    assert record.parameters.total == 431_220 and record.parameters.binary == 25_000 + 400_000
    assert record.parameters.real == 431_220 - 425_000
    assert {p.name for p in result.run_dir.iterdir()} >= {"checkpoint.pt", "model.safetensors", "tensorboard"}
    packed = deploy.load(result.run_dir / "model.safetensors")
    x = torch.randn(7, 1, 28, 28)
    assert torch.equal(packed(x), result.model(x))


def test_a_record_names_the_commit_that_the_run_started_from(recipe, tmp_path, monkeypatch):
    found = [records.Commit(hash=name, dirty=False) for name in ("later", "start")]
    monkeypatch.setattr(records, "commit", lambda: found.pop() if len(found) > 1 else found[0])
    assert run(recipe, tmp_path).record.commit.hash == "start"


@pytest.mark.parametrize(("compile", "compiled"), [(False, 0), ("gpu", 0), (True, 1)])
def test_what_a_recipe_compiles_for_a_gpu_runs_as_it_is_on_a_cpu(
    recipe, tmp_path, monkeypatch, compile, compiled
):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: calls.append(model) or model)
    options = {"runs": tmp_path / "runs", "out": tmp_path, "progress": False}
    loop.train(recipe, overrides={"compile": compile, "epochs": 1, "schedule.warmup_epochs": 0}, **options)
    assert len(calls) == compiled


def test_it_learns_and_the_same_seed_gives_the_same_run(recipe, tmp_path):
    more = {"quick.train": 1000, "quick.epochs": 4}
    first, second = (run(recipe, tmp_path, name, overrides=more) for name in ("a", "b"))
    assert first.record.top1_last > 60
    assert_equal_runs(first, second)
    other = run(recipe, tmp_path, "c", seed=1, overrides=more)
    assert other.record.curve[0].train_loss != first.record.curve[0].train_loss


@pytest.mark.parametrize("extra", [{}, {"ema": 0.9}, {"accumulate": 2}, {"optimizer.name": "sgd"}], ids=str)
def test_stopped_by_a_signal_in_mid_epoch_then_resumed_equals_uninterrupted(
    recipe, tmp_path, monkeypatch, extra
):
    whole = run(recipe, tmp_path, "whole", overrides=extra)
    step = loop.train_step

    def stop_after_three(net, x, y, *at):
        if at == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(net, x, y, *at)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_after_three)
        with pytest.raises(
            loop.Interrupted, match=f"SIGTERM at epoch 2, step {4 if 'accumulate' in extra else 3}.*resumes"
        ):
            run(recipe, tmp_path, "cut", overrides=extra)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_equal_runs(run(recipe, tmp_path, "cut", overrides=extra), whole)


def test_killed_in_mid_epoch_then_resumed_equals_uninterrupted(recipe, tmp_path):
    script = f"""
        import os, signal, torch
        from bnnlib.training import loop, stopping
        torch.set_num_threads(1)
        stopping.CHECKPOINT_SECONDS = 0  # after every step
        step = loop.train_step
        def kill_at_step_3(net, x, y, *at):
            if at == (1, 3):
                os.kill(os.getpid(), signal.SIGKILL)
            return step(net, x, y, *at)
        loop.train_step = kill_at_step_3
        loop.train({str(recipe)!r}, profile="quick", runs={str(tmp_path / "cut")!r}, progress=False)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = checkpoint.load(tmp_path / "cut/tiny/quick/seed0/checkpoint.pt", {})
    assert (state["epoch"], state["step"]) == (1, 3)
    assert_equal_runs(run(recipe, tmp_path, "cut"), run(recipe, tmp_path, "whole"))


def test_a_finished_run_called_again_trains_no_further(recipe, tmp_path, monkeypatch):
    first = run(recipe, tmp_path)
    monkeypatch.setattr(loop, "train_epoch", lambda *a: pytest.fail("trained again"))
    assert_equal_runs(run(recipe, tmp_path), first)


def test_a_full_run_is_recorded_beside_its_recipe_and_a_changed_one_is_not(recipe, tmp_path):
    out = tmp_path / "results"
    small = tmp_path / "small.yaml"
    small.write_text("extends: tiny\nepochs: 1\n")
    options = {"profile": "full", "runs": tmp_path / "runs", "out": out, "progress": False}
    result = loop.train(small, seed=2, **options)
    assert result.record_path == out / "small" / "seed2.json"
    changed = loop.train(small, seed=2, overrides={"label_smoothing": 0.1}, **options)
    assert changed.record_path.parent == changed.run_dir != result.run_dir
    run(recipe, tmp_path)
    own = loop.train(small, seed=3, **{**options, "out": None})
    assert own.record_path == own.run_dir / "record.json", "no recipe of the library"
    assert [p.relative_to(out).as_posix() for p in out.rglob("*.json")] == ["small/seed2.json"]


def small_recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("extends: tiny\nepochs: 1\nschedule: {name: constant, warmup_epochs: 0}\n")
    return path


def test_a_record_that_is_there_is_not_overwritten_unasked(recipe, tmp_path):
    small, out = small_recipe(tmp_path), tmp_path / "results"
    first = loop.train(small, runs=tmp_path / "a", out=out, progress=False)
    path = out / "small" / "seed0.json"
    other = first.record.model_copy(update={"hardware": {"cpu": "another"}})
    epoch = first.record.curve[0].model_copy(update={"test_top1": 50.0})
    other = other.model_copy(update={"curve": [epoch], "top1_last": 50.0, "top1_best": 50.0})
    shipped = records.write(other, path).read_bytes()
    again = loop.train(small, runs=tmp_path / "b", out=out, progress=False)
    assert path.read_bytes() == shipped
    assert again.record_path == again.run_dir / "record.json" and records.read(again.record_path) == again.record
    (said,) = again.notes
    assert "seed 0 on record: 50.00 % top-1" in said and f"this run: {again.record.top1_last:.2f} %" in said
    assert "other machine" in said and "there is one record of this recipe" in said
    elsewhere = loop.train(small, runs=tmp_path / "b", out=tmp_path / "own", progress=False)
    assert elsewhere.record_path == tmp_path / "own" / "small" / "seed0.json"
    loop.train(small, runs=tmp_path / "b", out=out, replace=True, progress=False)
    assert records.read(path) == again.record
    path.write_text("{")
    with pytest.raises(records.RecordError, match=r"seed0\.json is damaged"):
        loop.train(small, runs=tmp_path / "c", out=out, progress=False)
    assert not list((tmp_path / "c").rglob("checkpoint.pt")), "it trained first"


def test_following_the_landing_page_leaves_the_shipped_record_as_it_is(tmp_path, monkeypatch):
    """`python -m bnnlib.train s3-mlp --seed 0`, shortened: the recipe's own name, no --out."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "results")
    short = recipes.load("s3-mlp").model_copy(update={"epochs": 1, "dataset": "digits"})
    shipped = records.path_of("s3-mlp", 0, records.FOLDER)
    first = loop.train(short, runs=tmp_path / "a", progress=False)
    assert first.record_path == shipped
    before = shipped.read_bytes()
    second = loop.train(short, runs=tmp_path / "b", progress=False)
    assert shipped.read_bytes() == before and not second.notes, "the same run, bit for bit"


@pytest.fixture
def own_net(tmp_path, monkeypatch):
    """A recipe whose net lies in a file that may be edited; gives the function that edits and loads it."""
    monkeypatch.setitem(models.BUILDERS, "own", None)
    source = tmp_path / "own_net.py"

    def edit(text):
        source.write_text(text)
        spec = importlib.util.spec_from_file_location("own_net", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        linecache.checkcache(str(source))
        models.BUILDERS["own"] = module.net

    path = tmp_path / "edited.yaml"
    path.write_text(TINY.replace("name: lenet5", "name: own"))
    return path, edit


NET = """
from torch import nn
def net():  # a comment
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


def test_a_run_of_changed_code_starts_anew_in_quick_and_asks_in_full(own_net, tmp_path):
    path, edit = own_net
    edit(NET)
    first = run(path, tmp_path)
    (said,) = run(path, tmp_path).notes
    assert "finished before" in said and "--restart" in said, "the reuse of a finished run is announced"
    edit(NET.replace("a comment", "another"))
    assert_equal_runs(run(path, tmp_path), first)
    edit(NET.replace("10))", "10), nn.Identity())"))
    second = run(path, tmp_path)
    assert second.notes == ("own_net.py changed since this run was begun: it starts anew",)
    assert_equal_runs(second, run(path, tmp_path, restart=True))
    full = {"runs": tmp_path / "runs", "progress": False, "overrides": {"epochs": 2}}
    whole = loop.train(path, **full)
    edit(NET)
    with pytest.raises(checkpoint.CheckpointError, match=r"made by other code: own_net\.py changed.*--restart.*--accept-changed-code"):
        loop.train(path, **full)
    taken = loop.train(path, accept_changed_code=True, **full)
    assert taken.record.commit.dirty and without_times(taken.record) == without_times(whole.record)
    loop.train(path, restart=True, **full)


def test_a_student_of_another_teacher_starts_anew(recipe, tmp_path):
    run(recipe, tmp_path)
    student = tmp_path / "student.yaml"
    student.write_text("extends: tiny\ndistill: {teacher: tiny}\n")
    first = run(student, tmp_path)
    teacher = tmp_path / "runs/tiny/quick/seed0/model.safetensors"
    shutil.copy(run(recipe, tmp_path, "other", seed=1).run_dir / "model.safetensors", teacher)
    second = run(student, tmp_path)
    assert "the teacher's file changed" in second.notes[0]
    assert second.record.teacher.sha256 != first.record.teacher.sha256


def test_a_checkpoint_without_hashes_of_code_is_read(recipe, tmp_path):
    """Earlier versions wrote none; runs that they began go on."""
    first = run(recipe, tmp_path)
    path = first.run_dir / "checkpoint.pt"
    state = checkpoint.load(path, {})
    for field in ("code", "commit"):
        del state[field]
    checkpoint.save(path, state)
    assert_equal_runs(run(recipe, tmp_path), first)
    checkpoint.save(path, {**state, "code": 7})
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt is damaged"):
        run(recipe, tmp_path)


def test_a_finished_run_keeps_the_commit_that_made_it(recipe, tmp_path, monkeypatch):
    first = run(recipe, tmp_path)
    monkeypatch.setattr(records, "commit", lambda: records.Commit(hash="later", dirty=False))
    assert run(recipe, tmp_path).record.commit == first.record.commit != records.commit()


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [("loss_of", "the loss became nan"), ("train_step", r"conv1\.\w+ is not finite")],
    ids=["loss", "input, which the signs hide"],
)
def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(recipe, tmp_path, monkeypatch, spoiled, said):
    module = steps if spoiled == "loss_of" else loop
    right, called = getattr(module, spoiled), []

    def spoil(net, first, *rest):
        called.append(1)
        return right(net, first * float("nan") if len(called) > net.steps else first, *rest)

    monkeypatch.setattr(module, spoiled, spoil)
    with pytest.raises(loop.TrainingError, match=rf"tiny seed 0: {said} in epoch 2.*last good checkpoint"):
        run(recipe, tmp_path)
    state = checkpoint.load(tmp_path / "runs/tiny/quick/seed0/checkpoint.pt", {})
    assert (state["epoch"], state["step"]) == (1, 0)
    assert all(torch.isfinite(v).all() for v in state["model"].values())


def test_binary_weights_that_no_gradient_reaches_stop_the_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(
        quantizers._ScaledSign, "backward", lambda ctx, grad: (torch.zeros_like(grad), None, None)
    )
    with pytest.raises(loop.TrainingError, match="tiny seed 0: no gradient arrives at any binary weight"):
        run(recipe, tmp_path)
    assert not list(tmp_path.rglob("*.json")), "it left a record"


def test_two_trainings_into_one_folder(recipe, tmp_path):
    folder = tmp_path / "runs/tiny/quick/seed0"
    with (
        checkpoint.Lock(folder),
        pytest.raises(checkpoint.RunBusy, match=f"process {os.getpid()} is training in"),
    ):
        run(recipe, tmp_path)
    run(recipe, tmp_path)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(recipe, tmp_path):
    run(recipe, tmp_path)
    path = tmp_path / "runs/tiny/quick/seed0/checkpoint.pt"
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt is damaged.*--restart"):
            run(recipe, tmp_path)
    path.write_bytes(whole)
    recipe.write_text(TINY.replace("lr: 0.01", "lr: 0.02"))
    with pytest.raises(checkpoint.CheckpointError, match="belongs to another run: its recipe says otherwise: optimizer.lr 0.01 → 0.02"):
        run(recipe, tmp_path)
    run(recipe, tmp_path, restart=True)


def test_a_full_disk_keeps_the_last_whole_checkpoint(recipe, tmp_path, monkeypatch):
    fsync, calls = os.fsync, []

    def full_the_second_time(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_the_second_time)
        with pytest.raises(OSError, match="No space left"):
            run(recipe, tmp_path)
    folder = tmp_path / "runs/tiny/quick/seed0"
    assert checkpoint.load(folder / "checkpoint.pt", {})["epoch"] == 1
    assert not [p for p in folder.iterdir() if p.name.startswith(".")], "a temporary file was left behind"
    assert_equal_runs(run(recipe, tmp_path), run(recipe, tmp_path, "whole"))


def test_a_training_goes_on_without_tensorboards_files(recipe, tmp_path, monkeypatch, capsys):
    """Fabric raises a ValueError that speaks of a type of number where its writer cannot write."""
    from tensorboard.compat.tensorflow_stub.io import gfile

    real = gfile.LocalFileSystem._write

    def full(self, filename, content, mode):
        if b"tfevents" in filename:
            raise OSError(errno.ENOSPC, "No space left on device", filename)
        return real(self, filename, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr(gfile.LocalFileSystem, "_write", full)
        patch.setattr(threading, "excepthook", lambda *_: None)  # of the writer's thread
        loop.train(recipe, profile="quick", runs=tmp_path / "runs", progress=True)
    said = capsys.readouterr().err
    assert len(re.findall("TensorBoard's curves end here \\(/.*No space left on device.*the record will hold them all", said)) == 1
    assert_equal_runs(run(recipe, tmp_path), run(recipe, tmp_path, "whole"))


def test_a_checkpoint_of_other_images_says_so(recipe, tmp_path):
    run(recipe, tmp_path)
    path = tmp_path / "runs/tiny/quick/seed0/checkpoint.pt"
    state = checkpoint.load(path, {})
    checkpoint.save(path, state | {"fingerprint": "sha256:of others"})
    with pytest.raises(checkpoint.CheckpointError, match=r"the images or labels of \S+ were others then .*sha256:of others.*--restart"):
        run(recipe, tmp_path)


def test_a_closed_terminal_leaves_a_checkpoint(recipe, tmp_path, monkeypatch):
    step = loop.train_step

    def hang_up(*arguments):
        os.kill(os.getpid(), signal.SIGHUP)
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(loop.Interrupted, match="SIGHUP at epoch 1, step 1.*resumes"):
            run(recipe, tmp_path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        run(recipe, tmp_path, overrides={"quick.epochs": 1, "schedule.warmup_epochs": 0})
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Gone:
    """A standard error that nobody reads any more."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("shown", [Gone(), None], ids=["gone", "none"])
def test_a_training_goes_on_without_its_standard_error(recipe, tmp_path, monkeypatch, shown):
    monkeypatch.setattr(sys, "stderr", shown)
    one = {"quick.epochs": 1, "schedule.warmup_epochs": 0}
    result = loop.train(recipe, profile="quick", runs=tmp_path / "runs", overrides=one)
    assert records.read(result.record_path) == result.record


def test_a_closed_standard_error_is_no_other_files(recipe, tmp_path):
    """Its number, 2, would be that of the next file that is opened; and the exit status is that of the training."""
    command = f"{sys.executable} -m bnnlib.train {recipe} --seed -1 --runs {tmp_path}"
    for closed in ("2>&-", "2>/dev/full"):
        assert subprocess.run(f"{command} {closed}", shell=True, cwd=records.ROOT).returncode == 1
    where = "import os, sys; from bnnlib.training import cli; cli.hold_standard_files(); print(os.open(sys.argv[1], 0))"
    done = subprocess.run(f"{sys.executable} -c '{where}' {recipe} 2>&-", shell=True, cwd=records.ROOT, stdout=subprocess.PIPE)
    assert int(done.stdout) > 2


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("model"), lambda s: s.update(model={}), lambda s: s.update(optimizer=7), lambda s: s.update(step=-1),
        lambda s: s.update(epoch="1"), lambda s: s.update(curve=[]), lambda s: s.update(totals=None),
    ],
)  # fmt: skip
def test_a_checkpoint_without_what_a_run_needs_is_named(recipe, tmp_path, change):
    path = run(recipe, tmp_path, overrides={"quick.train": 64}).run_dir / "checkpoint.pt"
    state = checkpoint.load(path, {})
    change(state)
    checkpoint.save(path, state)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt is damaged"):
        run(recipe, tmp_path, overrides={"quick.train": 64})


def test_validation_chooses_the_best_epoch_without_the_test_set(recipe, tmp_path):
    record = run(recipe, tmp_path, overrides={"validation": 0.25, "quick.epochs": 3}).record
    assert record.best_of == "validation"
    scores = [e.validation_top1 for e in record.curve]
    assert record.best_epoch == scores.index(max(scores)) + 1
    assert record.top1_best == record.curve[record.best_epoch - 1].test_top1


def test_an_epoch_breaks_off_below_a_loss(recipe, tmp_path, monkeypatch):
    taken = []
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda net, x, y, *at: taken.append(at[0]) or step(net, x, y, *at))
    run(recipe, tmp_path, overrides={"stop_epoch_below_loss": 1000.0})
    assert taken == [0, 1]


def test_a_checkpoint_left_by_the_step_that_ends_an_epoch_resumes_in_the_next(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "CHECKPOINT_SECONDS", 0)  # after every step
    early = {"stop_epoch_below_loss": 1000.0}  # every epoch has one step
    whole = run(recipe, tmp_path, "whole", overrides=early)

    def killed(*arguments):
        raise RuntimeError("killed between an epoch's last step and its end")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate_epoch", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(recipe, tmp_path, "cut", overrides=early)
    resumed = run(recipe, tmp_path, "cut", overrides=early)
    assert resumed.record.images_per_second > 0
    assert_equal_runs(resumed, whole)


def test_each_step_has_dropout_masks_of_its_own():
    # S1 to S4 have up to 469 steps an epoch; the CPU generator reads the low 32 bits of a seed
    seeds = [steps.dropout_seed(0, epoch, step, 0) % 2**32 for epoch in range(60) for step in range(469)]
    assert len(set(seeds)) == len(seeds)
    masks = set()
    for seed in (steps.dropout_seed(s, e, t, r) for s in range(2) for e in range(3) for t in range(40) for r in range(2)):
        torch.manual_seed(seed)
        masks.add(tuple(nn.functional.dropout(torch.ones(64)).tolist()))
    assert len(masks) == 2 * 3 * 40 * 2


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_a_shipped_teacher_serves_where_none_was_trained(profile, tmp_path):
    student = recipes.load("ours-lenet5").for_profile(profile)
    _, known = building.teacher(student, profile, tmp_path, torch.device("cpu"))
    assert (known.recipe, known.seed) == ("ours-lenet5-teacher", 0) and known.top1 > 99
    folder = tmp_path / "ours-lenet5-teacher" / profile / "seed0"
    folder.mkdir(parents=True)
    shutil.copy(deploy.FOLDER / "s4-lenet5.safetensors", folder / "model.safetensors")
    _, known = building.teacher(student, profile, tmp_path, torch.device("cpu"))
    assert known.recipe == "s4-lenet5", "the one trained here comes first"


def test_distillation_needs_a_teacher_that_fits(recipe, tmp_path):
    with pytest.raises(RecipeError, match="distils from 'nobody'.*train it first"):
        run(recipe, tmp_path, overrides={"distill.teacher": "nobody"})
    teacher = run(recipe, tmp_path, "teacher")
    path = teacher.run_dir / "model.safetensors"
    student = run(recipe, tmp_path, overrides={"distill.teacher": str(path), "distill.mix": 1.0}).record
    assert (student.teacher.recipe, student.teacher.top1) == ("tiny", teacher.record.top1_last)
    assert student.curve[0].train_loss != teacher.record.curve[0].train_loss
    with pytest.raises(RecipeError, match="trained with input normalized, tiny has unit"):
        run(recipe, tmp_path, overrides={"distill.teacher": str(path), "input": "unit"})


@pytest.mark.parametrize("field", ["recipe", "seed", "top1", "dataset", "input"])
def test_a_teacher_that_does_not_say_what_it_is_is_refused(recipe, tmp_path, field):
    about = deploy.info(deploy.FOLDER / "s4-lenet5.safetensors")
    about = {"recipe": "x", "seed": 0, "top1": 99.0, **about, "dataset": "digits", "input": "normalized"}
    model = deploy.load(deploy.FOLDER / "s4-lenet5.safetensors")
    bad = deploy.save(model, tmp_path / "bad.safetensors", about={k: v for k, v in about.items() if k != field})
    with pytest.raises(RecipeError, match=f"teacher .*bad.safetensors .*{field}"):
        run(recipe, tmp_path, overrides={"distill.teacher": str(bad)})


def test_a_packed_network_is_no_teacher(recipe, tmp_path):
    model = deploy.load(deploy.FOLDER / "s4-lenet5.safetensors")
    packed = deploy.save(deploy.convert(model, (1, 28, 28)), tmp_path / "packed.safetensors")
    with pytest.raises(RecipeError, match="packed.safetensors is a packed network"):
        run(recipe, tmp_path, overrides={"distill.teacher": str(packed)})


def test_a_teacher_of_other_classes_is_refused(recipe, tmp_path):
    wide = tmp_path / "wide.yaml"
    wide.write_text("extends: tiny\nmodel: {name: lenet5, classes: 12}\n")
    teacher = run(wide, tmp_path).run_dir / "model.safetensors"
    with pytest.raises(ValueError, match=r"teacher gives logits of shape \(64, 12\), the student \(64, 10\)"):
        run(recipe, tmp_path, overrides={"distill.teacher": str(teacher)})


def test_a_teacher_is_found_by_its_recipe(recipe, tmp_path):
    run(recipe, tmp_path)
    student = tmp_path / "student.yaml"
    student.write_text("extends: tiny\ndistill: {teacher: tiny}\n")
    assert run(student, tmp_path).record.teacher.recipe == "tiny"


def test_weight_decay_groups():
    fields = recipes.load("s4-lenet5").model_dump()
    fields["optimizer"] |= {"weight_decay": 0.1, "no_decay": ("binary", "scale", "norm", "bias")}
    optimizer = building.optimizer(recipes.Recipe.model_validate(fields), models.build("lenet5"))
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert sorted(p.numel() for p in decayed["params"]) == [
        20 * 25,
        500 * 10,
    ]  # the real-valued first and last weight alone
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == 431_220


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["s4-lenet"], "no recipe 's4-lenet'; did you mean s4-lenet5"),
        (["s4-lenet5", "--set", "epochs=-1"], "'epochs' = -1: Input should be greater than 0"),
        (["s4-lenet5", "--set", "optimizer.lrr=1"], "unknown field 'optimizer.lrr': did you mean lr?"),
        (["s4-lenet5", "--set", "epochs"], "write it as field=value"),
        (["s4-lenet5", "--set", "epochs=[1"], "[1"),
        (["s4-lenet5", "--profile", "quik"], "unknown profile 'quik': choose full, demo or quick"),
        (["s4-lenet5", "--seed", "-1"], "seed is -1: it must be a whole number >= 0 and below 2**63"),
        (["s4-lenet5", "--seed", "99999999999999999999"], "seed is 99999999999999999999: it must be a whole number"),
        (["s4-lenet5", "--set", "dataset=minst"], "no data set 'minst': choose one of mnist, cifar10"),
        (["s4-lenet5", "--set", "model.widht=3"], "unknown option 'widht' of model 'lenet5': it takes in_channels"),
        (["s4-lenet5", "--set", "model.name=lenet"], "unknown model 'lenet': choose one of alexnet"),
        (["s4-lenet5", "--set", "model.act=tanh"], "unknown activation 'tanh': choose one of relu"),
        (["s4-lenet5", "--set", "optimizer=sgd"], "set them one by one: optimizer.name, optimizer.lr, "),
    ],
    ids=["recipe", "value", "field", "form", "YAML", "profile", "seed", "large seed", "data", "option", "model", "choice", "fields"],
)
def test_the_command_line_answers_mistakes_in_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_RUNS", str(tmp_path / "runs"))
    answer = CliRunner().invoke(cli.app, arguments)
    assert answer.exit_code == 1
    assert said in answer.stderr
    assert answer.stderr.count("\n") == 1 and answer.stdout == ""
    assert not (tmp_path / "runs").exists(), "nothing was begun"


def test_what_another_recipe_says_is_told_by_its_fields(recipe, tmp_path):
    run(recipe, tmp_path)
    text = recipe.read_text()
    recipe.write_text(text.replace("lr: 0.01", "lr: 0.02").replace("crop: 2", "crop: 3"))
    told = r"belongs to another run: its recipe says otherwise: augment.crop 2 → 3, optimizer.lr 0.01 → 0.02; start anew with --restart "
    with pytest.raises(checkpoint.CheckpointError, match=told + r"\(in Python restart=True\), or give another folder with --runs"):
        run(recipe, tmp_path)
    kept = next((tmp_path / "runs").rglob("checkpoint.pt"))
    state = checkpoint.load(kept, {})
    del state["recipe"]  # as earlier versions left it
    checkpoint.save(kept, state)
    with pytest.raises(checkpoint.CheckpointError, match="its recipe_hash is '"):
        run(recipe, tmp_path)
    recipe.write_text(text)
    assert run(recipe, tmp_path).record.curve


@pytest.mark.parametrize(
    ("give", "said"),
    [(lambda y: (y, y), "a tuple for one image"), (lambda y: y[:, :, None], r"a tensor of shape \[1, 10, 1\] for one image")],
)
def test_a_net_that_is_no_classifier_is_refused(recipe, tmp_path, monkeypatch, give, said):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(784, 10)

        def forward(self, x):
            return give(self.layer(x.flatten(1)))

    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    models.register("strange")(Net)
    with pytest.raises(RecipeError, match=f"the model strange gives {said}; a recipe trains classifiers"):
        run(recipe, tmp_path, overrides={"model.name": "strange"})


def test_nan_among_the_first_weights_stops_a_run_whose_loss_is_finite(recipe, tmp_path, monkeypatch):
    """A sign turns NaN into -1."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(784, 16), layers.BinaryLinear(16, 10)
            self.first.weight.data.fill_(float("nan"))

        def forward(self, x):
            return self.last(self.first(x.flatten(1)))

    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    models.register("with-nan")(Net)
    assert Net()(torch.ones(1, 1, 28, 28)).isfinite().all()
    with pytest.raises(loop.TrainingError, match="first.weight is not finite in epoch 1"):
        run(recipe, tmp_path, overrides={"model.name": "with-nan"})


def test_a_folder_of_runs_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    command, folder = ["s4-lenet5", "--profile", "quick", "--set", "dataset=digits"], str(tmp_path / "file" / "x")
    answer = CliRunner().invoke(cli.app, [*command, "--runs", folder])
    assert answer.exit_code == 2 and "is a file: name a folder" in " ".join(answer.stderr.replace("│", " ").split())
    answer = CliRunner().invoke(cli.app, command, env={"BNN_RUNS": folder})
    assert answer.exit_code == 1
    assert "cannot be written (Not a directory): give another with --runs (in Python runs=)" in answer.stderr.splitlines()[-1]
    assert "was written before" not in answer.stderr


def test_the_command_line_trains(recipe, tmp_path):
    command = [
        sys.executable,
        "-m",
        "bnnlib.train",
        str(recipe),
        "--profile",
        "quick",
        "--seed",
        "5",
        "--set",
        "quick.epochs=1",
        "--threads",
        "1",
    ]
    answer = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "BNN_RUNS": str(tmp_path / "env")}
    )
    assert answer.returncode == 0, answer.stderr
    assert "run folder" in answer.stderr.splitlines()[0]
    (path,) = (tmp_path / "env").rglob("record.json")
    assert json.loads(path.read_text())["seed"] == 5


def test_missing_data_names_the_three_ways(tmp_path):
    with pytest.raises((data.DataNotFound, RecipeError), match="BNN_DATA"):
        loop.train("s4-lenet5", profile="quick", data_root=tmp_path, runs=tmp_path / "runs", progress=False)
