"""Where a run stands: typed, and the schema of its checkpoint."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bnnlib import records


class Progress(BaseModel):
    """The plain part of a run's state, which the loop counts on. ``step``: batches of epoch ``epoch`` (from 0) that are
    done. Seconds are over all sittings; ``epoch_seconds``: of the epoch that is under way. ``commit`` is of the code that
    began the run; ``code``: see :func:`bnnlib.training.code.hashes`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    started: str
    epoch: int = Field(0, ge=0)
    step: int = Field(0, ge=0)
    curve: list[dict[str, Any]] = []
    wall: float = Field(0.0, ge=0)
    training_seconds: float = Field(0.0, ge=0)
    epoch_seconds: float = Field(0.0, ge=0)
    images: int = Field(0, ge=0)
    diagnostics: list[dict[str, Any]] = []
    code: dict[str, str] | None = None
    commit: records.Commit | None = None

    @model_validator(mode="after")
    def _a_point_an_epoch(self):
        if len(self.curve) != self.epoch:
            raise ValueError(f"it says that it is at epoch {self.epoch}, with a curve of {len(self.curve)}")
        return self

    def clock(self, seconds: float) -> None:
        """Count ``seconds`` of training."""
        self.wall += seconds
        self.training_seconds += seconds
        self.epoch_seconds += seconds


class Checkpoint(Progress):
    """All of a checkpoint: which run it is of, :class:`Progress`, and the tensors. ``totals``: loss times images, correct,
    and images of the epoch so far, over all processes. ``watch``: of :class:`bnnlib.training.diagnostics.Watch`. Files of earlier versions, without ``code``,
    ``commit``, ``watch`` and ``recipe``, fit."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)
    format: Literal[1] = 1
    recipe_hash: str
    profile: str
    seed: int
    fingerprint: str
    recipe: dict[str, Any] | None = None
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None = None
    watch: dict[str, Any] | None = None
    totals: Tensor

    def file(self) -> dict[str, Any]:
        """What is written: tensors as they are, the rest as plain values."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        found["commit"] = self.commit and self.commit.model_dump()
        if self.average is None:
            del found["average"]
        return found
