"""The YAML of recipes: SafeLoader's types, numbers such as 1e-5, and neither aliases nor a key given twice."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from bnnlib.recipes.schema import RecipeError


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-5 as a number (YAML 1.1 wants 1.0e-5) and refuses a key given twice, and aliases, by
    which a few lines grow to billions, or hold themselves."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "a recipe takes no aliases (*name): extend another one", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a field's name must be text, is {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"field {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_FLOAT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).insert(0, ("tag:yaml.org,2002:float", _FLOAT))


def parse_value(text: str) -> Any:
    """A value of ``--set field=value``, read as a recipe's YAML is. Raises :class:`RecipeError` for text
    that is no YAML."""
    try:
        return parse(text)
    except ValueError as error:
        raise RecipeError(f"value {text!r:.200} is not YAML: {getattr(error.__cause__, 'problem', None) or error}") from None


def parse(text: str) -> Any:
    """What the YAML in ``text`` says. Raises ``ValueError`` for anything that is none, or that JSON cannot hold."""
    try:
        fields = yaml.load(text, Loader=_Loader)
        json.dumps(fields, default=str, ensure_ascii=False).encode()
        return fields
    except Exception as error:  # yaml's own, and what its constructors let through: !!bool x is a KeyError
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
        raise ValueError(what) from error
