"""Recipes: one YAML file a family, validated, and resolved from what they extend.

A recipe states what is trained, on what, and how; ``python -m bnnlib.train NAME`` needs nothing else. A
recipe that ``extends`` another states only what differs, and so do the ``variants`` of a family file, each
under its own name. An ``abstract`` file states what its variants share and is no recipe itself. A field that is unknown, of the wrong type or
impossible is a :class:`RecipeError` that names file, field and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FOLDER = Path(__file__).parent
LARGEST = 64 << 10  # bytes of a recipe; the longest of ours has a thirtieth


class RecipeError(ValueError):
    """A recipe that cannot be used, with the file, the field and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Model(BaseModel):
    """``name`` of a builder in :mod:`bnnlib.models`; every further field is an option of that builder."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Affine(_Strict):
    """Ranges of a random affine map; see :class:`bnnlib.data.Affine`."""

    degrees: float = Field(0.0, ge=0, le=180)
    scale: tuple[float, float] = Field((1.0, 1.0), description="low and high factor of size")
    translate: float = Field(0.0, ge=0, description="largest shift, pixels")
    shear: float = Field(0.0, ge=0, lt=90, description="largest shear, degrees")

    @field_validator("scale")
    @classmethod
    def _rising(cls, value):
        if not 0 < value[0] <= value[1]:
            raise ValueError("scale is (low, high) with 0 < low <= high")
        return value


class Augment(_Strict):
    """Batched augmentation on the device, see :class:`bnnlib.data.Augment`; or a view of images that are
    decoded as they are needed."""

    crop: int = Field(0, ge=0, description="random crop after padding by so many pixels")
    flip: bool = False
    cutout: int = Field(0, ge=0, description="side of a square set to black, in pixels")
    affine: Affine | None = None
    resized_crop: tuple[float, float] | None = Field(
        None, description="low and high share of the area that is scaled up to the whole image"
    )
    jitter: float = Field(
        0.0, ge=0, le=1, description="of brightness, contrast and saturation, each by 1 +- jitter"
    )
    view: Literal["s4", "s5"] | None = Field(
        None, description="a source's own for ImageNet, which has images of any size; see bnnlib.data.view"
    )

    @field_validator("resized_crop")
    @classmethod
    def _share(cls, value):
        if value is not None and not 0 < value[0] <= value[1] <= 1:
            raise ValueError("resized_crop is (low, high) with 0 < low <= high <= 1")
        return value

    @model_validator(mode="after")
    def _view_is_all(self):
        if self.view and self.model_dump(exclude_defaults=True).keys() != {"view"}:
            raise ValueError("view says all of the augmentation: leave the other fields out")
        return self


class Optimizer(_Strict):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD alone")
    nesterov: bool = False
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    no_decay: tuple[Literal["binary", "scale", "norm", "bias"], ...] = Field(
        (), description="parameter groups without weight decay"
    )


class Schedule(_Strict):
    name: Literal["constant", "step", "cosine", "cosine-restarts"] = "constant"
    warmup_epochs: float = Field(0, ge=0, description="linear from 0")
    milestones: tuple[int, ...] = Field(
        (), description="step: epochs after which the rate is multiplied by gamma"
    )
    every: int | None = Field(None, gt=0, description="step: a milestone every so many epochs")
    gamma: float = Field(0.1, gt=0, le=1)
    first_cycle: int = Field(1, gt=0, description="cosine-restarts: epochs of the first cycle")
    growth: int = Field(
        2, gt=0, description="cosine-restarts: each cycle is so many times as long as the one before"
    )

    @model_validator(mode="after")
    def _step_has_steps(self):
        if self.name == "step" and not self.milestones and self.every is None:
            raise ValueError("schedule 'step' needs milestones or every")
        if self.milestones and self.every is not None:
            raise ValueError(
                "schedule 'step' takes milestones or every, not both: set the one that a parent states to [] or null"
            )
        if any(b <= a for a, b in zip((0, *self.milestones), self.milestones, strict=False)):
            raise ValueError(f"milestones {self.milestones} must be positive and rising")
        return self


class Distill(_Strict):
    """Loss = (1 - mix) CE + mix T^2 KL(teacher || student at temperature T)."""

    teacher: str = Field(
        description="a recipe whose trained model is in results/models or the run folder, or the path of a saved model"
    )
    temperature: float = Field(3.0, gt=0)
    mix: float = Field(0.5, ge=0, le=1)


class Quick(_Strict):
    """What the quick profile changes: seconds on a CPU, never a published number."""

    epochs: int = Field(1, gt=0)
    train: int = Field(512, gt=0, description="training images")
    test: int = Field(256, gt=0, description="test images")
    batch_size: int | None = Field(None, gt=0)


class Demo(_Strict):
    """What the demo profile changes: a minute or two on two CPU cores, in which the net learns well above chance. The
    schedule is shortened with the epochs; the numbers are no result."""

    epochs: int = Field(8, gt=0)
    train: int = Field(10_000, gt=0, description="training images")
    test: int = Field(2_000, gt=0, description="test images")
    batch_size: int | None = Field(None, gt=0)
    model: dict[str, Any] = Field({}, description="options of a smaller net, such as its width")


class Published(_Strict):
    """The source's figures, top-1 and top-5 in per cent."""

    top1: float | None = Field(None, ge=0, le=100)
    top5: float | None = Field(None, ge=0, le=100)
    epoch: Literal["last", "best-on-test", "not stated"] = "last"
    note: str = ""
    doubt: str = Field("", description="why it is not certain that the figure is this net's")


