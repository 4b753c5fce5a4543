"""Recipes: one YAML file a family, validated, and resolved from what they extend.

A recipe states what is trained, on what, and how; ``python -m bnnlib.train NAME`` needs nothing else. A
recipe that ``extends`` another states only what differs, and so do the ``variants`` of a family file, each
under its own name. An ``abstract`` file states what its variants share and is no recipe itself. A field that is unknown, of the wrong type or
impossible is a :class:`RecipeError` that names file, field and what is allowed.
"""

from bnnlib.recipes.changes import changed_since, differences
from bnnlib.recipes.files import FOLDER, check_names, file_of, load, names
from bnnlib.recipes.schema import ABOUT, PROFILES, Model, Recipe, RecipeError, Schedule
from bnnlib.recipes.values import parse_value

__all__ = [
    "ABOUT", "FOLDER", "PROFILES", "Model", "Recipe", "RecipeError", "Schedule", "changed_since", "check_names", "differences", "file_of",
    "load", "names", "parse_value",
]  # fmt: skip
