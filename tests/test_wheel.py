"""The library as it is installed from a wheel: without a checkout, with the packages that pyproject.toml names and no
other, it trains a step, converts, saves, loads and runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import sys, torch
from torch import nn
import bnnlib
from bnnlib import deploy
from bnnlib.layers import BinaryConv2d, project_
from bnnlib.ops import backend

assert backend().compiled, backend()
torch.manual_seed(0)
net = nn.Sequential(BinaryConv2d(1, 8, 3), nn.BatchNorm2d(8), BinaryConv2d(8, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
                    nn.Linear(64, 3))
optimizer = torch.optim.SGD(net.parameters(), 0.1)
x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
before = [p.clone() for p in net.parameters()]
nn.functional.cross_entropy(net(x), y).backward()
optimizer.step()
project_(net)
assert all((a != b).any() for a, b in zip(before, net.parameters()))
packed = deploy.convert(net.eval(), x.shape[1:])
deploy.save(packed, "net.safetensors")
again = deploy.load("net.safetensors")
with torch.no_grad():
    torch.testing.assert_close(again(x), net(x), rtol=1e-4, atol=1e-4)
print(bnnlib.__file__)
"""


def closure(names: list[str]) -> set[str]:
    """The installed distributions that ``names`` need, themselves included."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = re.split(r"[\s;<>=!~\[(]", left.pop(), maxsplit=1)[0]
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another system or Python
            continue
        found.add(key)
        left += [need for need in needs if "extra ==" not in need]
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with bnnlib's wheel unpacked, beside links to the distributions that it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".rendered.*")
    for name in ("bnnlib", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index",
         "--no-build-isolation", "--target", str(folder / "site"), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    shutil.rmtree(source)
    mine = next(metadata.distributions(name="bnnlib", path=[str(folder / "site")]))
    for name in closure([need for need in mine.requires or [] if "extra ==" not in need]):
        for file in metadata.files(name) or []:
            if ".." in file.parts:
                continue
            at = folder / "site" / file.parts[0]
            if file.parts[0] != "__pycache__" and not at.exists():
                at.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / file.parts[0])
    return folder / "site"


def run(installed: Path, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "BNN_KERNEL_CACHE": str(cwd / "cache")}
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); "
         "exec(sys.argv.pop(1))", *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_wheel_trains_converts_saves_loads_and_runs(installed, tmp_path):
    said = run(installed, PROGRAM, cwd=tmp_path)
    assert Path(said.split()[-1]).is_relative_to(installed)


def test_a_wheel_holds_the_kernels_and_the_recipes(installed):
    for pattern in ("*.h", "*.cu", "*.cuh"):
        assert {p.relative_to(ROOT / "kernels") for p in (ROOT / "kernels").rglob(pattern)} == {
            p.relative_to(installed / "bnnlib/kernels") for p in (installed / "bnnlib/kernels").rglob(pattern)
        }
    assert len(list((installed / "bnnlib/recipes").rglob("*.yaml"))) == len(list((ROOT / "bnnlib/recipes").rglob("*.yaml")))


def test_the_command_line_of_a_wheel_names_what_is_missing(installed, tmp_path):
    said = run(installed, "from bnnlib.cli import app; app(['--help'], standalone_mode=False)", cwd=tmp_path)
    assert "recipes" in said
