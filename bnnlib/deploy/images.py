"""Images for a packed network, from files, as it was trained to see them; and what a file says of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bnnlib import data
from bnnlib.data import cifar10, evaluate, mnist
from bnnlib.data.folders import EXTENSIONS, open_image
from bnnlib.data.lazy import LazySplit
from bnnlib.data.transforms import STATISTICS
from bnnlib.deploy import container, imagefields, whitened
from bnnlib.deploy.container import DeployError
from bnnlib.deploy.files import WHITENING

if TYPE_CHECKING:
    from bnnlib.recipes import Recipe

# What files of format 1 leave unsaid.
_KNOWN = {"mnist": ((1, 28, 28), mnist.CLASSES), "cifar10": ((3, 32, 32), cifar10.CLASSES)}


@dataclass(frozen=True)
class Images:
    """What a network sees: ``shape`` (C, H, W) of an image, ``mean`` and ``std`` by channel on the 0..1 scale, what its
    recipe calls ``input``, the ``view`` that cuts images of any size (or None), the names of the ``classes``, and the
    ``dataset`` it was trained on. ``whitening``: where the file holds it, the tensors of :mod:`bnnlib.deploy.whitened` and
    the ``scale`` of the contrast normalisation."""

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    view: str | None
    input: str
    dataset: str
    whitening: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)
    scale: float = 0.0

    def transform(self) -> Callable[[Tensor], Tensor]:
        """uint8 images ``(N, C, H, W)`` -> what the network is fed with. Whitening that the file does not hold is fitted on
        the training images, which must be here: raises :class:`DeployError` where they are not."""
        if self.input != "gcn-zca":
            return evaluate.input_transform(self.input, self)
        if self.whitening is not None:
            return whitened.unpack(self.whitening, self.shape, self.scale)
        try:
            return evaluate.input_transform(self.input, data.load(self.dataset, download=False))
        except data.DataNotFound as error:
            raise DeployError(
                f"the network is fed with whitened images, and whitening is fitted on {self.dataset}: {error}"
            ) from None


def describe(dataset: data.Dataset, recipe: Recipe | None = None) -> dict[str, Any]:
    """The field ``images`` of a packed file."""
    view = recipe.augment.view if recipe is not None and recipe.augment else None
    test = dataset.test
    if isinstance(test, LazySplit):
        view = view or "s5"
        shape = data.view(view, train=False)(test.decode(0)).shape
    else:
        shape = test.shape
    return {
        "shape": list(shape),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "view": view,
    }


def expected(path: Path, about: Mapping[str, Any]) -> Images:
    """What the network in ``path`` sees, by its description. Raises :class:`DeployError` where that is not known."""
    said, name = about.get("images"), about.get("dataset")
    if said is None and name in _KNOWN:
        (shape, classes), (mean, std) = _KNOWN[name], STATISTICS[name]
        said = {"shape": shape, "classes": classes, "mean": mean, "std": std, "view": None}
    elif said is None:
        if name is None:
            raise DeployError(
                f"{path} does not say what images its network takes: it has neither a field 'images' nor a 'dataset'. Write it again by "
                "deploy.save(..., dataset=...), or with about={'images': ..., 'input': ...}"
            )
        try:
            said = describe(data.load(name, download=False))
        except (ValueError, TypeError, AttributeError, data.DataNotFound, data.DataError):
            raise DeployError(
                f"{path} does not say what images its network takes, and {name} is not here: write it again by "
                "deploy.save(..., dataset=...), which describes them"
            ) from None
    fed, white = about.get("input"), None
    try:
        imagefields.check(said, fed)
        white = said.get("whitening")
        imagefields.check_size(said, _taken(about))
    except ValueError as error:
        raise DeployError(f"{path} does not say in a way known here what images its network takes: {error}") from None
    found = Images(
        tuple(said["shape"]), tuple(said["classes"]), tuple(said["mean"]), tuple(said["std"]),
        said["view"], fed, str(name), scale=0.0 if white is None else white["scale"],
    )  # fmt: skip
    if white is None:
        return found
    tensors = container.read(path)[1]
    whitened.check(path, tensors, found.shape)
    return replace(found, whitening={key: tensors[key] for key in WHITENING})


def _taken(about: Mapping[str, Any]) -> Any:
    """The shape (height, width, channels) that the graph of a packed network begins with; None of a trained model."""
    try:
        shape = about["graph"]["slots"][about["graph"]["inputs"][0]][1:]
    except (KeyError, TypeError, IndexError):
        return None
    return shape if len(shape) == 3 else None


def files(paths: Iterable[Path]) -> list[Path]:
    """The image files named: themselves, and those of the folders, by name. Raises :class:`DeployError`."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not inside:
                raise DeployError(f"there are no images in the folder {path} (of {', '.join(EXTENSIONS)})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DeployError(f"no image {path}")
    return found


INVERT = ("no", "auto", "yes")
BRIGHT = 128  # of a border's mean, 0..255
DARK_MEAN = 0.3  # a grey set whose mean is below it has light strokes on a dark ground


def on_bright_ground(pixels: Tensor, images: Images) -> Tensor:
    """bool ``(N,)``: which of the grey ``pixels`` (uint8 ``(N, 1, H, W)``) have a bright border, where the network was
    trained on light strokes on a dark ground: it answers them wrongly, and with confidence."""
    n, channels = pixels.shape[:2]
    if channels != 1 or max(images.mean) > DARK_MEAN:
        return torch.zeros(n, dtype=torch.bool)
    inside = torch.zeros(pixels.shape[2:], dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    return pixels[:, 0].float()[:, ~inside].mean(1) > BRIGHT


def invert(pixels: Tensor, images: Images, how: str) -> Tensor:
    """``pixels`` with black and white exchanged in all of them (``yes``), in those :func:`on_bright_ground` (``auto``), or
    in none (``no``)."""
    if how not in INVERT:
        raise DeployError(f"invert is {how!r}: choose one of {', '.join(INVERT)}")
    if how == "no":
        return pixels
    chosen = torch.ones(len(pixels), dtype=torch.bool) if how == "yes" else on_bright_ground(pixels, images)
    return torch.where(chosen[:, None, None, None], 255 - pixels, pixels)


def _opaque(image: Image.Image) -> Image.Image:
    """A picture with an alpha channel laid on white, as a page shows it; any other as it is. To drop the channel would
    bring out what lies in transparent pixels, most often black."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def read(paths: Iterable[Path], images: Images, *, resize: bool = False) -> Tensor:
    """uint8 ``(N, C, H, W)``: the images, grey or RGB as the network has it, cut by its view or, with ``resize``, scaled
    to its size. Transparent ones are laid on white. Raises :class:`DeployError` for what is no image, and for one of another size."""
    channels, height, width = images.shape
    view = data.view(images.view, train=False) if images.view else None
    read = []
    for path in paths:
        try:
            image = _opaque(open_image(path)).convert("L" if channels == 1 else "RGB")
        except data.DataError as error:
            raise DeployError(str(error)) from None
        if view is not None:
            read.append(view(image))
            continue
        if image.size != (width, height):
            if not resize:
                raise DeployError(
                    f"{path} is {image.width}x{image.height} pixels, the network takes {width}x{height}: "
                    "scale it, or let it be scaled with --resize"
                )
            image = image.resize((width, height))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        read.append(pixels.view(height, width, channels).permute(2, 0, 1))
    return torch.stack(read)
