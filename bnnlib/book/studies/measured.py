"""What chapters show of images that do not come with the book: measured once where the images are, kept as files.

    python -m bnnlib.book.studies.measured channels     # needs MNIST     -> results/measured/channels.json
    python -m bnnlib.book.studies.measured spectrum     # needs CIFAR-10  -> results/measured/spectrum.json
    found = measured.read(measured.Channels)            # in a chapter: needs no images

``channels``: accuracy of our packed LeNet-5 with the sign of one input channel of its binary convolution flipped, and with those of
random sets of channels. ``spectrum``: variance of CIFAR-10's training images along their principal directions, after the contrast
normalisation and before the whitening of :mod:`bnnlib.data.whitening`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import torch
import typer
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from bnnlib import data, deploy, records, storage
from bnnlib.data import evaluate, whitening
from bnnlib.experiments import predictions
from bnnlib.paths import RESULTS, folder_option

FOLDER = RESULTS / "measured"
NET = "ours-lenet5"
SIZES, DRAWS, SEED = (2, 4, 6, 8, 10, 20), 10, 0


class Measured(BaseModel):
    """What every file says of how it was made. ``NAME``: of the file, and of its command."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    NAME: ClassVar[str]

    dataset: records.Data
    wall_time_s: float = Field(ge=0)
    started: str
    commit: records.Commit
    versions: dict[str, str]
    hardware: dict[str, Any]


class Channels(Measured):
    """``top1``: of the packed net ``net``, whose file has the SHA-256 ``file``. ``single``: with the sign of each input channel of the
    binary convolution flipped alone. ``sets``: with random sets of channels flipped, a list of draws by the number of channels."""

    NAME: ClassVar[str] = "channels"

    net: str
    file: str = Field(pattern=r"^[0-9a-f]{64}$")
    seed: int = Field(ge=0, description="of the random sets")
    top1: float = Field(ge=0, le=100)
    single: list[float] = Field(min_length=1)
    sets: dict[int, list[float]]


class Spectrum(Measured):
    """``variances``: along the principal directions, largest first, rounded to six digits; without ``eps``."""

    NAME: ClassVar[str] = "spectrum"

    eps: float = Field(gt=0)
    scale: float = Field(gt=0)
    variances: list[float] = Field(min_length=1)


Kind = TypeVar("Kind", bound=Measured)


def path_of(kind: type[Measured], folder: Path = FOLDER) -> Path:
    """The file of a measurement."""
    return Path(folder) / f"{kind.NAME}.json"


def read(kind: type[Kind], folder: Path = FOLDER) -> Kind:
    """Read and check a measurement. Raises :class:`bnnlib.records.RecordError` for one absent, damaged or of another packed file."""
    path, again = path_of(kind, folder), f"python -m bnnlib.book.studies.measured {kind.NAME}"
    found = records.read_measurement(kind, path, again)
    if isinstance(found, Channels) and found.file != predictions.sha256(deploy.path_of(found.net)):
        raise records.RecordError(f"measurement {path} is of another file of {found.net}; make it again with {again}")
    return found


@torch.no_grad()
def accuracy_with_flipped(model: nn.Module, channels: Iterable[int], inputs: Tensor, labels: Tensor) -> float:
    """Top-1 % of a LeNet-5 in evaluation mode with the sign of some input channels of its binary convolution flipped: gain and shift of
    the batch norm in front of the sign change theirs, and so does the value that the sign sees. The model is left as it was."""
    norm, channels = model.conv2.bn, list(channels)
    for p in (norm.weight, norm.bias):
        p[channels] *= -1
    try:
        scores = torch.cat([model(x) for x in inputs.split(500)])
    finally:
        for p in (norm.weight, norm.bias):
            p[channels] *= -1
    return evaluate.top1(scores, labels)


def channels(dataset: data.Dataset, sizes: Iterable[int] = SIZES, draws: int = DRAWS) -> Channels:
    """Measure :class:`Channels` on the test images of ``dataset``. Of all channels there is one set, which is measured once."""
    made = about(dataset)
    file = deploy.path_of(NET)
    model = deploy.load(file).eval()
    transform = evaluate.input_transform(deploy.info(file)["input"], dataset)
    inputs, labels = transform(dataset.test.images), dataset.test.labels
    count = model.conv2.bn.num_features
    draw = torch.Generator().manual_seed(SEED)

    def accuracy(*which: int) -> float:
        return accuracy_with_flipped(model, which, inputs, labels)

    single = [accuracy(c) for c in range(count)]
    sets = {
        size: [accuracy(*torch.randperm(count, generator=draw)[:size].tolist()) for _ in range(draws if size < count else 1)]
        for size in sizes
    }
    return Channels(net=NET, file=predictions.sha256(file), seed=SEED, top1=accuracy(), single=single, sets=sets, **made())


def spectrum(dataset: data.Dataset) -> Spectrum:
    """Measure :class:`Spectrum` on the training images of ``dataset``."""
    made = about(dataset)
    inverse_root = torch.linalg.eigvalsh(whitening.fitted(dataset.train).matrix.double())  # of P, ascending
    variances = (inverse_root**-2 - whitening.EPS).clamp(min=0)
    return Spectrum(
        eps=whitening.EPS, scale=whitening.SCALE, variances=[float(f"{v:.6g}") for v in variances.tolist()], **made()
    )


def about(dataset: data.Dataset) -> Callable[[], dict[str, Any]]:
    """To be called when what begins now is done: the fields of :class:`Measured`."""
    started, before = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()

    def made() -> dict[str, Any]:
        return {
            "dataset": {
                "name": dataset.name, "fingerprint": dataset.fingerprint, "train": len(dataset.train), "test": len(dataset.test),
            },
            "wall_time_s": time.perf_counter() - before,
            "started": started,
            "commit": records.commit(),
            "versions": records.versions(),
            "hardware": records.hardware(torch.device("cpu")),
        }  # fmt: skip

    return made


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
Data = Annotated[Path | None, typer.Option("--data", help="folder of the data sets; else $BNN_DATA, else the cache folder")]
Out = Annotated[Path, folder_option("folder of the file", show_default="results/measured")]


def _keep(measure, name: str, data_root: Path | None, out: Path) -> None:
    try:
        found = measure(data.load(name, data_root))
        path = path_of(type(found), out)
        storage.write_atomically(path, found.model_dump_json().encode() + b"\n")
    except (ValueError, OSError) as error:
        print(f"error: {storage.in_words(error)}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"written: {path}")


@app.command(name="channels")
def _channels(data_root: Data = None, out: Out = FOLDER) -> None:
    """Flip the signs of input channels of our LeNet-5's binary convolution."""
    _keep(channels, "mnist", data_root, out)


@app.command(name="spectrum")
def _spectrum(data_root: Data = None, out: Out = FOLDER) -> None:
    """Variance of CIFAR-10's training images along their principal directions."""
    _keep(spectrum, "cifar10", data_root, out)


if __name__ == "__main__":
    app(prog_name="python -m bnnlib.book.studies.measured")
