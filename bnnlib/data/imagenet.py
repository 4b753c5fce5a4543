"""ImageNet (ILSVRC 2012) and Imagenette, its ten-class part that downloads by itself, both decoded lazily.

    root/imagenet/{train,val}/WNID/*.JPEG          as torchvision.datasets.ImageNet leaves it
    root/imagenet/ILSVRC2012_*.tar[.gz]            the archives; torchvision.datasets.ImageNet unpacks them
    root/imagenette2-320/{train,val}/WNID/*.JPEG   torchvision.datasets.Imagenette(size="320px")

The validation set is the test split: labels of ImageNet's test set were never published.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bnnlib.data import folders, lazy
from bnnlib.data.errors import DataError
from bnnlib.data.transforms import STATISTICS
from bnnlib.data.views import view

ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")
CLASSES = 1000
PER_CLASS = {"train": (732, 1300), "val": (50, 50)}  # fewest and most images of a class


def find(root: Path) -> Path | None:
    """The folder that holds ImageNet, unpacked or as archives; or None."""
    for folder in (root / "imagenet", root / "ImageNet", root / "ILSVRC2012", root):
        if any((folder / name).is_file() for name in ARCHIVES[:2]) or _is_tree(folder):
            return folder
    return None


def find_imagenette(root: Path) -> Path | None:
    """The folder under `root` that holds Imagenette, or None."""
    for folder in (root / "imagenette2-320", root):
        if folder.name.startswith("imagenette") and _is_tree(folder):
            return folder
    return None


def _is_tree(folder: Path) -> bool:
    """Whether the first class of both sets has a folder here."""
    return any((folder / part / "n01440764").is_dir() for part in PER_CLASS)


def read(folder: Path) -> tuple[lazy.LazySplit, lazy.LazySplit, tuple[str, ...]]:
    """(train, test, classes) of ImageNet; unpacks the archives first where there is no tree yet."""
    for part in PER_CLASS:
        if not (folder / part).is_dir():
            unpack(folder, part)
    for part, (fewest, most) in PER_CLASS.items():
        left = sorted((folder / part).glob("*.tar"))
        if left:
            raise DataError(f"{left[0]}: unpacking was cut off; remove {folder / part} and load again")
        tree = folders.list_tree(folder / part)
        if len(tree.classes) != CLASSES:
            raise DataError(
                f"{folder / part}: {len(tree.classes)} class folders where ImageNet has {CLASSES}; "
                "for another tree use lazyfolder:PATH"
            )
        for label, count in Counter(tree.labels).items():
            if not fewest <= count <= most:
                where = folder / part / tree.classes[label]
                raise DataError(f"{where}: {count} images where ImageNet has {fewest} to {most}")
    return read_tree(folder / "train", folder / "val")


def read_tree(train: Path, test: Path) -> tuple[lazy.LazySplit, lazy.LazySplit, tuple[str, ...]]:
    """(train, test, classes) of any two trees with the same class folders, decoded lazily."""
    mean, std = STATISTICS["imagenet"]
    tree = folders.list_tree(train)
    test_tree = folders.list_tree(test, tree.classes)
    shown = view("s5", train=False)
    return lazy.split_of(tree, shown, mean, std), lazy.split_of(test_tree, shown, mean, std), tree.classes


def unpack(folder: Path, part: str) -> None:
    """Let torchvision unpack the archive of "train" or "val" into folder/part; it checks their MD5 sums."""
    archive = folder / ARCHIVES[list(PER_CLASS).index(part)]
    for path in (archive, folder / ARCHIVES[2]):
        if not path.is_file():
            raise DataError(
                f"{path}: missing; {folder / part} is made from it (or put an unpacked tree there)"
            )
    from torchvision.datasets import ImageNet

    try:
        ImageNet(folder, part)
    except Exception as error:  # damaged archives, and what a stranger left in meta.bin, raise almost anything
        raise DataError(f"{archive}: could not be unpacked ({type(error).__name__}: {str(error)[:300]})") from error
