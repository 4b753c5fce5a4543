"""A few images of Tiny-ImageNet-200."""

import numpy as np
import pytest
import torch
from PIL import Image

from bnnlib import data
from bnnlib.data import excerpt, tiny_imagenet

WNIDS = ("n01443537", "n02124075", "n09256479")


@pytest.fixture(params=["official", "class folders"])
def tiny(request, monkeypatch, tmp_path):
    """Three classes of 4 + 2 images, each of one colour of its own; words.txt names one of them."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
    official = request.param == "official"
    folder, lines = tmp_path / "root" / "tiny-imagenet-200", []
    for label, wnid in enumerate(WNIDS):
        for i in range(6):
            part, name = ("train", f"{wnid}_{i}.JPEG") if i < 4 else ("val", f"val_{2 * label + i}.JPEG")
            inside = {"train": f"{wnid}/images", "val": "images"}[part] if official else wnid
            path = folder / part / inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (80 * label, 100, 10 * i)).save(path, quality=95)
            if part == "val":
                lines.append(f"{name}\t{wnid}\t0\t0\t9\t9\n")
    if official:
        (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn00000000\tsomething else\n")
    return tmp_path / "root"


def test_an_excerpt_is_a_set_of_its_own(tiny):
    with excerpt.excerpt(tiny, classes=2, train=3, test=2) as small:
        loaded = data.load(small)
        assert len(loaded.classes) == 2 and set(loaded.classes) <= set(WNIDS)
        assert loaded.train.labels.bincount().tolist() == [3, 3]
        assert loaded.test.labels.bincount().tolist() == [2, 2]
        for split in (loaded.train, loaded.test):  # red tells the class, as it does in the set
            red = split.images[:, 0].float().mean(dim=(1, 2))
            known = torch.tensor([80.0 * WNIDS.index(loaded.classes[label]) for label in split.labels])
            assert (red - known).abs().max() < 5
        folder = small.partition(":")[2]
    with pytest.raises(data.DataNotFound):
        data.load(f"imagefolder:{folder}")


def test_more_is_asked_for_than_there_is(tiny):
    with excerpt.excerpt(tiny, classes=9, train=9, test=9) as small:
        loaded = data.load(small)
        assert (len(loaded.classes), len(loaded.train), len(loaded.test)) == (3, 12, 6)


def test_where_the_set_is_not_here_nothing_is_made_up(tiny, tmp_path):
    with pytest.raises(data.DataNotFound), excerpt.excerpt(tmp_path / "nowhere"):
        pass
    with pytest.raises(ValueError, match="nothing in it"), excerpt.excerpt(tiny, train=0):
        pass


def test_photographs_are_of_many_classes_and_say_what_they_show(tiny, tmp_path):
    found = excerpt.photographs(5, tiny)
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image, _ in found)
    shown = [said for _, said in found]
    assert set(shown) == {"goldfish", *WNIDS[1:]} and len(set(shown[:3])) == 3
    for image, said in found:
        label = 0 if said == "goldfish" else WNIDS.index(said)
        assert abs(float(image[..., 0].mean()) - 80 * label) < 5
    assert shown == [said for _, said in excerpt.photographs(5, tiny)]
    assert {tuple(s for _, s in excerpt.photographs(3, tiny, seed=i)) for i in range(9)} != {tuple(shown[:3])}
    with pytest.raises(data.DataNotFound, match="tiny-imagenet"):
        excerpt.photographs(1, tmp_path / "nowhere")


def test_words_are_optional(tiny):
    folder = tiny_imagenet.find(tiny)
    assert tiny_imagenet.words(folder)["n01443537"] == "goldfish"
    (folder / "words.txt").unlink()
    assert tiny_imagenet.words(folder) == {}
    assert {said for _, said in excerpt.photographs(3, tiny)} == set(WNIDS)
