"""What changed in a recipe since a run of it was recorded."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from bnnlib.recipes.schema import ABOUT, Recipe


def changed_since(recipe: Recipe, resolved: dict[str, Any]) -> list[str]:
    """The fields, dotted, in which a run made by ``resolved`` (a record's) differs from one made by ``recipe`` now.
    A field that did not exist then counts as left at its default: so a new field must do nothing by default."""
    return [name for name, _, _ in differences(recipe, resolved)]


def differences(recipe: Recipe, resolved: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """:func:`changed_since`, each field with its value then and its value now."""
    return _differences(recipe.resolved(), resolved, recipe, ())


def _differences(now: Any, then: Any, schema: Any, at: tuple[str, ...]) -> list[tuple[str, Any, Any]]:
    if isinstance(now, dict) and isinstance(then, dict):
        known = type(schema).model_fields if isinstance(schema, BaseModel) else {}
        found = []
        for key in sorted({*now, *then} - (set(ABOUT) if not at else set())):
            if key not in then and key in known and not known[key].is_required():
                default = known[key].get_default(call_default_factory=True)
                before = default.model_dump(mode="json") if isinstance(default, BaseModel) else default
                before = json.loads(json.dumps(before))
            else:
                before = then.get(key)
            found += _differences(now.get(key), before, getattr(schema, key, None), (*at, key))
        return found
    return [] if now == then else [(".".join(at), then, now)]
