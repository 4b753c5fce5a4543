"""Fetching a set from the network: at once or not at all.

Everything is downloaded and unpacked in a temporary folder beside its destination and moved there when it is
whole. A machine without a network finds that out in seconds.
"""

from __future__ import annotations

import contextlib
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
    download = DOWNLOADS[name]
    probe(download.urls)
    target = root / download.folder
    print(f"fetching {name} ({download.size} MB) into {target}, once", flush=True)
    temporary = None
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=f".{download.folder}-"))
        socket.setdefaulttimeout(STALL_SECONDS)  # torchvision sets none of its own
        with contextlib.nullcontext() if progress else _quiet():
            download.get(str(temporary))
        if not target.exists():  # another process may have been faster
            with contextlib.suppress(FileExistsError):
                os.rename(temporary / download.folder, target)
    except (
        Exception
    ) as error:  # torchvision lets OSError, RuntimeError, EOFError, BadZipFile and others through
        raise DownloadFailed(f"fetching {name} failed: {error}") from error
    finally:
        socket.setdefaulttimeout(timeout)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