class Cost(_Strict):
    """What a full run is expected to take. An estimate until there is a record."""

    hours: float = Field(gt=0)
    memory_gb: float = Field(gt=0, description="of the accelerator, GB")
    hardware: str


# Fields that say something about a recipe and change nothing in a run.
ABOUT = ("name", "title", "source", "published", "factors", "shortens", "seeds", "quick", "demo", "cost")

PROFILES = ("full", "demo", "quick")


class Recipe(_Strict):
    """One row of the scoreboard. ``hash()`` covers all that changes the run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    source: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$", description="whose system it is: S1 to S5, ours, ...")
    published: Published = Published()
    dataset: str
    input: Literal["normalized", "unit", "mean-subtracted", "gcn-zca"] = Field(
        "normalized",
        description="per-channel mean and deviation; 0..1; 0..255 less the mean; GCN and ZCA whitening",
    )
    validation: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training set held out to choose the best epoch; 0: best is of the test set",
    )
    augment: Augment | None = None
    model: Model
    init: Literal["default", "normal-0.05", "normal-fan-in", "kaiming-fan-out"] = "default"
    epochs: int = Field(gt=0)
    batch_size: int = Field(128, gt=0)
    accumulate: int = Field(1, gt=0, description="batches to one optimizer step")
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    distill: Distill | None = None
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of an exponential moving average of the weights that is evaluated instead; 0: none",
    )
    temperature: (
        Annotated[
            tuple[float, float],
            Field(description="start and end of the tanh estimator's temperature, geometric"),
        ]
        | None
    ) = None
    stop_epoch_below_loss: float | None = Field(
        None, gt=0, description="an epoch breaks off once a batch's loss is below this (S3)"
    )
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true"
    channels_last: bool = False
    compile: Literal[False, True, "gpu"] = Field(
        False, description="gpu: where a GPU trains alone"
    )
    diagnostics: bool = Field(
        False, description="record after every epoch what became of the signs; see bnnlib.training.diagnostics"
    )
    factors: dict[str, str] = Field(
        {}, description="of a recipe that is a cell of an ablation: each factor and its level"
    )
    shortens: str | None = Field(None, description="the recipe of which this one is a shorter schedule")
    seeds: int = Field(1, gt=0, description="seeds that `make reproduce` trains: 0 .. seeds-1")
    quick: Quick = Quick()
    demo: Demo = Demo()
    cost: Cost | None = None

    @field_validator("temperature")
    @classmethod
    def _positive(cls, value):
        if value is not None and min(value) <= 0:
            raise ValueError("temperatures must be > 0")
        return value

    def resolved(self) -> dict[str, Any]:
        """Every field, as JSON takes it."""
        return self.model_dump(mode="json")

    def hash(self) -> str:
        """SHA-256 over what changes a run: not the name, title, published figures, number of seeds, quick
        and demo profiles and cost. Fields left at their default are left out, so that a new field does not make every
        record stale."""
        fields = self.model_dump(
            mode="json",
            exclude_defaults=True,
            exclude=set(ABOUT),
        )
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def changed_since(self, resolved: dict[str, Any]) -> list[str]:
        """The fields, dotted, in which a run made by ``resolved`` (a record's) differs from one made by this recipe now.
        A field that did not exist then counts as left at its default: so a new field must do nothing by default."""
        return _differences(self.resolved(), resolved, self, ())

    def for_profile(self, profile: str, keep: Collection[str] = ()) -> Recipe:
        """The recipe as ``profile`` (one of :data:`PROFILES`) runs it; the fields ``keep``, which were asked for, stay."""
        if profile not in PROFILES:
            raise RecipeError(f"unknown profile {profile!r}: choose {', '.join(PROFILES[:-1])} or {PROFILES[-1]}")
        if profile == "full":
            return self
        short = self.quick if profile == "quick" else self.demo
        changes: dict[str, Any] = {"epochs": short.epochs, "compile": False, "precision": "32-true"}
        if short.batch_size:
            changes["batch_size"] = short.batch_size
        if profile == "demo":
            asked = {field.removeprefix("model.") for field in keep if field.startswith("model.")}
            smaller = {key: value for key, value in self.demo.model.items() if key not in asked}
            changes["model"] = Model(name=self.model.name, **{**self.model.options, **smaller})
            if not any(field.split(".")[0] in ("epochs", "schedule") for field in keep):
                changes["schedule"] = _shortened(self.schedule, short.epochs / self.epochs)
        return self.model_copy(update={field: value for field, value in changes.items() if field not in keep})


def _shortened(schedule: Schedule, share: float) -> Schedule:
    """The schedule of a run that takes ``share`` of the epochs: its steps and its warm-up in proportion."""
    milestones: list[int] = []
    for milestone in schedule.milestones:
        milestones.append(max(round(milestone * share), milestones[-1] + 1 if milestones else 1))
    changes: dict[str, Any] = {"milestones": tuple(milestones), "warmup_epochs": schedule.warmup_epochs * share}
    if schedule.every is not None:
        changes["every"] = max(1, round(schedule.every * share))
    return schedule.model_copy(update=changes)


def _differences(now: Any, then: Any, schema: Any, at: tuple[str, ...]) -> list[str]:
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
    return [] if now == then else [".".join(at)]


def names() -> list[str]:
    """The names of the recipes that come with the library."""
    return sorted(_shipped())


def check_names(names: Collection[str]) -> None:
    """Raises :class:`RecipeError` for the first of ``names`` that is none of a recipe of the library."""
    shipped = _shipped()
    for name in names:
        if name not in shipped:
            close = difflib.get_close_matches(str(name), shipped, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else "`bnn recipes` lists all"
            raise RecipeError(f"no recipe {str(name)!r}; {hint} (a file's path must end in .yaml)")


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
    check_names([str(name)])
    return _shipped()[str(name)]


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
        fields = _parsed(text.decode("utf-8"))
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
        return _parsed(text)
    except ValueError as error:
        raise RecipeError(f"value {text!r:.200} is not YAML: {getattr(error.__cause__, 'problem', None) or error}") from None


def _parsed(text: str) -> Any:
    """What the YAML in ``text`` says. Raises ``ValueError`` for anything that is none, or that JSON cannot hold."""
    try:
        fields = yaml.load(text, Loader=_Loader)
        json.dumps(fields, default=str, ensure_ascii=False).encode()
        return fields
    except Exception as error:  # yaml's own, and what its constructors let through: !!bool x is a KeyError
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
        raise ValueError(what) from error
