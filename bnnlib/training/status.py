"""A few numbers beside each checkpoint, that tell without PyTorch how far a run is."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from bnnlib import paths, storage

NAME = "status.json"


class Status(BaseModel):
    """``epoch``: epochs that are done, ``share``: of the next one. ``seconds``: that they took. ``top1``: after the last
    of them, %."""

    model_config = ConfigDict(frozen=True)
    recipe: str
    seed: int = Field(ge=0)
    epoch: int = Field(ge=0)
    share: float = Field(ge=0, le=1)
    epochs: int = Field(gt=0)
    seconds: float = Field(ge=0)
    top1: float | None = None


def runs_folder(folder: Path | None = None) -> Path:
    """Where run folders go: the argument, ``$BNN_RUNS``, or ``<user's cache>/bnnlib/runs``."""
    if folder is not None:
        return Path(folder)
    if os.environ.get("BNN_RUNS"):
        return Path(os.environ["BNN_RUNS"]).expanduser()
    return paths.cache("runs")


def write(folder: Path, status: Status) -> None:
    """Keep ``status`` in ``folder``, whole or not at all."""
    storage.write_atomically(folder / NAME, status.model_dump_json().encode() + b"\n")


def read(path: Path) -> Status:
    """Raises ``OSError`` or ``ValueError`` for a file that is none."""
    return Status.model_validate_json(path.read_bytes())
