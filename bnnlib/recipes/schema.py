"""What a recipe may state: its fields, their types and ranges, and what a shorter profile changes in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


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
