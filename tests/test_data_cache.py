"""The cache of decoded trees: used while it is true, made anew when it is not, and no obstacle where there is no room."""

import os
import threading
from pathlib import Path

import pytest
import torch
import torchvision
from data_files import write_tree
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from bnnlib import data
from bnnlib.data import cache, folders


def cached(alone):
    return sorted((alone / "decoded").glob("*"))


def test_a_tree_is_decoded_once(alone, tmp_path, monkeypatch):
    write_tree(tmp_path / "t")
    first = data.load(f"imagefolder:{tmp_path / 't'}")
    assert len(cached(alone)) == 2  # one file a split
    monkeypatch.setattr(folders, "decode", None)
    again = data.load(f"imagefolder:{tmp_path / 't'}")
    assert torch.equal(first.train.images, again.train.images) and first.fingerprint == again.fingerprint


@pytest.mark.parametrize("what", ["pixels", "name", "time", "added", "removed"])
def test_a_changed_tree_is_decoded_anew_and_the_old_copy_goes(alone, tmp_path, what):
    write_tree(tmp_path / "t")
    before = data.load(f"imagefolder:{tmp_path / 't'}").train
    path = tmp_path / "t" / "train" / "a" / "0.png"
    if what == "pixels":
        Image.new("RGB", (9, 6), "red").save(path)
    elif what == "name":  # 0 becomes 9: the order of the images changes
        path.rename(path.with_name("9.png"))
    elif what == "time":
        os.utime(path, ns=(1, 1))
    elif what == "added":
        Image.new("RGB", (9, 6), "red").save(path.with_name("3.png"))
    else:
        path.unlink()
    after = data.load(f"imagefolder:{tmp_path / 't'}").train
    want = torchvision.datasets.ImageFolder(tmp_path / "t" / "train", TF.pil_to_tensor)
    assert torch.equal(after.images, torch.stack([image for image, _ in want]))
    assert torch.equal(before.images, after.images) == (what == "time")
    assert len(cached(alone)) == 2


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-100], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1]), None]
)
def test_a_damaged_cache_file_is_made_anew(alone, tmp_path, damage):
    write_tree(tmp_path / "t")
    want = data.load(f"imagefolder:{tmp_path / 't'}").fingerprint
    for path in cached(alone):
        content = path.read_bytes()
        path.unlink()
        if damage is None:
            path.mkdir()
        else:
            path.write_bytes(damage(content))
    assert data.load(f"imagefolder:{tmp_path / 't'}").fingerprint == want
    if damage is not None:
        assert cached(alone) and all(cache.read(path) is not None for path in cached(alone))


def test_no_room_for_the_cache_is_no_obstacle(alone, tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    write_tree(tmp_path / "t")
    assert len(data.load(f"imagefolder:{tmp_path / 't'}").train) == 6
    assert cached(alone) == []  # nothing half-written stays


def test_a_cache_folder_that_cannot_be_made_is_no_obstacle(alone, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_tree(tmp_path / "t")
    assert len(data.load(f"imagefolder:{tmp_path / 't'}").train) == 6


def test_loads_may_race(alone, tmp_path):
    write_tree(tmp_path / "t", count=40)
    barrier, results = threading.Barrier(6), []

    def run():
        barrier.wait()
        results.append(data.load(f"imagefolder:{tmp_path / 't'}").fingerprint)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and len(set(results)) == 1
    assert len(cached(alone)) == 2 and all(path.suffix == ".safetensors" for path in cached(alone))


def test_left_overs_of_killed_writers_go_when_they_are_old(alone):
    alone.joinpath("decoded").mkdir(parents=True)
    old, new, other = (alone / "decoded" / n for n in ("g-x.a.part", "g-x.b.part", "h-x.part"))
    for path in (old, new, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    cache.remember("g", "x", lambda: {"a": torch.arange(3)})
    assert not old.exists() and new.exists() and other.exists()


def test_the_cache_folder_is_in_the_home_without_xdg(alone, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "bnnlib" / "data"
