"""From a name to a data set: where it is looked for, and what is said where it is not."""

import urllib.error
import urllib.request

import pytest
from data_files import write_mnist

from bnnlib import data
from bnnlib.data import mnist, registry


@pytest.mark.parametrize(
    "name", ["minst", "MNIST", "", "imagefolder", "imagefolder:", "folder:/tmp", "digits:x"]
)
def test_unknown_names_are_told_the_known_ones(alone, name):
    with pytest.raises(
        ValueError, match="choose one of mnist, cifar10, .*digits, .*imagefolder:PATH"
    ) as caught:
        data.load(name)
    assert repr(name) in str(caught.value)


def test_a_path_is_no_name(tmp_path):
    with pytest.raises(ValueError, match=f"a string, got PosixPath.*: name it as 'imagefolder:{tmp_path}' or 'lazyfolder:"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="a string, got 3$"):
        data.load(3)


@pytest.mark.parametrize("name", registry.SOURCES)
def test_absent_sets_name_the_three_ways(alone, tmp_path, name):
    with pytest.raises(data.DataNotFound) as caught:
        data.load(name, tmp_path / "nowhere")
    text = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    for part in (repr(name), str(tmp_path / "nowhere"), "BNN_DATA", "--set dataset=digits"):
        assert part in text
    if name == "imagenet":
        assert "image-net.org" in text
    else:
        assert f"python -m bnnlib.data fetch {name}" in text and "no network in tests" in text
    assert not (tmp_path / "nowhere").exists()  # nothing is left of the attempt


def test_download_false_asks_no_server(alone, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", None)
    with pytest.raises(data.DataNotFound, match="no download was tried"):
        data.load("cifar10", download=False)


def test_argument_before_environment_before_cache(alone, tmp_path, monkeypatch):
    for place, count in ((alone, 11), (tmp_path / "env", 12), (tmp_path / "arg", 13)):
        write_mnist(place, train=count)
    mnist.COUNT.update(train=11)
    assert len(data.load("mnist").train) == 11
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "env"))
    mnist.COUNT.update(train=12)
    assert len(data.load("mnist").train) == 12
    mnist.COUNT.update(train=13)
    assert len(data.load("mnist", tmp_path / "arg").train) == 13
    with pytest.raises(data.DataNotFound, match=r"\$BNN_DATA\)"):
        data.load("cifar10")
