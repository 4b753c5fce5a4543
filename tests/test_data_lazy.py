"""Sets of photographs: Tiny-ImageNet in both layouts, ImageNet and its archives, Imagenette, lazily decoded
splits."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from bnnlib import data
from bnnlib.data import imagenet, tiny_imagenet

WNIDS = ("n01440764", "n01443537", "n02102040")


pytestmark = pytest.mark.usefixtures("alone")


def jpeg(seed, size=(64, 64), mode="RGB"):
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, "jpeg", quality=90)
    return out.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# -- Tiny-ImageNet --------------------


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The same 3 classes x (4 + 2) images in the official layout and in class folders."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
    monkeypatch.setattr(tiny_imagenet, "PER_CLASS", {"train": 4, "val": 2})
    official, plain = tmp_path / "official" / "tiny-imagenet-200", tmp_path / "plain" / "tiny-imagenet-200"
    lines = []
    for label, wnid in enumerate(WNIDS):
        for i in range(4):
            image = jpeg(10 * label + i, mode="L" if i == 3 else "RGB")  # some are grey, as in the real set
            put(official / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", image)
            put(plain / "train" / wnid / f"{wnid}_{i}.JPEG", image)
        (official / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
        for i in range(2):
            image, name = jpeg(100 + 10 * label + i), f"val_{2 * ((label + 1) % 3) + i}.JPEG"
            put(official / "val" / "images" / name, image)
            put(plain / "val" / wnid / name, image)
            lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
    (official / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    put(official / "test" / "images" / "test_0.JPEG", jpeg(0))
    return tmp_path


def test_both_layouts_are_the_same_set(tiny):
    official = data.load("tiny-imagenet", tiny / "official", download=False)
    plain = data.load("tiny-imagenet", tiny / "plain", download=False)
    assert official.fingerprint == plain.fingerprint
    assert official.classes == WNIDS and official.train.images.shape == (12, 3, 64, 64)
    assert len(official.test) == 6 and official.mean == data.STATISTICS["imagenet"][0]
    want = torchvision.datasets.ImageFolder(tiny / "plain" / "tiny-imagenet-200" / "val", v2.PILToTensor())
    assert plain.test.labels.tolist() == want.targets
    assert torch.equal(plain.test.images, torch.stack([image for image, _ in want]))


def _edit(path, change):
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: shutil.rmtree(d / "val"), "val: missing"),
        (lambda d: shutil.rmtree(d / "train" / WNIDS[1]), "2 class folders where Tiny-ImageNet has 3"),
        (
            lambda d: (d / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_0.JPEG").unlink(),
            f"3 images of class '{WNIDS[1]}'.*4",
        ),
        (lambda d: shutil.rmtree(d / "train" / WNIDS[1] / "images"), "images: missing"),
        (lambda d: (d / "val" / "val_annotations.txt").unlink(), "val_annotations.txt: missing"),
        (lambda d: (d / "val" / "images" / "val_3.JPEG").unlink(), r"val_3.JPEG: missing, though line \d"),
        (
            lambda d: _edit(d / "val" / "val_annotations.txt", lambda t: t[: t.rindex("val_")]),
            "1 images of class.*2",
        ),
        (
            lambda d: _edit(d / "val" / "val_annotations.txt", lambda t: "".join(t.splitlines(True)[:4])),
            "names no image of class",
        ),
        (
            lambda d: _edit(d / "val" / "val_annotations.txt", lambda t: t.replace(WNIDS[0], "n99999999")),
            r"line \d+: .*n99999999.*does not name",
        ),
        (
            lambda d: _edit(d / "val" / "val_annotations.txt", lambda t: t.replace("val_", "../../../val_")),
            r"line 1: .*does not name",
        ),
        (
            lambda d: put(d / "val" / "images" / "val_3.JPEG", jpeg(0)[:300]),
            "val_3.JPEG: damaged image",
        ),
        (lambda d: put(d / "val" / "images" / "val_3.JPEG", jpeg(0, (64, 63))), "val_3.JPEG: 64x63 pixels"),
        (
            lambda d: [put(p, jpeg(0, (32, 32))) for p in (d / "train").glob("*/images/*")],
            r"images of shape \(3, 32, 32\)",
        ),
    ],
)
def test_incomplete_tiny_imagenet_says_what_is_wrong(tiny, change, says):
    change(tiny / "official" / "tiny-imagenet-200")
    with pytest.raises(data.DataError, match=says):
        data.load("tiny-imagenet", tiny / "official", download=False)


def test_real_tiny_imagenet_listing(bnn_data):
    folder = tiny_imagenet.find(bnn_data)
    if folder is None:
        pytest.skip("needs Tiny-ImageNet-200")
    train = tiny_imagenet.list_train(folder / "train")
    test = tiny_imagenet.list_validation(folder / "val", train.classes)
    assert len(train.names) == 100000 and len(test.names) == 10000 and len(train.classes) == 200
    want = torchvision.datasets.ImageFolder(folder / "val")
    assert train.classes == tuple(want.classes) and test.labels == want.targets


# -- lazily decoded trees
# ---------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """lazyfolder: 3 classes x (7 + 3) images of different sizes, one of them grey."""
    root = tmp_path / "photos"
    for label, wnid in enumerate(WNIDS):
        for part, count in (("train", 7), ("val", 3)):
            for i in range(count):
                size = (240 + 31 * i, 300 - 29 * label)
                put(root / part / wnid / f"{i}.JPEG", jpeg(label * 10 + i, size, "L" if i == 2 else "RGB"))
    return root


def random_corner(size=16):
    """A cheap view that draws random numbers as torchvision's do: from the global generator."""
    return v2.Compose([v2.RandomCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()])


