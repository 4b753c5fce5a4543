"""Recipes: what ships loads, what is wrong is named, what is inherited is what the parent says."""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from bnnlib import models, recipes
from bnnlib.recipes import ABOUT, Recipe, RecipeError, files, load, parse_value

BASE = {
    "title": "A net",
    "source": "ours",
    "dataset": "digits",
    "epochs": 3,
    "model": {"name": "lenet5", "act": "prelu"},
    "optimizer": {"name": "adam", "lr": 0.01},
}


@pytest.fixture
def write(tmp_path):
    """Write a recipe file: a mapping, or text as it is."""

    def write(content, name="mine.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def changed(**fields):
    return {**BASE, **fields}


# ---- what ships --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_loads_and_builds(name):
    recipe = load(name)
    assert recipe.name == name
    assert models.build(recipe.model.name, **recipe.model.options)
    assert Recipe.model_validate_json(json.dumps(recipe.resolved())) == recipe  # as a record keeps it
    head = (
        name.split("-")[0]
        if name.split("-")[0] in ("s1", "s2", "s3", "s4", "s5", "ours")
        else name.split("-")[1]
    )
    assert head == recipe.source.lower()  # the source's id comes first, or right after a data set
    quick = recipe.for_profile("quick")
    assert (quick.epochs, quick.compile, quick.precision) == (recipe.quick.epochs, False, "32-true")
    assert recipe.for_profile("full") is recipe


def test_the_four_recipes_of_s4_and_s3_say_what_the_sources_say():
    lenet, real, mlp, mlp_real = map(load, ("s4-lenet5", "s4-lenet5-real", "s3-mlp", "s3-mlp-real"))
    assert (lenet.epochs, lenet.batch_size, lenet.seeds, lenet.dataset, lenet.input, lenet.augment) == (
        60,
        128,
        5,
        "mnist",
        "normalized",
        None,
    )
    assert (lenet.optimizer.name, lenet.optimizer.lr, lenet.optimizer.weight_decay) == ("adam", 0.01, 1e-5)
    assert (lenet.schedule.name, lenet.schedule.every, lenet.schedule.gamma) == ("step", 15, 0.1)
    assert (lenet.published.top1, real.published.top1, lenet.published.epoch) == (
        99.23,
        99.34,
        "best-on-test",
    )
    assert (mlp.epochs, mlp.batch_size, mlp.seeds, mlp.input, mlp.stop_epoch_below_loss) == (
        5,
        100,
        3,
        "unit",
        0.009,
    )
    assert (mlp.optimizer.name, mlp.optimizer.lr, mlp.optimizer.weight_decay, mlp.published.top1) == (
        "adam",
        0.004,
        0,
        None,
    )
    for binary, twin in ((lenet, real), (mlp, mlp_real)):
        differing = {k for k, v in binary.resolved().items() if twin.resolved()[k] != v}
        assert differing - {"name", "title", "published"} == {"model"}
        assert twin.model.name == f"{binary.model.name}-real"


# ---- inheritance -------------------------------------------------------------------------------------------


def test_a_child_states_only_what_differs(write):
    write(
        {**BASE, "optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 1e-5}, "augment": {"crop": 2}},
        "base.yaml",
    )
    child = load(write({"extends": "base", "title": "Child", "optimizer": {"lr": 0.5}}, "child.yaml"))
    assert (child.name, child.title) == ("child", "Child")
    assert (child.optimizer.lr, child.optimizer.weight_decay) == (0.5, 1e-5)  # merged field by field
    assert (child.augment.crop, child.epochs) == (2, 3)
    bare = load(write({"extends": "child", "augment": None}, "grandchild.yaml"))
    assert bare.augment is None
    assert bare.optimizer == child.optimizer


def test_another_model_brings_its_own_options(write):
    """A mapping whose name changes is replaced whole: options of one model mean nothing to another."""
    write({**BASE, "schedule": {"name": "step", "every": 2}}, "base.yaml")
    child = load(
        write({"extends": "base", "model": {"name": "mlp"}, "schedule": {"name": "cosine"}}, "child.yaml")
    )
    assert (child.model.name, child.model.options) == ("mlp", {})
    assert child.schedule.every is None
    same = load(write({"extends": "base", "model": {"name": "lenet5", "classes": 7}}, "same.yaml"))
    assert same.model.options == {"act": "prelu", "classes": 7}


def test_the_parent_is_not_changed_by_its_child(write):
    base = write(BASE, "base.yaml")
    before = load(base)
    load(
        write({"extends": "base", "model": {"classes": 7}, "optimizer": {"lr": 1}}, "child.yaml"),
        {"optimizer.eps": 1.0},
    )
    assert load(base) == before


def test_parents_are_found_beside_the_file_then_among_the_shipped(write, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(BASE, "folder/base.yaml")
    assert load(write({"extends": "base"}, "folder/a.yaml")).epochs == 3
    assert (
        load(write({"extends": "base.yaml"}, "folder/b.yaml")).epochs == 3
    )  # relative to the file, not to where one stands
    assert load(write({"extends": "folder/base.yaml"}, "c.yaml")).epochs == 3
    assert load(write({"extends": "s4-lenet5", "epochs": 2}, "d.yaml")).optimizer.weight_decay == 1e-5
    # a file of the same name as a shipped recipe, further up a chain that ends there
    write({"extends": "s4-lenet5-real"}, "middle.yaml")
    assert load(write({"extends": "middle", "epochs": 1}, "s4-lenet5.yaml")).model.name == "lenet5-real"


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_cycle_is_named(write, chain):
    for name, parent in zip(chain, [*chain[1:], chain[0]], strict=True):
        path = write({**BASE, "extends": parent}, f"{name}.yaml")
    with pytest.raises(
        RecipeError, match=re.escape(f"extends itself: {' -> '.join([chain[-1], *chain[:-1], chain[-1]])}")
    ):
        load(path)


def test_a_missing_parent_names_the_child(write):
    path = write({"extends": "s4-lenet", "epochs": 2})
    with pytest.raises(
        RecipeError, match="recipe mine.yaml extends 's4-lenet': no recipe 's4-lenet'; did you mean s4-lenet5"
    ):
        load(path)


# ---- what is wrong is named --------------------------------------------------------------------------------

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
def test_a_bad_field_is_named_with_file_and_what_is_allowed(write, fields, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load(write(changed(**fields)))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("field", ["title", "source", "dataset", "model", "epochs", "optimizer"])
def test_a_missing_field_is_named(write, field):
    fields = {k: v for k, v in BASE.items() if k != field}
    with pytest.raises(RecipeError, match=f"recipe mine.yaml: field '{field}' is missing"):
        load(write(fields))


def test_all_faults_are_told_at_once(write):
    with pytest.raises(RecipeError) as caught:
        load(write(changed(epochs=-1, batch_size=0, colour=1)))
    assert all(
        text in str(caught.value) for text in ("'epochs' = -1", "'batch_size' = 0", "unknown field 'colour'")
    )


BROKEN = [
    ("title: [1, 2", "is not YAML"),
    ("title: a\n\tepochs: 3", "is not YAML"),
    ("title: a\nepochs: 3\ntitle: b\n", "field 'title' is given twice"),
    ("title: a\noptimizer: {lr: 1, lr: 2}\n", "field 'lr' is given twice"),
    ("", "must be a mapping of fields, is NoneType"),
    ("- a\n- b\n", "must be a mapping of fields, is list"),
    ("just words", "must be a mapping of fields, is str"),
    ("[a]: 1\n", "a field's name must be text, is ['a']"),
    ("{a: b}: 1\n", "a field's name must be text, is {'a': 'b'}"),
    ("on: 1\n", "a field's name must be text, is True"),
    ("title: 2020-13-45\n", "is not YAML"),
    ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "takes no aliases"),
    ("a: &a [*a]\n", "takes no aliases"),
    ("base: &b {a: 1}\nmore: {<<: *b}\n", "takes no aliases"),
    ("title: " + "[" * 5000, "nested too deeply"),
    ("title: " + "{a: " * 5000, "nested too deeply"),
    ("title: !!bool perhaps\n", "is not YAML"),
    ("title: !!timestamp noon\n", "is not YAML"),
    ("title: !!int ''\n", "is not YAML"),
    ('title: "\\ud800"\n', "is not YAML"),
    ("title: " + "x" * 70_000, "more than 65536 bytes"),
    ("extends: " + "x" * 5000, "extends 'xxx"),
    ('extends: "a\\0b"', "extends 'a"),
    ("title: !!python/object:os.system x\n", "is not YAML"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[repr(t)[:60] for t, _ in BROKEN])
def test_broken_files_are_named(write, text, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load(write(text))
    assert "mine.yaml" in str(caught.value)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(RecipeError, match="recipe binary.yaml is not YAML"):
        load(path)


def test_misspelt_and_missing_recipes():
    with pytest.raises(RecipeError, match=re.escape("no recipe 's4-lenet'; did you mean s4-lenet5")):
        load("s4-lenet")
    with pytest.raises(
        RecipeError, match="no recipe 'qqq'; `bnn recipes` lists all"
    ):  # nothing close: all of them
        load("qqq")
    with pytest.raises(RecipeError, match="no recipe file nowhere.yaml"):
        load("nowhere.yaml")
    with pytest.raises(RecipeError, match="no recipe file"):
        load(Path("also/nowhere.yml"))


def test_names_are_file_names_in_lower_case(write):
    with pytest.raises(RecipeError, match="field 'name' = 'My Net'"):
        load(write(BASE, "My Net.yaml"))
    assert load(write({**BASE, "name": "mine"})).name == "mine"  # as a record's resolved recipe has it


def test_unknown_profile():
    with pytest.raises(RecipeError, match="unknown profile 'fast': choose full, demo or quick"):
        load("s4-lenet5").for_profile("fast")


def test_quick_changes_what_it_states_alone(write):
    recipe = load(write(changed(batch_size=64, compile=True, quick={"epochs": 2, "batch_size": 8})))
    assert recipe.for_profile("quick") == recipe.model_copy(
        update={"epochs": 2, "batch_size": 8, "compile": False}
    )
    assert load(write(changed(batch_size=64))).for_profile("quick").batch_size == 64


# ---- overrides ---------------------------------------------------------------------------------------------

VALUES = [
    ("1e-5", 1e-5),
    ("1E5", 1e5),
    ("-2e+3", -2000.0),
    ("1.5e-3", 0.0015),
    ("3", 3),
    ("0.1", 0.1),
    ("true", True),
    ("null", None),
    ("adam", "adam"),
    ("[0.9, 1e-1]", [0.9, 0.1]),
    ("{scale: learned, x: 1e-5}", {"scale": "learned", "x": 1e-5}),
    ("''", ""),
    ("1e", "1e"),
    ("e5", "e5"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_values_of_set(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1", "{a", "a: b: c", "'open"])
def test_a_value_that_is_no_yaml(text):
    with pytest.raises(RecipeError, match="value .* is not YAML") as caught:
        parse_value(text)
    assert repr(text) in str(caught.value)


def test_overrides(write):
    path = write(BASE)
    recipe = load(
        path,
        {
            "epochs": 7,
            "optimizer.lr": 1e-5,
            "augment.affine.degrees": 5.0,
            "model.layer.scale": "learned",
            "optimizer.betas": (0.5, 0.6),
        },
    )
    assert (recipe.epochs, recipe.optimizer.lr, recipe.optimizer.name, recipe.optimizer.betas) == (
        7,
        1e-5,
        "adam",
        (0.5, 0.6),
    )
    assert recipe.augment.affine.degrees == 5
    assert recipe.model.options == {"act": "prelu", "layer": {"scale": "learned"}}
    for dotted, value, message in (
        ("optimizer.rate", 1, "unknown field 'optimizer.rate'"),
        ("epochs", -1, "'epochs' = -1"),
        ("epochs.x", 1, "'epochs'"),
        ("extends", "s4-lenet5", "unknown field 'extends'"),
        ("name", "b", "'name' = 'b'"),
        ("", 1, "unknown field ''"),
    ):
        with pytest.raises(RecipeError, match=re.escape(message)):
            load(path, {dotted: value})


def test_an_override_that_fails_is_told_apart_from_the_file(write):
    with pytest.raises(RecipeError, match=re.escape("recipe mine.yaml with {'epochs': -1}: field 'epochs'")):
        load(write(BASE), {"epochs": -1})


# ---- the hash ----------------------------------------------------------------------------------------------


def test_the_hash_leaves_out_what_does_not_change_a_run(write):
    reference = load(write(BASE)).hash()
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
        assert load(write(changed(**fields))).hash() == reference, fields
    assert load(write(BASE, "other.yaml")).hash() == reference
    assert (
        load(write({"extends": "mine"}, "child.yaml")).hash() == reference
    )  # inherited or stated, it is the same run
    write(dict(reversed(BASE.items())))
    assert load(write(dict(reversed(BASE.items())))).hash() == reference


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


def test_the_hash_changes_with_everything_else(write):
    hashes = {load(write(changed(**fields))).hash() for fields in ({}, *DIFFERENT)}
    assert len(hashes) == len(DIFFERENT) + 1
    touched = {next(iter(fields)) for fields in DIFFERENT}
    assert touched | set(ABOUT) == set(Recipe.model_fields)  # a new field must be put on one side


def test_a_change_of_any_field_is_seen_in_what_a_record_holds(write):
    recipe = load(write(BASE))
    assert recipes.changed_since(recipe, recipe.resolved()) == []
    for fields in DIFFERENT:
        other = load(write(changed(**fields)))
        assert recipes.changed_since(other, recipe.resolved()), fields
        assert recipes.changed_since(recipe, other.resolved()), fields
    for field in ABOUT:
        assert recipes.changed_since(recipe, {**recipe.resolved(), field: "anything"}) == []


def test_a_changed_default_makes_a_record_stale_and_a_new_field_does_not(write, monkeypatch):
    recipe = load(write(BASE))
    record = recipe.resolved()
    older = {key: value for key, value in record.items() if key != "label_smoothing"}
    older["optimizer"] = {key: value for key, value in record["optimizer"].items() if key != "eps"}
    assert recipes.changed_since(recipe, older) == []  # made before these two fields were there
    monkeypatch.setattr(Recipe.model_fields["label_smoothing"], "default", 0.1)
    changed_default = recipe.model_copy(update={"label_smoothing": 0.1})
    assert recipes.changed_since(changed_default, record) == ["label_smoothing"]
    assert recipes.changed_since(recipe, {**record, "optimizer": {**record["optimizer"], "eps": 1e-5}}) == ["optimizer.eps"]


def test_defaults_of_the_nets_are_those_that_the_records_were_made_with():
    """A record holds the options that its recipe states, not the builder's defaults: a default that changes must be
    stated in the recipes that have records, and then here."""
    found = {
        name: {
            parameter.name: parameter.default
            for parameter in inspect.signature(build).parameters.values()
            if parameter.default is not inspect.Parameter.empty
        }
        for name, build in models.BUILDERS.items()
    }
    expected = json.loads((Path(__file__).parent / "builder_defaults.json").read_text())
    assert json.loads(json.dumps(found)) == expected


def test_the_quick_profile_keeps_what_was_asked_for(write):
    recipe = load(write({**BASE, "precision": "bf16-mixed", "compile": True, "quick": {"batch_size": 8}}))
    quick = recipe.for_profile("quick")
    assert (quick.epochs, quick.precision, quick.compile, quick.batch_size) == (1, "32-true", False, 8)
    asked = recipe.for_profile("quick", keep={"epochs", "precision", "compile", "batch_size"})
    assert asked == recipe


def test_the_demo_profile_is_the_recipe_made_smaller(write):
    fields = {
        **BASE, "epochs": 319, "precision": "bf16-mixed", "compile": True, "model": {"name": "nin"},
        "schedule": {"name": "step", "milestones": [120, 200, 240, 280], "warmup_epochs": 31.9},
        "demo": {"epochs": 10, "model": {"width": 48}, "batch_size": 64},
    }  # fmt: skip
    recipe = load(write(fields))
    demo = recipe.for_profile("demo")
    assert (demo.epochs, demo.batch_size, demo.precision, demo.compile) == (10, 64, "32-true", False)
    assert demo.model.options == {"width": 48} and recipe.model.options == {}
    assert demo.schedule.milestones == (4, 6, 8, 9) and demo.schedule.warmup_epochs == pytest.approx(1)
    assert demo.hash() != recipe.hash()
    asked = recipe.for_profile("demo", keep={"model.width", "schedule.milestones"})
    assert asked.model == recipe.model and asked.schedule == recipe.schedule
    every = load(write({**fields, "epochs": 60, "schedule": {"name": "step", "every": 15}})).for_profile("demo")
    assert every.schedule.every == 2


@pytest.mark.parametrize("name", recipes.names())
def test_the_demo_profile_of_every_recipe_is_a_net_that_can_be_built(name):
    demo = load(name).for_profile("demo")
    with torch.device("meta"):
        models.build(demo.model.name, **demo.model.options)
    assert demo.epochs > demo.schedule.warmup_epochs
    if demo.dataset in ("cifar10", "tiny-imagenet"):
        assert load(name).demo.train <= 5000, "minutes"


def test_a_family_states_variants_and_what_they_share(write):
    path = write(
        {
            **BASE,
            "variants": {
                "mine-short": {"epochs": 1, "shortens": "mine", "factors": {"length": "short"}},
                "mine-shortest": {"extends": "mine-short", "title": "Shortest", "optimizer": {"lr": 0.5}},
            },
        }
    )
    base, short, shortest = load(path), load(f"{path}:mine-short"), load(f"{path}:mine-shortest")
    assert (base.name, base.epochs) == ("mine", BASE["epochs"])
    assert (short.name, short.epochs, short.shortens, short.factors) == ("mine-short", 1, "mine", {"length": "short"})
    assert (shortest.title, shortest.epochs, shortest.optimizer.lr) == ("Shortest", 1, 0.5)
    assert shortest.shortens is None and shortest.factors == {"length": "short"}
    with pytest.raises(RecipeError, match="has no variant 'mine-long'; it has mine-short, mine-shortest"):
        load(f"{path}:mine-long")


def test_an_abstract_family_is_no_recipe(write):
    fields = {**BASE, "abstract": True, "variants": {"one": {"epochs": 1}}}
    path = write(fields)
    assert load(f"{path}:one").epochs == 1
    with pytest.raises(RecipeError, match="mine.yaml is abstract; choose one of its variants: one"):
        load(path)


@pytest.mark.parametrize("variants", [["a"], {"a": 3}, "a", {"a": None}], ids=str)
def test_variants_must_map_names_to_fields(write, variants):
    with pytest.raises(RecipeError, match="field 'variants' must map names to the fields"):
        load(write({**BASE, "variants": variants}))


def test_variants_that_extend_each_other_are_refused(write):
    path = write({**BASE, "variants": {"a": {"extends": "b"}, "b": {"extends": "a"}}})
    with pytest.raises(RecipeError, match="extends itself"):
        load(f"{path}:a")


def test_every_recipe_of_the_library_has_one_name(tmp_path, monkeypatch, write):
    folder = write({**BASE, "variants": {"other": {}}}).parent
    write(BASE, "other.yaml")
    monkeypatch.setattr(files, "FOLDER", folder)
    with pytest.raises(RecipeError, match="two recipes are named other"):
        recipes.names()


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


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load("s4-lenet5").epochs = 3
