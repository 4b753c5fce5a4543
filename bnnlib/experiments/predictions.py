"""What each packed net that comes with the book answers on its whole test set: small records, so that a chapter shows errors,
confusions and accuracies of classes where the images are not.

    bnn verify s4-lenet5                          # writes results/predictions/s4-lenet5.safetensors
    found = predictions.read("s4-lenet5")         # None where there is no such record
    found.top1                                    # accuracy of the packed file, %
    found.wrong                                   # indices into the test set

A record holds, for every image in the order of the test set, its label, the five classes with the largest logits, and these
logits as float16. Ties keep the order of ``topk``, that is of the float32 logits. It names the file that was evaluated by its
SHA-256: the record of another file is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnnlib import deploy, records, storage
from bnnlib.paths import RESULTS

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = RESULTS / "predictions"
KEPT = 5  # classes of an image


class PredictionError(ValueError):
    """A record of predictions that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class Predictions:
    """``labels``: (N,) int64; ``classes``, ``logits``: (N, 5) int64 and float32, largest logit first; ``about``: recipe, file,
    data and how it was made."""

    labels: Tensor
    classes: Tensor
    logits: Tensor
    about: dict

    @property
    def answers(self) -> Tensor:
        """(N,): the class with the largest logit."""
        return self.classes[:, 0]

    @property
    def right(self) -> Tensor:
        """(N,) of bool."""
        return self.answers == self.labels

    @property
    def wrong(self) -> list[int]:
        """Indices of the images that the net gets wrong, rising."""
        return (~self.right).nonzero().flatten().tolist()

    @property
    def top1(self) -> float:
        """Accuracy of the packed file, per cent."""
        return 100 * self.right.double().mean().item()

    def of_classes(self) -> list[float]:
        """Accuracy on the images of each class, per cent, by class."""
        count = int(self.labels.max()) + 1
        return [100 * self.right[self.labels == c].double().mean().item() for c in range(count)]

    def confusions(self) -> Tensor:
        """(classes, classes): images by label (row) and answer (column)."""
        import torch

        count = int(max(self.labels.max(), self.answers.max())) + 1
        return torch.bincount(self.labels * count + self.answers, minlength=count**2).reshape(count, count)


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """The file of the record of ``name``."""
    return Path(folder) / f"{name}.safetensors"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write(name: str, file: Path, scores: Tensor, labels: Tensor, fingerprint: str, folder: Path = FOLDER) -> Path:
    """Keep what the packed net in ``file`` answers: ``scores`` (N, classes) on the test set of ``fingerprint``. Whole or not at
    all."""
    import safetensors.torch
    import torch

    if scores.shape[0] != labels.shape[0] or scores.ndim != 2:
        raise PredictionError(f"logits of shape {tuple(scores.shape)} and {len(labels)} labels do not belong together")
    if not torch.isfinite(scores).all():
        raise PredictionError(f"{name} has logits that are not finite: its answers mean nothing")
    found = scores.float().topk(min(KEPT, scores.shape[1]))
    about = {
        "recipe": name, "file": Path(file).name, "sha256": sha256(file), "fingerprint": fingerprint,
        "images": len(labels), "commit": records.commit().model_dump(), "versions": records.versions(),
    }  # fmt: skip
    tensors = {
        "labels": labels.to(torch.uint8 if labels.max() < 256 else torch.int32),
        "classes": found.indices.to(torch.uint8 if scores.shape[1] <= 256 else torch.int32),
        "logits": found.values.half(),
    }
    data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, {"about": json.dumps(about)})
    path = path_of(name, folder)
    storage.write_atomically(path, data)
    return path


def read(name: str, file: Path | None = None, folder: Path = FOLDER) -> Predictions | None:
    """The record of ``name``; None where there is none. ``file``: its packed net (``results/models`` by default). Raises
    :class:`PredictionError` for a damaged record, and for one of another file."""
    import safetensors
    import safetensors.torch

    path, file = path_of(name, folder), file or deploy.FOLDER / f"{name}.safetensors"
    if not path.is_file():
        return None
    again = f"run `bnn verify {name}` again"
    try:
        with safetensors.safe_open(path, "pt") as opened:
            about = json.loads(opened.metadata()["about"])
            tensors = {key: opened.get_tensor(key) for key in ("labels", "classes", "logits")}
        labels, classes, logits = tensors["labels"].long(), tensors["classes"].long(), tensors["logits"].float()
        if not classes.shape == logits.shape == (about["images"], logits.shape[1]) or len(labels) != about["images"]:
            raise ValueError("its parts differ in length")
    except (OSError, ValueError, KeyError, TypeError, IndexError, safetensors.SafetensorError) as error:
        raise PredictionError(f"{path.name} is no record of predictions ({error}): {again}") from None
    if Path(file).is_file() and about["sha256"] != sha256(file):
        raise PredictionError(f"{path.name} was made from another {about['file']} than the one here: {again}")
    return Predictions(labels, classes, logits, about)