def listed(batches):
    return [(index.tolist(), x, y.tolist()) for index, x, y in batches]


def same(a, b):
    return len(a) == len(b) and all(
        p[0] == q[0] and torch.equal(p[1], q[1]) and p[2] == q[2] for p, q in zip(a, b, strict=True)
    )


def test_a_lazy_set_has_the_interface_of_a_split(photos):
    loaded = data.load(f"lazyfolder:{photos}")
    assert isinstance(loaded.train, data.LazySplit) and len(loaded.train) == 21 and len(loaded.test) == 9
    assert loaded.classes == WNIDS and loaded.train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert loaded.train.path(8) == photos / "train" / WNIDS[1] / "1.JPEG"
    assert loaded.train.decode(2).mode == "RGB"
    assert loaded.train.to("cpu") is loaded.train
    rest, validation = data.split_validation(loaded.train, 1 / 3, 0)
    assert torch.bincount(rest.labels).max() <= 5 and len(rest) + len(validation) == 21
    both = sorted([*rest.names.tolist(), *validation.names.tolist()])
    assert both == sorted(loaded.train.names.tolist())
    part = loaded.subset(train=6, test=3)
    assert torch.bincount(part.train.labels).tolist() == [2, 2, 2] and part.fingerprint.endswith("seed=0)")


def test_a_lazy_fingerprint_is_of_the_listing(photos):
    loaded = data.load(f"lazyfolder:{photos}")
    assert loaded.fingerprint.startswith("listing-sha256:")
    assert data.load(f"lazyfolder:{photos}").fingerprint == loaded.fingerprint
    put(photos / "val" / WNIDS[0] / "0.JPEG", jpeg(99, (100, 100)))
    assert data.load(f"lazyfolder:{photos}").train.fingerprint == loaded.train.fingerprint
    assert data.load(f"lazyfolder:{photos}").fingerprint != loaded.fingerprint


