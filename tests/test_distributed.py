"""Data-parallel training on two processes (gloo) equals one process with the same global batch.

One launch of torchrun runs all the cases of `CASES` in one pair of processes; the tests look at what it left.
With batch norm frozen no image's output depends on which others share its process, and in float64 the order
of a sum over two shares costs about 1e-16: weights must agree to TOLERANCE after the six steps of two epochs.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bnnlib import data, deploy, records
from bnnlib.data import evaluate
from bnnlib.training import building, loop

TOLERANCE = 1e-10  # largest difference of a weight, relative to the largest weight of its tensor
TRAIN, TEST, CLASSES, SIDE = 29, 13, 4, 32

RECIPE = """
title: a small ResNet on an ImageNet-shaped tree
source: ours
dataset: {dataset}
model: {{name: resnet18, image: 32, classes: 4, width: 8, downsample: binary}}
epochs: 2
batch_size: 12
optimizer: {{name: sgd, lr: 0.001, weight_decay: 1e-2, no_decay: [binary, scale]}}
precision: 64-true
"""

CASES = {  # name -> overrides
    "plain": {},  # 12 12 5: the last is shared 3 to 2
    "accumulated": {"batch_size": 6, "accumulate": 2},  # 6 6 | 6 6 | 5
    "thin": {"batch_size": 9},  # 9 9 9 2: two processes cannot share two images
    "cut": {"epochs": 3, "accumulate": 1},  # stopped in the second epoch, then called again
    "whole": {"epochs": 3},
    "ema": {"ema": 0.5},
}

# Run by each process; `stop` sends a signal to the second process alone.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
from torch import nn
from bnnlib.training import checkpoint, loop, setup, stopping
from bnnlib.training.loop import Interrupted

torch.set_num_threads(1)
recipe, out, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
rank = int(os.environ["RANK"])
nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)  # frozen
setup.EVALUATION_BATCH = 4  # 4 4 4 1: the second process gets nothing of the last
stopping.UPDATES_TO_ASK = 1
step, said = loop.train_step, {}

def run(name, overrides, folder=None):
    places = {"runs": out / (folder or name), "out": out / "records" / name}
    return loop.train(recipe, overrides=overrides or None, progress=False, **places)

def stop_at(net, x, y, *at):
    if rank == 1 and at == (1, 1):
        os.kill(os.getpid(), signal.SIGTERM)
    return step(net, x, y, *at)

for name, overrides in cases.items():
    if name == "cut":
        loop.train_step = stop_at
        try:
            run(name, overrides)
            said[name] = "not stopped"
        except Interrupted as stopped:
            said[name] = str(stopped)
        loop.train_step = step
    result = run(name, overrides)
    left = {"weights": result.model.state_dict(), "curve": result.record.curve}
    torch.save(left, out / f"{name}-{rank}.pt")

held = None
folder = out / "busy" / recipe.stem / "full" / "seed0"
if rank == 0:
    held = checkpoint.Lock(folder)
try:
    run("busy", {})
except checkpoint.RunBusy as busy:
    said["busy"] = str(busy)
(out / f"said-{rank}.json").write_text(json.dumps(said))
"""


