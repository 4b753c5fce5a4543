"""The runs of a chapter in its profiles, and the nets that come with the book."""

from __future__ import annotations

import pytest
import torch

from bnnlib import deploy, models, recipes, records
from bnnlib.experiments import predictions, runs

LENET = "s4-lenet5"


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Two small recipes on the embedded digits, one the other's teacher, in a folder of recipes."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    common = "source: ours\ndataset: digits\nepochs: 1\noptimizer: {lr: 0.01}\nmodel: {name: mlp}\n"
    (folder / "big.yaml").write_text("title: big\n" + common)
    (folder / "small.yaml").write_text("title: small\n" + common + "distill: {teacher: big}\n")
    monkeypatch.setattr(recipes.files, "FOLDER", folder)
    monkeypatch.setenv("BNN_RUNS", str(tmp_path / "runs"))
    return tmp_path / "results"


def test_stored_is_what_is_recorded(tmp_path, a_record):
    for seed in (0, 1):
        records.write(a_record(seed=seed), records.path_of(LENET, seed, tmp_path))
    found = runs.collect([LENET, "s3-mlp", LENET], "stored", folder=tmp_path)
    assert list(found.records) == [LENET, "s3-mlp"]
    assert [r.seed for r in found[LENET]] == [0, 1] and found.last(LENET) == [90.0, 90.0]
    assert found["s3-mlp"] == [] and found.models == {} and found.note == ""


@pytest.mark.parametrize("profile", ["stored", "quick", "full"])
def test_a_name_that_is_no_recipe_is_told_in_every_profile(tmp_path, profile):
    with pytest.raises(recipes.RecipeError, match="no recipe 's4-lenet'; did you mean s4-lenet5"):
        runs.collect([LENET, "s4-lenet"], profile, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_quick_trains_teachers_first_and_leaves_nothing_behind(digits, tmp_path):
    found = runs.collect(["small"], "quick", seed=2, folder=digits)
    assert list(found.records) == list(found.models) == ["small"]
    (record,) = found["small"]
    assert (record.profile, record.seed, record.dataset.train) == ("quick", 2, runs.SMALL["quick.train"])
    assert record.teacher.recipe == "big" and record.teacher.seed == 2
    assert "mean nothing" in found.note and " and 1 epoch:" in found.note
    assert not digits.exists() and not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("error:the model")  # no outputs without a class
@pytest.mark.parametrize(
    ("name", "small", "instead"),
    [("s4-lenet5", {}, "digits"), ("s1-vgg", {"model.width": 8}, "digits-32"),
     ("tiny-s5-resnet18-xnorpp-7ep", {"model.width": 16}, "digits-64")],
)  # fmt: skip
def test_quick_without_the_data_takes_the_embedded_digits_and_says_so(tmp_path, monkeypatch, name, small, instead):
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "nowhere"))
    found = runs.collect([name], "quick", small={**small, "quick.train": 16, "quick.test": 8}, folder=tmp_path)
    (record,) = found[name]
    assert (record.dataset.name, record.dataset.train, record.dataset.test) == (instead, 16, 8)
    assert "scikit-learn's digits" in found.note and str(tmp_path) not in found.note


def test_a_demo_run_learns(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "nowhere"))
    found = runs.collect([LENET], "demo", small={"quick.train": 7, "demo.train": 1400}, folder=tmp_path)
    (record,) = found[LENET]
    assert (record.profile, record.dataset.name, record.dataset.train) == ("demo", "digits", 1400)
    assert len(record.curve) == 8 and record.top1_last > 80, "chance is 10 %"
    assert "demo runs" in found.note and "no number here is a result" in found.note
    assert [p.name for p in tmp_path.iterdir()] == []


def test_full_trains_what_has_no_record_and_nothing_else(digits, monkeypatch):
    first = runs.collect(["small"], "full", seed=1, folder=digits)
    assert sorted(p.relative_to(digits).as_posix() for p in digits.rglob("*.json")) == [
        "big/seed0.json",
        "small/seed1.json",
    ]
    assert list(first.models) == ["big", "small"] and first.note == "*Trained just now: `big`, `small`.*"
    monkeypatch.setattr(runs.loop, "train", lambda *a, **k: pytest.fail("trained again"))
    again = runs.collect(["small"], "full", seed=1, folder=digits)
    assert again.records == first.records and again.models == {} and "nothing" in again.note


def test_an_unknown_profile_is_named():
    with pytest.raises(ValueError, match="unknown profile 'fast'"):
        runs.collect([LENET], "fast")


def test_a_teacher_of_a_teacher_comes_first():
    order = runs.teachers_first(["s2-student", "s1-vgg", "s2-teacher", "ours-vgg-20ep-distilled"])
    assert order == ["s2-teacher", "s2-student", "s1-vgg", "ours-teacher", "ours-vgg-20ep-distilled"]


def pack(folder, dataset="digits"):
    recipe = recipes.load(LENET).model_copy(update={"dataset": dataset})
    torch.manual_seed(0)
    model = models.build("lenet5").eval()
    path = folder / f"{LENET}.safetensors"
    deploy.save(model, path, recipe=recipe, seed=0, top1=12.34, fingerprint="sha256:0", real="int8")
    return path


def test_a_shipped_net_has_its_recorded_answers_and_its_own_accuracy(tmp_path):
    path = pack(tmp_path)
    labels = torch.arange(8)
    predictions.write(LENET, path, torch.eye(10)[[0, 1, 2, 3, 4, 5, 0, 0]], labels, "sha256:0", tmp_path / "made")
    found = runs.shipped([LENET, "s3-mlp"], folder=tmp_path, records_in=tmp_path / "made")
    assert list(found) == [LENET], "the other has no file here"
    net = found[LENET]
    assert (net.top1, net.recorded, net.real, net.bytes) == (75.0, 12.34, "int8", path.stat().st_size)
    assert torch.equal(net.predictions.labels, labels)
    assert "75.00 % of 8 test images (12.34 % at the end of its training" in str(net)


def test_without_a_record_the_figure_is_marked_as_that_of_the_training(tmp_path):
    pack(tmp_path, "mnist")
    found = runs.shipped([LENET], folder=tmp_path, records_in=tmp_path / "none")[LENET]
    assert found.predictions is None and found.top1 == 12.34
    assert "12.34 % **in training**" in str(found) and "int8" in str(found)


def test_inputs_for_a_look_are_of_one_scale_with_the_data_and_without(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "nowhere"))
    x, what = runs.some_inputs(8)
    assert x.shape == (8, 3, 32, 32) and x.std().item() == pytest.approx(1) and "noise" in what
    assert torch.equal(x, runs.some_inputs(8)[0]) and not torch.equal(x, runs.some_inputs(8, seed=1)[0])


@pytest.mark.parametrize("count", [-1, 0, 1])
def test_inputs_for_a_look_are_enough_for_a_batch_norm(count):
    with pytest.raises(ValueError, match=f"{count} images are too few: take 2 or more"):
        runs.some_inputs(count)


def test_inputs_for_a_look_are_test_images(bnn_data):
    x, what = runs.some_inputs(50)
    assert what == "test images of CIFAR-10" and x.std().item() == pytest.approx(1, abs=0.2)