def test_the_test_view_is_resize_and_centre_crop(photos):
    split = data.load(f"lazyfolder:{photos}").test
    index, x, y = next(data.Batches(split, 4, seed=0, shuffle=False, workers=0).epoch(0))
    assert x.shape == (4, 3, 224, 224) and y.tolist() == [0, 0, 0, 1]
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in data.STATISTICS["imagenet"])
    for image, shown in zip(index.tolist(), x, strict=True):
        picture = split.decode(image)
        scale = 256 / min(picture.size)
        size = [max(256, int(n * scale)) for n in picture.size]
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (int(round((n - 224) / 2)) for n in picture.size)
        want = np.asarray(picture.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
        assert torch.allclose(shown, (torch.tensor(want) / 255 - mean) / std, atol=1e-5)


@pytest.mark.parametrize(("name", "size"), [("s5", 224), ("s4", 227)])
@pytest.mark.parametrize("train", [True, False])
def test_views_give_the_sources_sizes(photos, name, size, train):
    image = data.load(f"lazyfolder:{photos}").train.decode(2)
    shown = data.view(name, train=train)(image)
    assert shown.shape == (3, size, size) and shown.dtype == torch.uint8


def test_s4_test_view_ignores_the_shape_of_the_photograph(photos):
    image = data.load(f"lazyfolder:{photos}").train.decode(6)
    want = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))[14:241, 14:241]
    got = data.view("s4", train=False)(image).permute(1, 2, 0).numpy()
    # the centre of 256 - 227 = 29 pixels lies between two: torchvision rounds half to even
    assert np.array_equal(got, want)


def test_unknown_views_are_named():
    with pytest.raises(ValueError, match="'s6'.*'s4' or 's5'"):
        data.view("s6", train=True)


def test_worker_processes_change_nothing(photos):
    split = data.load(f"lazyfolder:{photos}").train
    plain, helped = (
        listed(data.Batches(split, 5, seed=2, augment=random_corner(), workers=n).epoch(1)) for n in (0, 2)
    )
    assert same(plain, helped)
    assert sorted(i for index, _, _ in plain for i in index) == list(range(21))


def test_lazy_epochs_resume_and_shard(photos):
    split = data.load(f"lazyfolder:{photos}").train

    def epoch(start=0, number=1, **options):
        return listed(
            data.Batches(split, 5, seed=2, augment=random_corner(), workers=0, **options).epoch(number, start)
        )

    whole = epoch()
    assert same(epoch(start=3), whole[3:]) and not same(epoch(number=0), whole)
    shards = [epoch(rank=rank, world=3) for rank in range(3)]
    for step, (index, x, y) in enumerate(whole):  # the last batch is of one image: two shards are empty
        for rank in range(3):
            part_index, part_x, part_y = shards[rank][step]
            assert part_index == index[rank::3] and part_y == y[rank::3] and torch.equal(part_x, x[rank::3])


def test_lazy_decoding_leaves_the_global_generator_alone(photos):
    split = data.load(f"lazyfolder:{photos}").train
    torch.manual_seed(5)
    want = torch.rand(4)
    torch.manual_seed(5)
    listed(data.Batches(split, 5, seed=2, augment=random_corner(), workers=0).epoch(0))
    assert torch.equal(torch.rand(4), want)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photograph_is_named_even_from_a_worker(photos, workers):
    path = photos / "val" / WNIDS[1] / "1.JPEG"
    path.write_bytes(path.read_bytes()[:500])
    split = data.load(f"lazyfolder:{photos}").test
    with pytest.raises(data.DataError, match="1.JPEG: damaged image"):
        listed(
            data.Batches(
                split,
                4,
                seed=0,
                shuffle=False,
                augment=v2.Compose([v2.CenterCrop(8), v2.PILToTensor()]),
                workers=workers,
            )
        )


def test_a_view_must_give_bytes_of_one_shape(photos):
    split = data.load(f"lazyfolder:{photos}").test
    for view, says in (
        (lambda image: torch.zeros(3, 4, 4), "must give uint8.*float32"),
        (v2.PILToTensor(), "of one shape, this one gave"),
    ):
        with pytest.raises(ValueError, match=says):
            listed(data.Batches(split, 4, seed=0, augment=view, workers=0))
    with pytest.raises(ValueError, match="a LazySplit takes a view"):
        data.Batches(split, 4, seed=0, augment=data.Augment())


# -- ImageNet and Imagenette
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_imagenet(monkeypatch, photos, tmp_path):
    """root/imagenet is a tree of the photos, taken for whole."""
    monkeypatch.setattr(imagenet, "CLASSES", 3)
    monkeypatch.setattr(imagenet, "PER_CLASS", {"train": (5, 9), "val": (3, 3)})
    photos.rename(tmp_path / "imagenet")
    return tmp_path


