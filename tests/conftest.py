"""What the tests share: where the real data sets lie, for the few tests that read them; a user who has none; a record to vary;
a browser; one thread."""

import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml
from toolchains import CHROMIUM

from bnnlib import recipes, records
from bnnlib.data import mnist


@pytest.fixture(scope="session")
def bnn_data() -> Path:
    """Folder of the real data sets, `$BNN_DATA`; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("BNN_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set BNN_DATA to a folder with it (see README)")
    return Path(folder)


@pytest.fixture
def alone(monkeypatch, tmp_path) -> Path:
    """A user without data, cache or network; gives the cache folder. A test may change how many images MNIST has."""
    monkeypatch.delenv("BNN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(mnist, "COUNT", dict(mnist.COUNT))

    def refuse(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "xdg" / "bnnlib" / "data"


@pytest.fixture
def write_recipe(tmp_path):
    """A function that writes a recipe file, of a mapping or of text as it is, and gives its path."""

    def write(content, name="mine.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def a_record():
    """A function that makes a valid record of two epochs, with the given fields changed."""

    def make(**changes) -> records.Record:
        recipe = recipes.load("s4-lenet5")
        point = {
            "lr": 0.01,
            "train_loss": 0.5,
            "train_top1": 80.0,
            "test_loss": 0.4,
            "test_top5": 99.0,
            "seconds": 1.5,
        }
        fields = {
            "recipe": "s4-lenet5",
            "source": "S4",
            "resolved": recipe.resolved(),
            "recipe_hash": recipe.hash(),
            "profile": "full",
            "seed": 0,
            "dataset": {"name": "mnist", "fingerprint": "sha256:" + "0" * 64, "train": 60000, "test": 10000},
            "top1_last": 90.0,
            "top5_last": 99.0,
            "top1_best": 91.0,
            "top5_best": 99.0,
            "best_epoch": 1,
            "best_of": "test",
            "curve": [{"epoch": 1, "test_top1": 91.0, **point}, {"epoch": 2, "test_top1": 90.0, **point}],
            "parameters": {"total": 10, "binary": 8, "real": 2, "bits": 72},
            "images_per_second": 100.0,
            "wall_time_s": 3.0,
            "started": "2026-01-01T00:00:00+00:00",
            "commit": {"hash": "unknown", "dirty": True},
            "versions": {"torch": "2"},
            "hardware": {"cpu": "a cpu"},
        }
        return records.Record.model_validate(fields | changes)

    return make


@pytest.fixture
def put_record(a_record):
    """A function ``(folder, recipe, seed, last, best)`` that writes the record of a run whose two epochs ended at ``best`` and
    ``last`` % on the test set, with the given fields changed; it returns the file's path."""

    def put(folder, recipe, seed, last, best, **changes) -> Path:
        resolved = recipes.load(recipe)
        epochs = [point.model_dump() for point in a_record().curve]
        curve = [{**point, "test_top1": top1} for point, top1 in zip(epochs, (best, last), strict=True)]
        fields = {
            "recipe": recipe,
            "seed": seed,
            "resolved": resolved.resolved(),
            "recipe_hash": resolved.hash(),
            "top1_last": last,
            "top1_best": best,
            "curve": curve,
        }
        return records.write(a_record(**{**fields, **changes}), records.path_of(recipe, seed, folder))

    return put


@pytest.fixture(scope="module")
def chromium(request):
    """The system's Chromium, which finds no host but this machine; a module may name further ``CHROMIUM_OPTIONS``."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost", *getattr(request.module, "CHROMIUM_OPTIONS", [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def one_thread():
    """PyTorch on one thread, so that a training is the same to the last bit wherever it runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
