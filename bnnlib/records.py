"""Run records: one JSON file a run, ``results/runs/<recipe>/seed<N>.json``, checked on writing and on
reading.

A record carries what is needed to trust its number: the resolved recipe and its hash, seed, data
fingerprint, commit, versions, hardware, wall time and the learning curve. No number in the book comes from
anywhere else.
"""

from __future__ import annotations

import itertools
import math
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bnnlib.paths import RESULTS, ROOT
from bnnlib.storage import write_atomically

if TYPE_CHECKING:
    import torch

FOLDER = RESULTS / "runs"


class RecordError(ValueError):
    """A record that cannot be read, with the file and what is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Percent = Field(ge=0, le=100)
Measurement = TypeVar("Measurement", bound=BaseModel)


class Epoch(_Strict):
    """One epoch of the curve; accuracies in per cent. ``train_loss`` and ``train_top1`` are means over the
    epoch as it trained."""

    epoch: int = Field(ge=1)
    lr: float = Field(ge=0, description="rate of the epoch's first step")
    train_loss: float
    train_top1: float = Percent
    test_loss: float
    test_top1: float = Percent
    test_top5: float = Percent
    validation_top1: float | None = Field(None, ge=0, le=100)
    seconds: float = Field(ge=0)


class Data(_Strict):
    name: str
    fingerprint: str = Field(pattern=r"^[a-z0-9-]+:[0-9a-f]{64}")
    train: int = Field(gt=0)
    test: int = Field(gt=0)


class Parameters(_Strict):
    total: int = Field(ge=0)
    binary: int = Field(ge=0, description="latent weights that are 1 bit each in the trained net")
    real: int = Field(ge=0)
    bits: int = Field(
        ge=0, description="size of the trained net: binary weights at 1 bit, all else (buffers too) as stored"
    )


class Teacher(_Strict):
    """The net a run was distilled from: its recipe, seed and last accuracy, and the hash of its file."""

    recipe: str
    seed: int
    top1: float = Percent
    sha256: str


class Commit(_Strict):
    hash: str
    dirty: bool


class Record(_Strict):
    """A finished run. ``top1_best`` is the best epoch's, chosen by ``best_of``: the validation split, or, as
    S4 does, the test set itself."""

    format: Literal[1] = 1
    recipe: str
    source: str
    resolved: dict[str, Any]
    recipe_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    profile: Literal["full", "demo", "quick"]
    seed: int = Field(ge=0)
    dataset: Data
    top1_last: float = Percent
    top5_last: float = Percent
    top1_best: float = Percent
    top5_best: float = Percent
    best_epoch: int = Field(ge=1)
    best_of: Literal["test", "validation"]
    curve: list[Epoch] = Field(min_length=1)
    parameters: Parameters
    teacher: Teacher | None = None
    images_per_second: float = Field(ge=0, description="of training, evaluation left out")
    wall_time_s: float = Field(ge=0, description="over all the sittings of a resumed run; on a CPU no more than its threads computed")
    started: str
    commit: Commit
    versions: dict[str, str]
    hardware: dict[str, Any]

    @model_validator(mode="after")
    def _agrees_with_its_curve(self):
        if [e.epoch for e in self.curve] != list(range(1, len(self.curve) + 1)):
            raise ValueError("the curve's epochs are not 1, 2, 3, ...")
        if not math.isclose(self.curve[-1].test_top1, self.top1_last):
            raise ValueError(f"top1_last {self.top1_last} is not the curve's last {self.curve[-1].test_top1}")
        if self.best_epoch > len(self.curve) or not math.isclose(
            self.curve[self.best_epoch - 1].test_top1, self.top1_best
        ):
            raise ValueError(f"top1_best {self.top1_best} is not the curve's at epoch {self.best_epoch}")
        return self


def path_of(recipe: str, seed: int, folder: Path = FOLDER) -> Path:
    """``<folder>/<recipe>/seed<N>.json``."""
    return Path(folder) / recipe / f"seed{seed}.json"


def write(record: Record, path: Path) -> Path:
    """Write ``record`` whole or not at all. Returns ``path``."""
    write_atomically(path, record.model_dump_json(indent=1).encode() + b"\n")
    return path


def read(path: Path) -> Record:
    """Read and check one record. Raises :class:`RecordError` naming the file for one that is absent,
    truncated or does not fit."""
    return _checked(Record, path, "record", again="run its recipe again")


def read_measurement(kind: type[Measurement], path: Path, command: str) -> Measurement:
    """Read and check another file of results, which ``command`` makes. Raises :class:`RecordError` for one absent or damaged."""
    return _checked(kind, path, "measurement", absent=f"; make it with {command}", again="make it again")


def _checked(kind: type[Measurement], path: Path, what: str, *, absent: str = "", again: str) -> Measurement:
    try:
        return kind.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise RecordError(f"{what} {path}: {error.strerror}{absent}") from None
    except ValidationError as error:
        raise RecordError(f"{what} {path} is damaged: {_first_fault(error)}; restore it from git, or {again}") from None


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"


def read_all(folder: Path = FOLDER, recipe: str | None = None) -> list[Record]:
    """Every full-profile record in ``folder``, by recipe and seed; those of one recipe where given."""
    paths = sorted(
        Path(folder).glob(f"{recipe or '*'}/seed*.json"), key=lambda p: (p.parent.name, len(p.name), p.name)
    )
    found = []
    for path in paths:
        record = read(path)
        if record.profile != "full" or path != path_of(record.recipe, record.seed, Path(folder)):
            raise RecordError(
                f"record {path} says it is {record.recipe} seed {record.seed}, profile {record.profile}: it does not belong there"
            )
        found.append(record)
    return found


def by_recipe(folder: Path = FOLDER) -> dict[str, list[Record]]:
    """:func:`read_all`, the records of each recipe together."""
    return {name: list(runs) for name, runs in itertools.groupby(read_all(folder), lambda record: record.recipe)}


def plain(text: Any) -> str:
    """A name from a record as a page may show it: characters that Markdown, HTML or a terminal would act on are left out.

    >>> plain("AMD EPYC | <b>9\\nB14 (tm)")
    'AMD EPYC b9B14 (tm)'
    """
    return " ".join(re.sub(r"[^\w .,:;@()+/-]", "", str(text)).split())[:100]


def commit() -> Commit:
    """The commit the code runs from, and whether anything tracked differs from it; ``unknown`` outside a git
    checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return Commit(
            hash=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return Commit(hash="unknown", dirty=True)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("bnnlib", "torch", "torchvision", "numpy", "lightning-fabric", "lightning"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, world: int = 1) -> dict[str, Any]:
    """What the run ran on."""
    import torch  # here alone: the report and the book read records without it

    from bnnlib import ops
    from bnnlib.ops import precision

    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "processes": world,
    }
    if device.type == "cpu":
        found["kernel"] = ops.backend().variant
        found["multiplies_bf16"] = precision.cpu_multiplies_bf16()
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def cpu_name() -> str:
    """For people and file names: vendor's model name with family and model, which tell apart what a
    hypervisor calls "EPYC".
    """
    try:
        info = dict(
            re.findall(
                r"^(model name|cpu family|model)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
            )
        )
    except OSError:
        info = {}
    if "model name" not in info:
        return platform.processor() or platform.machine()
    return f"{info['model name']} family {info.get('cpu family', '?')} model {info.get('model', '?')}"
