"""The rooms of the library: imports between them run one way, and the lower ones need none of the book's packages."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnnlib import cli

ROOT = Path(__file__).resolve().parents[1]
# A room imports from itself and from those before it.
ROOMS = [
    "paths", "storage", "quantizers", "packing", "statistics", "native", "ops", "layers", "models", "records", "recipes", "data", "deploy", "training",
    "experiments", "benchmarks", "book", "fuzz", "standins", "cli",
]  # fmt: skip
# `python -m bnnlib.train` and its like: another name of a command, and nothing else
COMMANDS = ["__main__", "bench", "bench_deploy", "chapters", "gradients", "report", "train", "verify"]


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def imports(path: Path) -> set[str]:
    """The rooms that a file imports from, wherever in the file it does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked_alone = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in checked_alone:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bnnlib":
            found |= {room(f"{node.module}.{name.name}") for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {room(name.name) for name in node.names if name.name.startswith("bnnlib.")}
    return found - {"", "__version__", "printable"}  # what the package itself holds


def files() -> list[Path]:
    return sorted((ROOT / "bnnlib").rglob("*.py"))


def test_every_file_has_a_room():
    rooms = {room(".".join(p.relative_to(ROOT).with_suffix("").parts)) for p in files()} - {"__init__"}
    assert rooms == {*ROOMS, *COMMANDS}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT / "bnnlib")))
def test_imports_run_one_way(path):
    here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here == "__init__":
        allowed = {"standins"}
    elif here in COMMANDS:
        allowed = {"cli"}
    else:
        allowed = set(ROOMS[: ROOMS.index(here) + 1])
    assert imports(path) <= allowed


def test_layers_need_torch_and_numpy_alone():
    script = """
        import sys
        import bnnlib.layers
        import bnnlib.models
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
    """
    done = subprocess.run([sys.executable, "-c", "\n".join(map(str.strip, script.splitlines()))], capture_output=True, text=True, check=True)
    heavy = {
        "IPython", "jupyter_book", "lightning_fabric", "matplotlib", "nbformat", "pandas", "papermill", "scipy", "sklearn",
        "snakemake", "tensorboard", "torchmetrics", "torchvision", "typer",
    }  # fmt: skip
    assert not heavy & set(done.stdout.split())


def test_every_command_has_its_module():
    for command, (module, says) in cli.MODULES.items():
        assert importlib.util.find_spec(module) is not None, command
        assert says.endswith(".")
    for path in COMMANDS[1:]:  # what the older names run is a command
        text = (ROOT / "bnnlib" / f"{path}.py").read_text(encoding="utf-8")
        assert re.search(r'run\("([a-z ]+)"\)', text)[1] in cli.MODULES


@pytest.mark.parametrize("command", cli.MODULES)
def test_every_command_says_how_it_is_used(command):
    done = subprocess.run([sys.executable, "-m", "bnnlib", *command.split(), "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr[-2000:]


def test_what_tests_share_lies_in_no_test_module():
    """But for two that run another's tests and cells on purpose."""
    found = {
        (path.name, name[1])
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.finditer(r"^(?:import|from) (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {path for path, _ in found} <= {"test_cuda.py", "test_one_binary_neuron.py"}
