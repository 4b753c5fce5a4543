"""The packed files that come with the book: their table on the scoreboard page, and their downloads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bnnlib.book import tables


@dataclass(frozen=True)
class Net:
    """A packed file of ``results/models``. ``top1``: of the file itself, per cent, where its answers or a verification are
    recorded (``verified``), else as recorded in training."""

    path: Path
    about: dict
    title: str
    top1: float
    verified: bool

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @property
    def whitening(self) -> int:
        """Bytes that the whitening of its images takes in the file."""
        from bnnlib.deploy import container, files

        if not (self.about.get("images") or {}).get("whitening"):
            return 0
        tensors = container.read(self.path)[1]
        return sum(tensors[name].nbytes for name in files.WHITENING)


def nets(root: Path) -> list[Net]:
    """The packed files, by name."""
    from bnnlib import deploy, recipes
    from bnnlib.experiments import predictions

    found = []
    for path in sorted((root / "results" / "models").glob("*.safetensors")):
        about = deploy.info(path)
        top1, record = about["top1"], root / "results" / "verified" / f"{path.stem}.json"
        agreement = json.loads(record.read_text())["agreement"] if record.is_file() else None
        answers = predictions.read(path.stem, path, root / "results" / "predictions")
        if answers:
            top1 = answers.top1
        elif agreement:
            top1 = agreement["top1"][about["real"]]
        found.append(Net(path, about, recipes.load(about["recipe"]).title, top1, bool(answers or agreement)))
    return found


def packed_nets(root: Path) -> tuple[str, dict[str, bytes]]:
    """A table of the packed files with a download of each, and the files by their path below the book's sources."""
    rows, files = [], {}
    for net in nets(root):
        files[f"models/{net.path.name}"] = net.path.read_bytes()
        rows.append(
            {
                "network": net.title,
                "data": net.about["dataset"],
                "file": tables.file_size(net.size) + (f", {tables.file_size(net.whitening)} of it whitening" if net.whitening else ""),
                "real-valued rest": net.about["real"],
                "top-1, %": f"{net.top1:.2f}",
                "measured on": "this file" if net.verified else "the trained net",
                "download": f"{{download}}`{net.path.stem} <models/{net.path.name}>`",
            }
        )
    return tables.markdown(rows) + "\n" if rows else "*None yet.*\n", files
