"""Fetching a set from the network: at once or not at all.

Everything is downloaded and unpacked in a temporary folder beside its destination and moved there when it is
whole. A machine without a network finds that out in seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROBE_SECONDS = 5.0  # for one server to answer at all
STALL_SECONDS = 30.0  # without a byte, in mid-download

TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class DownloadFailed(OSError):
    """The set could not be fetched; the message says why. Nothing was left behind."""


@dataclass(frozen=True)
class Download:
    """urls: any one that answers will do. folder: what arrives under the root. size: in MB, to warn of."""

    urls: tuple[str, ...]
    folder: str
    size: int
    get: Callable[[str], object]


def _mnist(into: str) -> None:
    from torchvision.datasets import MNIST

    MNIST(into, download=True)


def _cifar10(into: str) -> None:
    from torchvision.datasets import CIFAR10

    CIFAR10(into, download=True)


def _imagenette(into: str) -> None:
    from torchvision.datasets import Imagenette

    Imagenette(into, size="320px", download=True)


def _tiny_imagenet(into: str) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(
        TINY_IMAGENET, into, md5="90528d7ca1a48142e341f4ef8d21d0de", remove_finished=True
    )


DOWNLOADS = {
    "mnist": Download(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        "MNIST",
        12,
        _mnist,
    ),
    "cifar10": Download(("https://www.cs.toronto.edu/~kriz/",), "cifar-10-batches-py", 170, _cifar10),
    "imagenette": Download(
        ("https://s3.amazonaws.com/fast-ai-imageclas/",), "imagenette2-320", 342, _imagenette
    ),
    "tiny-imagenet": Download((TINY_IMAGENET,), "tiny-imagenet-200", 248, _tiny_imagenet),
}


def fetch(name: str, root: Path, *, progress: bool = False) -> None:
    """Download a set of `DOWNLOADS` into `root`. Raises DownloadFailed.

    progress: let torchvision draw its bars on stderr.
    """
    from bnnlib.storage import remove_leftovers, sync_folder  # here: most who read data write none

    download = DOWNLOADS[name]
    target = root / download.folder
    clear(target, name)
    probe(download.urls)
    print(f"fetching {name} ({download.size} MB) into {target}, once", flush=True)
    temporary = None
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root, f".{download.folder}-")
        temporary, held = _temporary(root, download.folder)
        socket.setdefaulttimeout(STALL_SECONDS)  # torchvision sets none of its own
        with contextlib.nullcontext() if progress else _quiet():
            download.get(str(temporary))
        if not target.exists():  # another process may have been faster
            with contextlib.suppress(FileExistsError):
                os.rename(temporary / download.folder, target)
                sync_folder(root)
    except Exception as error:  # torchvision lets OSError, RuntimeError, EOFError, BadZipFile and others through
        raise DownloadFailed(f"fetching {name} failed: {error}") from error
    finally:
        socket.setdefaulttimeout(timeout)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(held)


def clear(target: Path, name: str) -> None:
    """Make way for a download: remove a folder in which there are no files. Raises DownloadFailed, before anything is
    fetched, where there are some: they are no whole set, or it would not be fetched, and they are not ours to remove."""
    if not os.path.lexists(target):
        return
    there = [target] if not target.is_dir() or target.is_symlink() else []
    there += [Path(folder) / file for folder, _, files in os.walk(target) for file in files]
    if there:
        raise DownloadFailed(
            f"{target} is there already and does not hold {name} (it holds {os.path.relpath(there[0], target.parent)}): "
            "move it away, or complete it"
        )
    try:
        for folder, _, _ in os.walk(target, topdown=False):
            os.rmdir(folder)
    except OSError as error:
        raise DownloadFailed(f"{target} is in the way of {name} and cannot be removed: {error}") from error


def _temporary(root: Path, name: str) -> tuple[Path, int]:
    """A folder in `root`, locked by the open handle: one that is not was left by a process that was killed."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
        with contextlib.suppress(FileNotFoundError):  # another process took it for such a one
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, handle
            os.close(handle)


def probe(urls: tuple[str, ...]) -> None:
    """Raise DownloadFailed unless one of the servers answers, with whatever status."""
    reasons = []
    for url in urls:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
            return
        except urllib.error.HTTPError:
            return
        except (OSError, ValueError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', error)}")
    raise DownloadFailed("no network (" + "; ".join(reasons) + ")")


@contextlib.contextmanager
def _quiet():
    with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink):
        yield
