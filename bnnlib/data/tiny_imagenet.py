"""Tiny-ImageNet-200: 200 classes of 500 training and 50 validation images, 64x64, held in memory (1.35 GB).

    root/tiny-imagenet-200/train/WNID/images/*.JPEG                        the official layout
    root/tiny-imagenet-200/val/images/*.JPEG, val/val_annotations.txt
    root/tiny-imagenet-200/{train,val}/WNID/*.JPEG                         class folders

The validation set is the test split: labels of the official test set were never published.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torch import Tensor

from bnnlib.data import folders
from bnnlib.data.errors import DataError

CLASSES = 200
PER_CLASS = {"train": 500, "val": 50}
SIZE = (3, 64, 64)


def find(root: Path) -> Path | None:
    """The folder that holds the set in either layout, or None."""
    for folder in (root / "tiny-imagenet-200", root / "tiny-imagenet", root):
        if (
            any((folder / part / "n01443537").is_dir() for part in PER_CLASS)
            or (folder / "val" / "val_annotations.txt").is_file()
        ):
            return folder
    return None


def read(folder: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[str, ...]]:
    """((images, labels) of train, of test, classes); images uint8 (N, 3, 64, 64), classes are WordNet ids."""
    for part in PER_CLASS:
        if not (folder / part).is_dir():
            raise DataError(f"{folder / part}: missing, though other parts of Tiny-ImageNet are there")
    train = list_train(folder / "train")
    test = list_validation(folder / "val", train.classes)
    parts = {}
    for part, tree in (("train", train), ("val", test)):
        for label, count in sorted(Counter(tree.labels).items()):
            if count != PER_CLASS[part]:
                raise DataError(
                    f"{folder / part}: {count} images of class {tree.classes[label]!r} where Tiny-ImageNet "
                    f"has {PER_CLASS[part]}; unpack it again"
                )
        images, labels = folders.read(tree)
        if images.shape[1:] != SIZE:
            raise DataError(
                f"{folder / part}: images of shape {tuple(images.shape[1:])} where {SIZE} was expected"
            )
        parts[part] = images, labels
    return parts["train"], parts["val"], train.classes


def list_train(folder: Path) -> folders.Tree:
    """train/WNID/images/*.JPEG or train/WNID/*.JPEG."""
    official = next(folder.glob("n*/images"), None) is not None
    tree = folders.list_tree(folder, inside="images" if official else "")
    if len(tree.classes) != CLASSES:
        raise DataError(f"{folder}: {len(tree.classes)} class folders where Tiny-ImageNet has {CLASSES}")
    return tree


def list_validation(folder: Path, classes: tuple[str, ...]) -> folders.Tree:
    """val/WNID/*.JPEG, or val/images/*.JPEG with file and WNID in the lines of val_annotations.txt."""
    if not (folder / "images").is_dir():
        return folders.list_tree(folder, classes)
    notes = folder / "val_annotations.txt"
    if not notes.is_file():
        raise DataError(f"{notes}: missing, and without it the classes of {folder / 'images'} are unknown")
    position = {name: label for label, name in enumerate(classes)}
    names, labels, stats = [], [], []
    for number, line in enumerate(notes.read_text(errors="replace").splitlines(), 1):
        name, wnid = [*line.split("\t"), ""][:2]
        if wnid not in position or "/" in name:
            raise DataError(
                f"{notes}, line {number}: {line!r} does not name a file and one of the {CLASSES} classes"
            )
        try:
            stat = folders.regular(folder / "images" / name)
        except DataError as error:
            raise DataError(f"{error}, though line {number} of {notes.name} names it") from error
        names.append(f"images/{name}")
        labels.append(position[wnid])
        stats.append((stat.st_size, stat.st_mtime_ns))
    absent = set(range(len(classes))) - set(labels)
    if absent:
        raise DataError(f"{notes}: names no image of class {classes[min(absent)]!r}; the file is cut short")
    return folders.Tree(folder, classes, names, labels, stats)


def words(folder: Path) -> dict[str, str]:
    """What each class shows, by WordNet id: the first of its synonyms in words.txt. Empty where that file is not there."""
    path = folder / "words.txt"
    try:
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return {}
    pairs = (line.split("\t", 1) for line in lines if "\t" in line)
    return {wnid: text.split(",")[0].strip() for wnid, text in pairs}
