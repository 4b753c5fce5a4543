"""Downloads arrive whole or not at all, beside other processes and after killed ones."""

import fcntl
import hashlib
import http.server
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torchvision
from data_files import write_mnist

from bnnlib import data
from bnnlib.data import download, mnist


@pytest.fixture
def network(alone, monkeypatch):
    """Servers answer; what they send is up to the test: `network(get)` makes "mnist" come from it."""
    monkeypatch.setattr(download, "probe", lambda urls: None)

    def serve(get):
        monkeypatch.setitem(download.DOWNLOADS, "mnist", download.Download(("http://x",), "MNIST", 1, get))

    return serve


def test_a_download_arrives_in_the_root_and_is_used(network, alone, capsys):
    network(lambda into: write_mnist(Path(into), train=14))
    assert len(data.load("mnist").train) == 14
    assert [path.name for path in alone.iterdir()] == ["MNIST"]
    shown = capsys.readouterr()
    assert "fetching mnist" in shown.out and shown.err == ""  # chapters may not print to stderr
    network(None)
    assert len(data.load("mnist").train) == 14  # it is there now


def test_a_broken_download_leaves_nothing(network, alone):
    def breaks(into):
        write_mnist(Path(into))
        raise RuntimeError("File not found or corrupted.")

    network(breaks)
    with pytest.raises(data.DataNotFound, match="fetching mnist failed: File not found or corrupted"):
        data.load("mnist")
    assert list(alone.iterdir()) == []


def test_an_empty_folder_is_no_obstacle_to_a_download(network, alone):
    network(lambda into: write_mnist(Path(into), train=14))
    (alone / "MNIST" / "raw").mkdir(parents=True)
    assert len(data.load("mnist").train) == 14


def test_a_half_filled_folder_is_named_before_anything_is_fetched(network, alone):
    network(lambda into: pytest.fail("it was fetched"))
    (alone / "MNIST" / "raw").mkdir(parents=True)
    (alone / "MNIST" / "raw" / "notes.txt").write_text("mine")
    with pytest.raises(data.DataNotFound, match="MNIST is there already and does not hold mnist.*notes.txt.*move it away"):
        data.load("mnist")
    assert (alone / "MNIST" / "raw" / "notes.txt").read_text() == "mine"


def test_what_a_killed_download_left_goes(network, alone):
    (alone / ".MNIST-dead1234" / "MNIST").mkdir(parents=True)
    (alone / ".MNIST-dead1234" / "MNIST" / "half").write_text("")
    living = alone / ".MNIST-a11ve000"
    living.mkdir()
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a download does as long as it lives
    network(lambda into: write_mnist(Path(into), train=14))
    assert len(data.load("mnist").train) == 14
    assert sorted(alone.iterdir()) == sorted([living, alone / "MNIST"])
    os.close(handle)


def test_a_slower_download_does_not_disturb_a_faster_one(network, alone):
    def late(into):
        write_mnist(Path(into), train=14)
        write_mnist(alone, train=15)  # meanwhile, another process

    network(late)
    assert len(data.load("mnist").train) == 15
    assert [path.name for path in alone.iterdir()] == ["MNIST"]


def test_a_root_that_cannot_be_written_is_named(network, tmp_path):
    (tmp_path / "file").write_text("")
    network(lambda into: None)
    with pytest.raises(data.DataNotFound, match="fetching mnist failed.*file"):
        data.load("mnist", tmp_path / "file" / "root")


def test_mnist_through_torchvision_from_a_server(tmp_path, monkeypatch):
    """The whole way: probe, torchvision's download with its MD5 sums, unpacking, reading."""
    monkeypatch.setattr(mnist, "COUNT", dict(mnist.COUNT))
    served = tmp_path / "served"
    folder, _ = write_mnist(served, packed=True)
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    resources = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(folder.iterdir())]
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    real = download.DOWNLOADS["mnist"]
    monkeypatch.setitem(download.DOWNLOADS, "mnist", download.Download((url,), real.folder, 1, real.get))
    try:
        assert len(data.load("mnist", tmp_path / "root").train) == 20
        (folder / resources[0][0]).write_bytes(b"damaged on the way")
        with pytest.raises(data.DataNotFound, match="fetching mnist failed"):
            data.load("mnist", tmp_path / "other")
        assert list((tmp_path / "other").iterdir()) == []
    finally:
        server.shutdown()
        server.server_close()


def test_a_probe_is_satisfied_by_any_answer(monkeypatch):
    asked = []

    def answer(request, timeout):
        asked.append((request.full_url, timeout))
        if "first" in request.full_url:
            raise urllib.error.URLError("down")
        raise urllib.error.HTTPError(request.full_url, 403, "forbidden", {}, None)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    download.probe(("http://first/", "http://second/"))
    assert asked == [("http://first/", download.PROBE_SECONDS), ("http://second/", download.PROBE_SECONDS)]
