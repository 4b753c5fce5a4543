"""The fields of a recipe: what is wrong is named, and a shorter profile changes what it states alone."""

import re

import pytest
from recipe_fields import BASE, changed

from bnnlib.recipes import RecipeError, load

UNKNOWN = [
    ({"epoch": 3}, "unknown field 'epoch': did you mean epochs? allowed are name, title"),
    ({"zzz": 3}, "unknown field 'zzz': allowed are name, title"),
    (
        {"optimizer": {"lr": 1, "weight_decays": 0}},
        "unknown field 'optimizer.weight_decays': did you mean weight_decay? allowed are name, lr, ",
    ),
    (
        {"schedule": {"gama": 0.1}},
        "unknown field 'schedule.gama': did you mean gamma? allowed are name, warmup_epochs",
    ),
    ({"augment": {"crops": 4}}, "unknown field 'augment.crops': did you mean crop? allowed are crop, flip"),
    (
        {"augment": {"affine": {"degree": 4}}},
        "unknown field 'augment.affine.degree': did you mean degrees? allowed are degrees, scale",
    ),
    (
        {"distill": {"teacher": "x", "temperatur": 4}},
        "unknown field 'distill.temperatur': did you mean temperature? allowed are teacher, temperature, mix",
    ),
    (
        {"published": {"top_1": 4}},
        "unknown field 'published.top_1': did you mean top1? allowed are top1, top5",
    ),
    ({"quick": {"epoch": 4}}, "unknown field 'quick.epoch': did you mean epochs? allowed are epochs, train"),
]
WRONG = [
    ({"epochs": -5}, "field 'epochs' = -5: Input should be greater than 0"),
    ({"epochs": 0}, "field 'epochs' = 0: Input should be greater than 0"),
    ({"epochs": 1.5}, "field 'epochs' = 1.5"),
    ({"epochs": "60"}, "field 'epochs' = '60': Input should be a valid integer"),
    ({"epochs": True}, "field 'epochs' = True: Input should be a valid integer"),
    ({"epochs": None}, "field 'epochs' = None"),
    ({"epochs": [3]}, "field 'epochs' = [3]"),
    ({"batch_size": 0}, "field 'batch_size' = 0: Input should be greater than 0"),
    ({"title": 5}, "field 'title' = 5: Input should be a valid string"),
    ({"channels_last": "yes"}, "field 'channels_last' = 'yes': Input should be a valid boolean"),
    ({"channels_last": 1}, "field 'channels_last' = 1"),
    ({"source": "a b"}, "field 'source' = 'a b': String should match pattern"),
    ({"input": "raw"}, "field 'input' = 'raw': Input should be 'normalized', 'unit', "),
    ({"validation": 1}, "field 'validation' = 1: Input should be less than 1"),
    ({"model": {"act": "relu"}}, "field 'model.name' is missing"),
    ({"model": "lenet5"}, "field 'model' = 'lenet5': it has fields of its own, set them one by one: model.name"),
    ({"optimizer": "sgd"}, "set them one by one: optimizer.name, optimizer.lr, "),
    ({"optimizer": {"name": "adam"}}, "field 'optimizer.lr' is missing"),
    ({"optimizer": {"lr": 0}}, "field 'optimizer.lr' = 0: Input should be greater than 0"),
    ({"optimizer": {"lr": "fast"}}, "field 'optimizer.lr' = 'fast': Input should be a valid number"),
    ({"optimizer": {"lr": float("inf")}}, "field 'optimizer.lr' = inf: Input should be a finite number"),
    ({"optimizer": {"lr": float("nan")}}, "field 'optimizer.lr' = nan"),
    (
        {"optimizer": {"lr": 1, "name": "lion"}},
        "field 'optimizer.name' = 'lion': Input should be 'adam', 'adamw' or 'sgd'",
    ),
    ({"optimizer": {"lr": 1, "betas": [0.9]}}, "field 'optimizer.betas.1' is missing"),
    (
        {"optimizer": {"lr": 1, "betas": [0.9, 1]}},
        "field 'optimizer.betas.1' = 1: Input should be less than 1",
    ),
    ({"optimizer": {"lr": 1, "momentum": 1}}, "field 'optimizer.momentum' = 1"),
    (
        {"optimizer": {"lr": 1, "no_decay": ["bn"]}},
        "field 'optimizer.no_decay.0' = 'bn': Input should be 'binary', 'scale', 'norm' or 'bias'",
    ),
    ({"schedule": {"name": "step"}}, "schedule 'step' needs milestones or every"),
    ({"schedule": {"name": "step", "every": 2, "milestones": [1]}}, "takes milestones or every, not both"),
    (
        {"schedule": {"name": "cosinus"}},
        "field 'schedule.name' = 'cosinus': Input should be 'constant', 'step', 'cosine' or ",
    ),
    ({"augment": {"affine": {"scale": [1.1, 0.9]}}}, "scale is (low, high) with 0 < low <= high"),
    ({"augment": {"affine": {"scale": 0.1}}}, "field 'augment.affine.scale' = 0.1"),
    ({"augment": {"crop": -1}}, "field 'augment.crop' = -1: Input should be greater than or equal to 0"),
    ({"distill": {"temperature": 3}}, "field 'distill.teacher' is missing"),
    (
        {"distill": {"teacher": "x", "mix": 1.5}},
        "field 'distill.mix' = 1.5: Input should be less than or equal to 1",
    ),
    ({"temperature": [1, 0]}, "temperatures must be > 0"),
    ({"temperature": [1]}, "field 'temperature.1' is missing"),
    ({"precision": "fp16"}, "field 'precision' = 'fp16'"),
    ({"quick": {"epochs": 0}}, "field 'quick.epochs' = 0"),
    ({"published": {"top1": 123}}, "field 'published.top1' = 123: Input should be less than or equal to 100"),
    ({"name": "other"}, "field 'name' = 'other': a recipe is named as its file is, rename the file instead"),
]


