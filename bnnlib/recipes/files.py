"""Where recipes are stated: the family files of the library, their variants, and what they extend."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from bnnlib.recipes import values
from bnnlib.recipes.schema import Recipe, RecipeError

FOLDER = Path(__file__).parent
LARGEST = 64 << 10  # bytes of a recipe; the longest of ours has a thirtieth


def names() -> list[str]:
    """The names of the recipes that come with the library."""
    return sorted(_shipped())


def check_names(names: Collection[str]) -> None:
    """Raises :class:`RecipeError` for the first of ``names`` that no recipe of the library has."""
    shipped = _shipped()
    for name in names:
        _named(name, shipped)


def file_of(name: str) -> Path:
    """The family file that states the recipe ``name`` of the library. Raises :class:`RecipeError` for an unknown name."""
    return _find(name).path


def load(name: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Load a recipe by name (``"s4-lenet5"``) or path; ``"file.yaml:name"`` is a variant that the file states.
    ``overrides`` maps dotted fields to values, as ``--set`` does.

    Raises :class:`RecipeError` for a misspelt name, a broken file, and any field that is unknown, of the
    wrong type or impossible.
    """
    source = _find(name)
    fields = _read(source, ())
    for dotted, value in (overrides or {}).items():
        _set(fields, dotted, value)
    _check_name(fields, source)
    fields["name"] = source.name
    where = f"{source} with {overrides}" if overrides else str(source)
    try:  # through JSON, whose strict mode takes lists for tuples but neither "60" nor true for a number
        return Recipe.model_validate_json(json.dumps(fields, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(f"recipe {where}: " + "; ".join(_explain(e) for e in error.errors())) from None


class _Source(NamedTuple):
    """Where a recipe is stated: a file, and the variant in it, or None for the file's own fields."""

    path: Path
    variant: str | None = None

    @property
    def name(self) -> str:
        return self.variant or self.path.stem

    def __str__(self) -> str:
        return f"{self.path.name}:{self.variant}" if self.variant else self.path.name


def _shipped() -> dict[str, _Source]:
    """Where each recipe of the library is stated, by name."""
    found: dict[str, _Source] = {}
    for path in sorted(FOLDER.rglob("*.yaml")):
        fields = _parse(path)
        here = [] if fields.get("abstract") else [_Source(path)]
        for source in here + [_Source(path, variant) for variant in _variants(fields, path)]:
            if source.name in found:
                raise RecipeError(f"two recipes are named {source.name}: {found[source.name]} and {source}")
            found[source.name] = source
    return found


def _named(name: str, shipped: dict[str, _Source]) -> _Source:
    if name in shipped:
        return shipped[name]
    close = difflib.get_close_matches(str(name), shipped, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`bnn recipes` lists all"
    raise RecipeError(f"no recipe {str(name)!r}; {hint} (a file's path must end in .yaml)")


def _find(name: str | Path) -> _Source:
    file, colon, variant = str(name).rpartition(":")
    if not colon or not file.endswith((".yaml", ".yml")):
        file, variant = str(name), ""
    if file.endswith((".yaml", ".yml")):
        path = Path(file)
        if not path.is_file():
            raise RecipeError(f"no recipe file {path}; `bnn recipes` lists those that come with the library")
        if variant and variant not in _variants(_parse(path), path):
            stated = ", ".join(_variants(_parse(path), path)) or "none"
            raise RecipeError(f"recipe {path.name} has no variant {variant!r}; it has {stated}")
        return _Source(path, variant or None)
    return _named(str(name), _shipped())


_files: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}


def _parse(path: Path) -> dict[str, Any]:
    """The fields of a file, as they are written; not to be changed. A file is read again where it has changed."""
    try:
        about = path.stat()
        stamp = about.st_mtime_ns, about.st_size
        if path in _files and _files[path][0] == stamp:
            return _files[path][1]
        with open(path, "rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror}") from None
    if len(text) > LARGEST:
        raise RecipeError(f"recipe {path} has more than {LARGEST} bytes: it is none")
    try:
        fields = values.parse(text.decode("utf-8"))
    except ValueError as error:
        raise RecipeError(f"recipe {path.name} is not YAML: {error}") from None
    if not isinstance(fields, dict):
        raise RecipeError(f"recipe {path.name} must be a mapping of fields, is {type(fields).__name__}")
    _files[path] = stamp, fields
    return fields


def _variants(fields: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    variants = fields.get("variants")
    if variants is None:
        return {}
    if not isinstance(variants, dict) or not all(isinstance(v, dict) for v in variants.values()):
        raise RecipeError(
            f"recipe {path.name}: field 'variants' must map names to the fields in which each differs"
        )
    return variants


def _read(source: _Source, seen: tuple[_Source, ...], base: bool = False) -> dict[str, Any]:
    """The fields of a recipe, those of what it extends under them. ``base``: as the base of a variant, for which an
    abstract file will do."""
    resolved = source._replace(path=source.path.resolve())
    if resolved in seen:
        raise RecipeError(f"recipe {source} extends itself: {' -> '.join(s.name for s in (*seen, resolved))}")
    seen = (*seen, resolved)
    fields = dict(_parse(source.path))
    variants, abstract = _variants(fields, source.path), fields.pop("abstract", False)
    fields.pop("variants", None)
    if source.variant is None and abstract and not base:
        raise RecipeError(f"recipe {source} is abstract; choose one of its variants: {', '.join(variants)}")
    if source.variant is not None:
        fields = dict(variants[source.variant])
    _check_name(fields, source)
    fields.pop("name", None)
    parent = fields.pop("extends", None)
    if parent is None and source.variant is None:
        return fields
    above = _Source(source.path) if parent is None else _parent(source, parent)
    inherited = _read(above, seen, base=parent is None)
    inherited.pop("shortens", None)  # what shortens another is no schedule of what is derived from it
    if above.path != source.path:
        inherited.pop("factors", None)  # an ablation's cells are told apart within a family
    return _merge(inherited, fields)


def _parent(source: _Source, parent: Any) -> _Source:
    """What ``extends`` names: a variant of the same file or the file itself, a file beside it, or a recipe of the
    library."""
    inside = _variants(_parse(source.path), source.path)
    if source.variant is not None and parent in inside:
        return _Source(source.path, parent)
    if source.variant is not None and parent == source.path.stem:
        return _Source(source.path)
    beside = [source.path.parent / f"{parent}.yaml", source.path.parent / str(parent)]
    try:
        path = next((p for p in beside if p.is_file()), None)
        return _Source(path) if path else _find(str(parent))
    except (RecipeError, OSError, ValueError) as error:  # the latter two: a name that no file can have
        raise RecipeError(f"recipe {source} extends {parent!r}: {error}") from None


def _check_name(fields: dict[str, Any], source: _Source) -> None:
    if fields.get("name", source.name) != source.name:
        what = "variant" if source.variant else "file"
        raise RecipeError(
            f"recipe {source}: field 'name' = {fields['name']!r}: a recipe is named as its {what} is, rename the {what} instead"
        )


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mappings field by field; a mapping whose own ``name`` changes
    is replaced whole."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        keep = (
            isinstance(value, dict)
            and isinstance(old, dict)
            and value.get("name", old.get("name")) == old.get("name")
        )
        merged[key] = _merge(old, value) if keep else value
    return merged


def _set(fields: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = fields.get(parent)
        inner = dict(inner) if isinstance(inner, dict) else {}
        fields[parent] = inner
        fields = inner
    fields[last] = value


def _explain(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) if error["loc"] else "recipe"
    if error["type"] == "extra_forbidden":
        allowed = _fields_of(error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown field {where!r}: {hint}allowed are {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"field {where!r} is missing"
    if error["type"] == "model_type":
        inside = ", ".join(f"{where}.{name}" for name in _fields_of(error["loc"]))
        return f"field {where!r} = {error['input']!r}: it has fields of its own, set them one by one: {inside}"
    return f"field {where!r} = {error['input']!r}: {error['msg']}"


def _fields_of(loc: tuple[int | str, ...]) -> list[str]:
    """The fields that stand at ``loc`` in a recipe."""
    kind: Any = Recipe
    for part in loc:
        annotation = kind.model_fields[part].annotation
        found = (annotation, *getattr(annotation, "__args__", ()))
        kind = next((t for t in found if isinstance(t, type) and issubclass(t, BaseModel)), Recipe)
    return list(kind.model_fields)
