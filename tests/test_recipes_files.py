"""Recipes as files: what is inherited is what the parent says, families and their variants, broken files."""

import re
from pathlib import Path

import pytest
from recipe_fields import BASE

from bnnlib import recipes
from bnnlib.recipes import RecipeError, files, load


def test_a_child_states_only_what_differs(write_recipe):
    write_recipe(
        {**BASE, "optimizer": {"name": "adam", "lr": 0.01, "weight_decay": 1e-5}, "augment": {"crop": 2}},
        "base.yaml",
    )
    child = load(write_recipe({"extends": "base", "title": "Child", "optimizer": {"lr": 0.5}}, "child.yaml"))
    assert (child.name, child.title) == ("child", "Child")
    assert (child.optimizer.lr, child.optimizer.weight_decay) == (0.5, 1e-5)  # merged field by field
    assert (child.augment.crop, child.epochs) == (2, 3)
    bare = load(write_recipe({"extends": "child", "augment": None}, "grandchild.yaml"))
    assert bare.augment is None
    assert bare.optimizer == child.optimizer


def test_another_model_brings_its_own_options(write_recipe):
    """A mapping whose name changes is replaced whole: options of one model mean nothing to another."""
    write_recipe({**BASE, "schedule": {"name": "step", "every": 2}}, "base.yaml")
    child = load(
        write_recipe({"extends": "base", "model": {"name": "mlp"}, "schedule": {"name": "cosine"}}, "child.yaml")
    )
    assert (child.model.name, child.model.options) == ("mlp", {})
    assert child.schedule.every is None
    same = load(write_recipe({"extends": "base", "model": {"name": "lenet5", "classes": 7}}, "same.yaml"))
    assert same.model.options == {"act": "prelu", "classes": 7}


def test_the_parent_is_not_changed_by_its_child(write_recipe):
    base = write_recipe(BASE, "base.yaml")
    before = load(base)
    load(
        write_recipe({"extends": "base", "model": {"classes": 7}, "optimizer": {"lr": 1}}, "child.yaml"),
        {"optimizer.eps": 1.0},
    )
    assert load(base) == before


def test_parents_are_found_beside_the_file_then_among_the_shipped(write_recipe, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_recipe(BASE, "folder/base.yaml")
    assert load(write_recipe({"extends": "base"}, "folder/a.yaml")).epochs == 3
    assert (
        load(write_recipe({"extends": "base.yaml"}, "folder/b.yaml")).epochs == 3
    )  # relative to the file, not to where one stands
    assert load(write_recipe({"extends": "folder/base.yaml"}, "c.yaml")).epochs == 3
    assert load(write_recipe({"extends": "s4-lenet5", "epochs": 2}, "d.yaml")).optimizer.weight_decay == 1e-5
    # a file of the same name as a shipped recipe, further up a chain that ends there
    write_recipe({"extends": "s4-lenet5-real"}, "middle.yaml")
    assert load(write_recipe({"extends": "middle", "epochs": 1}, "s4-lenet5.yaml")).model.name == "lenet5-real"


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_cycle_is_named(write_recipe, chain):
    for name, parent in zip(chain, [*chain[1:], chain[0]], strict=True):
        path = write_recipe({**BASE, "extends": parent}, f"{name}.yaml")
    with pytest.raises(
        RecipeError, match=re.escape(f"extends itself: {' -> '.join([chain[-1], *chain[:-1], chain[-1]])}")
    ):
        load(path)


def test_a_missing_parent_names_the_child(write_recipe):
    path = write_recipe({"extends": "s4-lenet", "epochs": 2})
    with pytest.raises(
        RecipeError, match="recipe mine.yaml extends 's4-lenet': no recipe 's4-lenet'; did you mean s4-lenet5"
    ):
        load(path)


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
def test_broken_files_are_named(write_recipe, text, message):
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load(write_recipe(text))
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


def test_names_are_file_names_in_lower_case(write_recipe):
    with pytest.raises(RecipeError, match="field 'name' = 'My Net'"):
        load(write_recipe(BASE, "My Net.yaml"))
    assert load(write_recipe({**BASE, "name": "mine"})).name == "mine"  # as a record's resolved recipe has it


def test_overrides(write_recipe):
    path = write_recipe(BASE)
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


def test_an_override_that_fails_is_told_apart_from_the_file(write_recipe):
    with pytest.raises(RecipeError, match=re.escape("recipe mine.yaml with {'epochs': -1}: field 'epochs'")):
        load(write_recipe(BASE), {"epochs": -1})


def test_a_family_states_variants_and_what_they_share(write_recipe):
    path = write_recipe(
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


def test_an_abstract_family_is_no_recipe(write_recipe):
    fields = {**BASE, "abstract": True, "variants": {"one": {"epochs": 1}}}
    path = write_recipe(fields)
    assert load(f"{path}:one").epochs == 1
    with pytest.raises(RecipeError, match="mine.yaml is abstract; choose one of its variants: one"):
        load(path)


@pytest.mark.parametrize("variants", [["a"], {"a": 3}, "a", {"a": None}], ids=str)
def test_variants_must_map_names_to_fields(write_recipe, variants):
    with pytest.raises(RecipeError, match="field 'variants' must map names to the fields"):
        load(write_recipe({**BASE, "variants": variants}))


def test_variants_that_extend_each_other_are_refused(write_recipe):
    path = write_recipe({**BASE, "variants": {"a": {"extends": "b"}, "b": {"extends": "a"}}})
    with pytest.raises(RecipeError, match="extends itself"):
        load(f"{path}:a")


def test_every_recipe_of_the_library_has_one_name(tmp_path, monkeypatch, write_recipe):
    folder = write_recipe({**BASE, "variants": {"other": {}}}).parent
    write_recipe(BASE, "other.yaml")
    monkeypatch.setattr(files, "FOLDER", folder)
    with pytest.raises(RecipeError, match="two recipes are named other"):
        recipes.names()