@pytest.mark.parametrize(("fields", "message"), UNKNOWN + WRONG, ids=str)
def test_a_bad_field_is_named_with_file_and_what_is_allowed(write_recipe, fields, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load(write_recipe(changed(**fields)))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("field", ["title", "source", "dataset", "model", "epochs", "optimizer"])
def test_a_missing_field_is_named(write_recipe, field):
    fields = {k: v for k, v in BASE.items() if k != field}
    with pytest.raises(RecipeError, match=f"recipe mine.yaml: field '{field}' is missing"):
        load(write_recipe(fields))


def test_all_faults_are_told_at_once(write_recipe):
    with pytest.raises(RecipeError) as caught:
        load(write_recipe(changed(epochs=-1, batch_size=0, colour=1)))
    assert all(
        text in str(caught.value) for text in ("'epochs' = -1", "'batch_size' = 0", "unknown field 'colour'")
    )


def test_unknown_profile():
    with pytest.raises(RecipeError, match="unknown profile 'fast': choose full, demo or quick"):
        load("s4-lenet5").for_profile("fast")


def test_quick_changes_what_it_states_alone(write_recipe):
    recipe = load(write_recipe(changed(batch_size=64, compile=True, quick={"epochs": 2, "batch_size": 8})))
    assert recipe.for_profile("quick") == recipe.model_copy(
        update={"epochs": 2, "batch_size": 8, "compile": False}
    )
    assert load(write_recipe(changed(batch_size=64))).for_profile("quick").batch_size == 64


def test_the_quick_profile_keeps_what_was_asked_for(write_recipe):
    recipe = load(write_recipe({**BASE, "precision": "bf16-mixed", "compile": True, "quick": {"batch_size": 8}}))
    quick = recipe.for_profile("quick")
    assert (quick.epochs, quick.precision, quick.compile, quick.batch_size) == (1, "32-true", False, 8)
    asked = recipe.for_profile("quick", keep={"epochs", "precision", "compile", "batch_size"})
    assert asked == recipe


def test_the_demo_profile_is_the_recipe_made_smaller(write_recipe):
    fields = {
        **BASE, "epochs": 319, "precision": "bf16-mixed", "compile": True, "model": {"name": "nin"},
        "schedule": {"name": "step", "milestones": [120, 200, 240, 280], "warmup_epochs": 31.9},
        "demo": {"epochs": 10, "model": {"width": 48}, "batch_size": 64},
    }  # fmt: skip
    recipe = load(write_recipe(fields))
    demo = recipe.for_profile("demo")
    assert (demo.epochs, demo.batch_size, demo.precision, demo.compile) == (10, 64, "32-true", False)
    assert demo.model.options == {"width": 48} and recipe.model.options == {}
    assert demo.schedule.milestones == (4, 6, 8, 9) and demo.schedule.warmup_epochs == pytest.approx(1)
    assert demo.hash() != recipe.hash()
    asked = recipe.for_profile("demo", keep={"model.width", "schedule.milestones"})
    assert asked.model == recipe.model and asked.schedule == recipe.schedule
    every = load(write_recipe({**fields, "epochs": 60, "schedule": {"name": "step", "every": 15}})).for_profile("demo")
    assert every.schedule.every == 2


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load("s4-lenet5").epochs = 3
