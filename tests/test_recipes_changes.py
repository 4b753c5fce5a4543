"""What changes a run: the hash of a recipe, and the fields in which a record differs from it."""

import re

from recipe_fields import BASE, changed

from bnnlib import recipes
from bnnlib.recipes import ABOUT, Recipe, load


def test_the_hash_leaves_out_what_does_not_change_a_run(write_recipe):
    reference = load(write_recipe(BASE)).hash()
    assert re.fullmatch("[0-9a-f]{64}", reference)
    same = [
        {"title": "Another"},
        {"source": "S4"},
        {"published": {"top1": 99}},
        {"seeds": 5},
        {"quick": {"epochs": 2}},  # not the run's
        {"batch_size": 128},
        {"schedule": {"name": "constant"}},
        {"augment": None},
        {"optimizer": {"name": "adam", "lr": 0.01, "eps": 1e-8}},  # defaults
        {"optimizer": {"lr": 1e-2}},
    ]
    for fields in same:
        assert load(write_recipe(changed(**fields))).hash() == reference, fields
    assert load(write_recipe(BASE, "other.yaml")).hash() == reference
    assert (
        load(write_recipe({"extends": "mine"}, "child.yaml")).hash() == reference
    )  # inherited or stated, it is the same run
    write_recipe(dict(reversed(BASE.items())))
    assert load(write_recipe(dict(reversed(BASE.items())))).hash() == reference


DIFFERENT = [
    {"dataset": "mnist"},
    {"input": "unit"},
    {"validation": 0.1},
    {"augment": {}},
    {"augment": {"crop": 1}},
    {"augment": {"affine": {"shear": 1}}},
    {"model": {"name": "lenet5"}},
    {"model": {"name": "lenet5", "act": "relu"}},
    {"model": {"name": "lenet5", "act": "prelu", "layer": {"scale": "learned"}}},
    {"init": "normal-0.05"},
    {"epochs": 4},
    {"batch_size": 64},
    {"accumulate": 2},
    {"optimizer": {"name": "sgd", "lr": 0.01}},
    {"optimizer": {"lr": 0.02}},
    {"optimizer": {"lr": 0.01, "weight_decay": 1e-5}},
    {"optimizer": {"lr": 0.01, "no_decay": ["binary"]}},
    {"schedule": {"name": "cosine"}},
    {"schedule": {"warmup_epochs": 1}},
    {"label_smoothing": 0.1},
    {"distill": {"teacher": "x"}},
    {"ema": 0.9},
    {"temperature": [1, 2]},
    {"stop_epoch_below_loss": 0.1},
    {"precision": "bf16-mixed"},
    {"channels_last": True},
    {"compile": True},
    {"diagnostics": True},
]


def test_the_hash_changes_with_everything_else(write_recipe):
    hashes = {load(write_recipe(changed(**fields))).hash() for fields in ({}, *DIFFERENT)}
    assert len(hashes) == len(DIFFERENT) + 1
    touched = {next(iter(fields)) for fields in DIFFERENT}
    assert touched | set(ABOUT) == set(Recipe.model_fields)  # a new field must be put on one side


def test_a_change_of_any_field_is_seen_in_what_a_record_holds(write_recipe):
    recipe = load(write_recipe(BASE))
    assert recipes.changed_since(recipe, recipe.resolved()) == []
    for fields in DIFFERENT:
        other = load(write_recipe(changed(**fields)))
        assert recipes.changed_since(other, recipe.resolved()), fields
        assert recipes.changed_since(recipe, other.resolved()), fields
    for field in ABOUT:
        assert recipes.changed_since(recipe, {**recipe.resolved(), field: "anything"}) == []


def test_a_changed_default_makes_a_record_stale_and_a_new_field_does_not(write_recipe, monkeypatch):
    recipe = load(write_recipe(BASE))
    record = recipe.resolved()
    older = {key: value for key, value in record.items() if key != "label_smoothing"}
    older["optimizer"] = {key: value for key, value in record["optimizer"].items() if key != "eps"}
    assert recipes.changed_since(recipe, older) == []  # made before these two fields were there
    monkeypatch.setattr(Recipe.model_fields["label_smoothing"], "default", 0.1)
    changed_default = recipe.model_copy(update={"label_smoothing": 0.1})
    assert recipes.changed_since(changed_default, record) == ["label_smoothing"]
    assert recipes.changed_since(recipe, {**record, "optimizer": {**record["optimizer"], "eps": 1e-5}}) == ["optimizer.eps"]


def test_the_hash_stays_the_same_over_time():
    """Records carry it: a change of these makes every record stale, so it must be meant."""
    assert {
        name: load(name).hash()[:12] for name in ("s4-lenet5", "s4-lenet5-real", "s3-mlp", "s3-mlp-real")
    } == {
        "s4-lenet5": "86360d3ceb06",
        "s4-lenet5-real": "e491bc14524a",
        "s3-mlp": "db6146214abb",
        "s3-mlp-real": "9281dc34532f",
    }
