"""The set-up: one list of dependencies in three files, and a clear sentence for what a machine lacks.

`setup_env.sh` runs here on a copy, with a PATH that holds only what the test puts there.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


# ---- the three lists of dependencies -----------------------------------------------------------------------


def pins() -> list[Requirement]:
    """The pinned packages of requirements.txt, one per version and marker."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line and line[0] not in "# "]


def pinned_versions(python: str) -> dict[str, str]:
    """Name -> version that requirements.txt gives on Linux x86-64 under the Python `python` ("3.12")."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(machine):
            name = canonicalize_name(pin.name)
            assert name not in found, f"two versions of {name} for Python {python}"
            found[name] = str(pin.specifier).removeprefix("==")
    return found


def direct(*extras: str) -> list[Requirement]:
    """The dependencies that pyproject.toml names, with those of the extras."""
    names = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return [named for named in map(Requirement, names) if named.name != "bnnlib"]  # an extra that takes another along


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_requirements_pin_every_direct_dependency_within_its_range(python: str) -> None:
    versions = pinned_versions(python)
    for requirement in direct("train", "book", "bench", "test", "dev"):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is in pyproject.toml but not in requirements.txt: make pins"
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}: make pins"


def test_requirements_are_hashed_and_name_no_source() -> None:
    text = (ROOT / "requirements.txt").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text, flags=re.IGNORECASE)[1:]
    assert len(blocks) == len(pins())
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
    assert "://" not in text
    assert not re.search(r"^\s*(-i|-f|--index|--extra-index|--find-links|--trusted)", text, re.MULTILINE)


def test_conda_environment_repeats_the_pins_of_the_direct_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert sorted(re.split("[=<>]", line)[0] for line in conda) == ["cxx-compiler", "pip", "python"]
    python = next(line for line in conda if line.startswith("python")).split("=")[1]
    versions = pinned_versions(python)
    names = sorted({canonicalize_name(requirement.name) for requirement in direct("train", "book", "bench", "test")})
    assert last["pip"] == [f"{name}=={versions[name]}" for name in names]


def test_no_second_lock_file() -> None:
    tracked = subprocess.run(["git", "ls-files", "*uv.lock"], cwd=ROOT, capture_output=True, text=True)
    assert tracked.stdout == ""


# ---- the Makefile ------------------------------------------------------------------------------------------


def test_make_help_lists_the_targets() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^make ([\w-]+) ", shown, re.MULTILINE)
    assert set(listed) == set("env book test fuzz kernels data chapters train plan reproduce bench bench-kernels lab clean".split())
    makefile = (ROOT / "Makefile").read_text()
    for target in listed:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# ---- what a machine may lack -------------------------------------------------------------------------------


class Machine:
    """A folder with setup_env.sh and requirements.txt, and a PATH with nothing but chosen programs."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "check out"  # a blank in the path, too
        self.checkout.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("setup_env.sh", "requirements.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.checkout)
        for tool in ("sh", "cat", "cmp", "dirname", "awk", "rm", "mv", "env"):
            os.symlink(shutil.which(tool), self.bin / tool)

    def program(self, name: str, text: str) -> None:
        """Puts a shell script of that name on PATH."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def python(self, name: str, *, refuses: str = "no such word") -> None:
        """Puts this very Python on PATH, failing on any `-c` program that contains the word `refuses`."""
        self.program(name, f'case "$*" in *"{refuses}"*) exit 1;; esac\nexec "{sys._base_executable}" "$@"')

    def setup(self, **environment: str) -> subprocess.CompletedProcess:
        environment = {"PATH": str(self.bin), "HOME": str(self.bin), **environment}
        script = str(self.checkout / "setup_env.sh")
        return subprocess.run([script], env=environment, capture_output=True, text=True)

    def refusal(self, **environment: str) -> str:
        """The one sentence with which setup_env.sh refuses."""
        result = self.setup(**environment)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("setup: ")
        return result.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_python(machine: Machine) -> None:
    assert "no Python from 3.11 to 3.14 is on PATH" in machine.refusal()


def test_python_too_old(machine: Machine) -> None:
    machine.python("python3", refuses="version_info[:2] <=")
    assert "no Python from 3.11 to 3.14 is on PATH" in machine.refusal()
    assert "PYTHON=python3 is not a Python from 3.11 to 3.14" in machine.refusal(PYTHON="python3")


def test_chosen_python_does_not_exist(machine: Machine) -> None:
    machine.python("python3")
    assert "PYTHON=/nowhere/python is not" in machine.refusal(PYTHON="/nowhere/python")


def test_no_venv_module(machine: Machine) -> None:
    machine.python("python3", refuses="ensurepip")
    assert "lacks the venv module" in machine.refusal()


def test_no_python_headers(machine: Machine) -> None:
    machine.python("python3", refuses="Python.h")
    assert "lacks Python.h" in machine.refusal()


def test_an_incomplete_python_is_passed_over_for_a_complete_one(machine: Machine) -> None:
    machine.python("python3.11", refuses="ensurepip")
    machine.python("python3")
    assert "C++ compiler g++ does not run" in machine.refusal()  # so the Python was found


def test_no_compiler(machine: Machine) -> None:
    machine.python("python3")
    assert "C++ compiler g++ does not run" in machine.refusal()
    assert "C++ compiler no-such-g++ does not run" in machine.refusal(CXX="no-such-g++")


def test_no_network_and_a_half_made_environment(machine: Machine) -> None:
    """What an interrupted set-up left is removed, not used; and without a network nothing says it is finished.

    pip is sent to a closed port of this machine, and told not to look anywhere else.
    """
    machine.python("python3")
    machine.program("g++", "exit 0")
    left = machine.checkout / ".venv" / "bin"
    left.mkdir(parents=True)
    (left / "python").symlink_to(sys.executable)
    (left / "left-over").touch()
    sentence = machine.refusal(PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="http://127.0.0.1:9/")
    assert "is there a network?" in sentence
    assert not (left / "left-over").exists()
    assert not (machine.checkout / ".venv" / "finished").exists()


def finished(machine: Machine) -> Path:
    """A .venv as setup_env.sh leaves it."""
    folder = machine.checkout / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys._base_executable)
    stamp = folder / "finished"
    stamp.write_text(f"in {machine.checkout}\n" + (machine.checkout / "requirements.txt").read_text())
    return stamp


def test_a_finished_environment_needs_nothing(machine: Machine) -> None:
    finished(machine)
    assert machine.setup().returncode == 0  # no Python, no compiler, no network


@pytest.mark.parametrize("change", ["requirements", "folder", "python gone"])
def test_a_finished_environment_is_outdated_by(machine: Machine, change: str) -> None:
    stamp = finished(machine)
    if change == "requirements":
        with (machine.checkout / "requirements.txt").open("a") as file:
            file.write("# one more\n")
    elif change == "folder":
        stamp.write_text(stamp.read_text().replace(str(machine.checkout), "/elsewhere"))
    else:
        (stamp.parent / "bin" / "python").unlink()
    assert "no Python" in machine.refusal()


def test_another_python_asked_for_outdates_it(machine: Machine) -> None:
    finished(machine)
    machine.python("same")
    machine.program("other", "echo 3.99")
    assert machine.setup(PYTHON="same").returncode == 0
    assert machine.refusal(PYTHON="other")