def test_imagenet_from_a_tree(small_imagenet):
    loaded = data.load("imagenet", small_imagenet)
    assert (len(loaded.train), len(loaded.test), loaded.classes) == (21, 9, WNIDS)
    assert data.load("imagenet", small_imagenet / "imagenet").fingerprint == loaded.fingerprint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: shutil.rmtree(d / "train" / WNIDS[2]), "train: 2 class folders where ImageNet has 3"),
        (
            lambda d: (d / "val" / WNIDS[2] / "0.JPEG").unlink(),
            f"{WNIDS[2]}: 2 images where ImageNet has 3 to 3",
        ),
        (lambda d: (d / "train" / "n01440764.tar").touch(), "n01440764.tar: unpacking was cut off"),
        (lambda d: shutil.rmtree(d / "val"), "ILSVRC2012_img_val.tar: missing"),
        (lambda d: (d / "val" / WNIDS[2]).rename(d / "val" / "n09999999"), "'n02102040' is missing"),
    ],
)
def test_incomplete_imagenet_says_what_is_wrong(small_imagenet, change, says):
    change(small_imagenet / "imagenet")
    with pytest.raises(data.DataError, match=says):
        data.load("imagenet", small_imagenet)


def test_a_small_tree_is_not_taken_for_imagenet(photos, tmp_path):
    photos.rename(tmp_path / "imagenet")
    with pytest.raises(
        data.DataError, match="3 class folders where ImageNet has 1000; for another tree use lazyfolder:PATH"
    ):
        data.load("imagenet", tmp_path)


def test_archives_are_unpacked_by_torchvision(small_imagenet, monkeypatch):
    folder = small_imagenet / "imagenet"
    hidden = folder.rename(small_imagenet / "hidden")
    folder.mkdir()
    for name in imagenet.ARCHIVES[:2]:
        (folder / name).touch()
    with pytest.raises(data.DataError, match="devkit_t12.tar.gz: missing"):
        data.load("imagenet", small_imagenet)
    (folder / imagenet.ARCHIVES[2]).touch()
    with pytest.raises(data.DataError, match="img_train.tar: could not be unpacked.*corrupted"):
        data.load("imagenet", small_imagenet)  # torchvision checks the MD5 sums
    monkeypatch.setattr(
        torchvision.datasets, "ImageNet", lambda root, split: shutil.copytree(hidden / split, root / split)
    )
    assert len(data.load("imagenet", small_imagenet).train) == 21


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps(os.system), pickle.dumps(7)], ids=["empty", "text", "code", "number"])
def test_what_a_stranger_left_in_meta_bin_is_an_error(small_imagenet, content):
    folder = small_imagenet / "imagenet"
    shutil.rmtree(folder / "val")
    for name in imagenet.ARCHIVES:
        (folder / name).touch()
    (folder / "meta.bin").write_bytes(content)
    with pytest.raises(data.DataError, match="img_val.tar: could not be unpacked"):
        data.load("imagenet", small_imagenet)


def test_imagenette_is_torchvisions(photos, tmp_path):
    (tmp_path / "root").mkdir()
    shutil.rmtree(photos / "train" / WNIDS[1])
    shutil.rmtree(photos / "val" / WNIDS[1])  # not one of Imagenette's classes
    photos.rename(tmp_path / "root" / "imagenette2-320")
    loaded = data.load("imagenette", tmp_path / "root")
    want = torchvision.datasets.Imagenette(tmp_path / "root", "val", size="320px")
    assert loaded.classes == tuple(want.wnids) and len(loaded.test) == len(want)
    for i in range(len(want)):
        image, label = want[i]
        assert loaded.test.labels[i] == label
        assert np.array_equal(np.asarray(loaded.test.decode(i)), np.asarray(image))


def test_what_an_image_shows_in_an_epoch_does_not_depend_on_its_batch(photos):
    split = data.load(f"lazyfolder:{photos}").train
    shown = {}
    for size in (3, 8):
        for index, x, _ in data.Batches(split, size, seed=4, augment=random_corner(), workers=0).epoch(2):
            for i, image in zip(index.tolist(), x, strict=True):
                assert torch.equal(shown.setdefault(i, image), image)