def make_tree(root: Path, side: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """root/{train,val}/n0000000K/*.png; the mean colour of a class is its own."""
    rng = np.random.default_rng(0)
    for part, images in (("train", TRAIN), ("val", TEST)):
        for i in range(images):
            folder = root / part / f"n{i % CLASSES:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 128, (*side, 3)) + 30 * (i % CLASSES)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


def torchrun(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    path = folder / "small.yaml"
    path.write_text(RECIPE.format(dataset=f"imagefolder:{make_tree(folder / 'tree')}"))
    return path


@pytest.fixture(scope="module")
def two(recipe):
    """What two processes left."""
    out = recipe.parent / "two"
    out.mkdir()
    script = recipe.parent / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(script, recipe, out, json.dumps(CASES))
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def one(recipe):
    """What one process does with the same global batch, batch norm frozen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.BatchNorm2d, "train", lambda self, mode=True: nn.Module.train(self, False))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return loop.train(recipe, runs=recipe.parent / "one", out=recipe.parent / "records", progress=False)


def load(folder: Path, name: str, rank: int) -> dict:
    return torch.load(folder / f"{name}-{rank}.pt", weights_only=False)


def assert_close(a: dict, b: dict, tolerance: float = TOLERANCE) -> None:
    assert list(a) == list(b)
    for name, x in a.items():
        if x.is_floating_point() and x.numel():
            assert x.dtype == torch.float64
            difference = (x - b[name]).abs().max().item()
            assert difference <= tolerance * max(x.abs().max().item(), 1e-3), name


def test_two_processes_end_at_the_weights_of_one(one, two):
    start = building.model(loop.recipes.load(Path(one.run_dir).parents[3] / "small.yaml")).state_dict()
    here = one.model.state_dict()
    moved = [name for name, x in here.items() if "weight" in name and start[name].shape != ()]
    assert len(moved) > 30 and not torch.equal(here[moved[0]], start[moved[0]].double())
    for rank in (0, 1):
        assert_close(load(two, "plain", rank)["weights"], here)


def test_the_curves_agree_and_evaluation_counts_each_image_once(one, two):
    dataset = data.load(one.record.resolved["dataset"])
    transform = evaluate.input_transform("normalized", dataset)
    scores = evaluate.logits(copy.deepcopy(one.model).float(), dataset.test, transform)
    assert len(scores) == TEST
    expected = evaluate.top1(scores, dataset.test.labels)
    for rank in (0, 1):
        curve = load(two, "plain", rank)["curve"]
        for ours, theirs in zip(curve, one.record.curve, strict=True):
            for field in ("train_loss", "train_top1", "test_loss", "test_top1", "test_top5", "lr"):
                assert getattr(ours, field) == pytest.approx(getattr(theirs, field), rel=1e-6), field
        assert curve[-1].test_top1 == pytest.approx(expected)
        assert (curve[-1].test_top1 * TEST / 100) % 1 == pytest.approx(0, abs=1e-9)


def test_accumulated_batches_equal_the_large_batch(two):
    large = load(two, "plain", 0)["weights"]
    for rank in (0, 1):
        assert_close(load(two, "accumulated", rank)["weights"], large)


def test_one_process_that_accumulates_equals_the_large_batch(recipe, one, monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "train", lambda self, mode=True: nn.Module.train(self, False))
    again = loop.train(recipe, overrides=CASES["accumulated"], runs=recipe.parent / "one", progress=False)
    assert_close(again.model.state_dict(), one.model.state_dict())


def test_a_last_batch_too_small_to_share_is_left_out(two):
    """27 of 29 images are trained on: the mean over them is a multiple of 1 / 27."""
    hits = load(two, "thin", 0)["curve"][0].train_top1 * 27 / 100
    assert hits == pytest.approx(round(hits), abs=1e-9)


@pytest.mark.parametrize("name", list(CASES))
def test_processes_end_alike(two, name):
    first, second = (load(two, name, rank) for rank in (0, 1))
    for key, x in first["weights"].items():
        assert torch.equal(x, second["weights"][key]), key
    assert [e.test_top1 for e in first["curve"]] == [e.test_top1 for e in second["curve"]]


def test_a_signal_to_one_process_stops_both_at_the_same_step_and_the_run_goes_on(two):
    said = [json.loads((two / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    assert "stopped by SIGTERM at epoch 2, step 2" in said[0]["cut"]
    assert said[0]["cut"] == said[1]["cut"]
    whole, cut = load(two, "whole", 0), load(two, "cut", 0)
    assert_close(cut["weights"], whole["weights"], 0)
    for a, b in zip(cut["curve"], whole["curve"], strict=True):
        assert (a.train_top1, a.test_loss) == (b.train_top1, b.test_loss)
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-12), "summed in two parts"


def test_a_run_folder_in_use_is_told_to_every_process(two):
    for rank in (0, 1):
        assert "is training in" in json.loads((two / f"said-{rank}.json").read_text())["busy"]


def test_the_command_under_torchrun_on_images_of_any_size(tmp_path):
    """The command a reader runs, on lazily decoded images: one record, by the first process."""
    make_tree(tmp_path / "tree", (50, 40))
    runs = tmp_path / "runs"
    recipe = tmp_path / "lazy.yaml"
    recipe.write_text(
        RECIPE.format(dataset=f"lazyfolder:{tmp_path / 'tree'}").replace("image: 32", "image: 224")
        + "augment: {view: s5}\nquick: {train: 8, test: 5, batch_size: 4}\n"
    )
    done = torchrun("-m", "bnnlib.train", recipe, "--profile", "quick", BNN_RUNS=str(runs))
    assert done.returncode == 0, done.stderr[-4000:]
    (path,) = runs.rglob("record.json")
    record = records.read(path)
    assert record.hardware["processes"] == 2
    assert (record.dataset.train, record.dataset.test) == (8, 5)
    assert deploy.load(path.parent / "model.safetensors")(torch.zeros(1, 3, 224, 224)).shape == (1, CLASSES)
    assert done.stderr.count("record ") == 1, "the first process alone speaks"
    again = torchrun("-m", "bnnlib.train", recipe, "--profile", "quck", BNN_RUNS=str(runs))
    assert again.returncode != 0
    assert again.stderr.count("error: unknown profile 'quck'") == 1
