"""The Snakefile, in a repository whose training is a stand-in: what it runs, what it leaves alone, and how it
goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAIN = """
import os, pathlib, sys, time
name, seed = sys.argv[1], sys.argv[sys.argv.index("--seed") + 1]
if os.path.exists("slow"):
    pathlib.Path("started").touch()
    time.sleep(60)
open("trained", "a").write(f"{name} {seed}\\n")
pathlib.Path(f"results/runs/{name}/seed{seed}.json").write_text("{}")
"""
RECIPE = """
title: A
source: ours
dataset: digits
model: {name: mlp}
epochs: 1
optimizer: {name: adam, lr: 0.1}
seeds: 2
"""


@pytest.fixture
def root(tmp_path):
    """The repository, in a folder with a space in its path, and so is the interpreter that runs it."""
    tmp_path = tmp_path / "a folder"
    tmp_path.mkdir()
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("Snakefile", "_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    library = tmp_path / "bnnlib"
    (library / "recipes").mkdir(parents=True)
    for path in (ROOT / "bnnlib" / "recipes").glob("*.py"):
        shutil.copy(path, library / "recipes")
    (library / "__init__.py").write_text("")
    (library / "train.py").write_text(TRAIN)
    (library / "recipes" / "teacher.yaml").write_text(RECIPE)
    (library / "recipes" / "student.yaml").write_text(
        "extends: teacher\nseeds: 1\ndistill: {teacher: teacher}\n"
    )
    (library / "recipes" / "large.yaml").write_text("extends: teacher\ndataset: imagenet\n")
    for folder in ("book", "kernels", "notebooks", "results/runs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notebooks" / "one.ipynb").write_text("{}")
    (tmp_path / "kernels" / "loops.inl").touch()
    return tmp_path


# `snakemake`, without what jsonschema takes seconds to compile at import and nothing here needs.
START = "import sys; sys.modules['rfc3987_syntax'] = None; from snakemake.cli import main; main()"
COMMAND = [f".venv/bin/{Path(sys.executable).name}", "-c", START, "--cores", "1", "--nocolor"]


def environment(root):
    return {k: v for k, v in os.environ.items() if k != "SNAKEMAKE_PROFILE"} | {"PYTHONPATH": str(root)}


def snakemake(root, *arguments):
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=root, env=environment(root), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def counts(output):
    """Rule to number of jobs, from snakemake's table of them."""
    lines = output[output.index("Job stats:") :].splitlines()[3:]
    rows = [line.split() for line in lines[: lines.index("")]] if "" in lines else []
    return {row[0]: int(row[1]) for row in rows if row and row[0] != "total"}


def test_records_are_made_once_and_everything_else_follows_the_code(root):
    code, output = snakemake(root, "--dry-run")
    assert code == 0, output
    assert counts(output) == {
        "book": 1,
        "chapter": 1,
        "train": 3,
    }  # the recipe for ImageNet is not run unasked

    code, output = snakemake(root, "results/runs/student/seed0.json", "results/runs/teacher/seed1.json")
    assert code == 0, output
    assert "snakemake --unlock && snakemake --cores 1 --rerun-incomplete" in output
    trained = (root / "trained").read_text().splitlines()
    assert sorted(trained) == ["student 0", "teacher 0", "teacher 1"]
    assert trained.index("teacher 0") < trained.index("student 0")

    chapter = root / "build" / "chapters" / "stored" / "one.ipynb"
    chapter.parent.mkdir(parents=True)
    chapter.touch()
    site = root / "build" / "html" / "index.html"
    site.parent.mkdir(parents=True)
    site.touch()
    assert "Nothing to be done" in snakemake(root, "--dry-run")[1]
    later = time.time() + 60
    os.utime(root / "kernels" / "loops.inl", (later, later))
    assert counts(snakemake(root, "--dry-run")[1]) == {"book": 1, "chapter": 1}
    os.utime(root / "kernels" / "loops.inl", (0, 0))

    # A recipe and the code have changed: chapters and book are made again, no record is.
    with (root / "bnnlib" / "recipes" / "teacher.yaml").open("a") as file:
        file.write("batch_size: 64\n")
    for name in ("recipes/teacher.yaml", "train.py"):
        os.utime(root / "bnnlib" / name, (later, later))
    with (root / "Snakefile").open("a") as file:
        file.write("# changed\n")
    assert counts(snakemake(root, "--dry-run")[1]) == {"book": 1, "chapter": 1}

    # One that is gone is made again, and its student is not.
    (root / "results" / "runs" / "teacher" / "seed0.json").unlink()
    assert counts(snakemake(root, "--dry-run")[1])["train"] == 1


def test_every_kind_of_source_counts_as_code():
    """A change of any file of the library and of the kernels makes the chapters anew."""
    tracked = subprocess.run(["git", "ls-files", "bnnlib", "kernels"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("no git checkout")
    named = re.search(r"suffixes = \{(.*?)\}", (ROOT / "Snakefile").read_text())[1]
    assert {Path(line).suffix for line in tracked.stdout.splitlines()} == set(re.findall(r'"(\.\w+)"', named))


def test_a_killed_run_goes_on_by_the_commands_it_named(root):
    target = "results/runs/teacher/seed0.json"
    (root / "slow").touch()
    with (root / "log").open("w") as log:
        words = {
            "cwd": root,
            "env": environment(root),
            "stdout": log,
            "stderr": log,
            "start_new_session": True,
        }
        running = subprocess.Popen([*COMMAND, target], **words)
    try:
        for _ in range(600):
            if (root / "started").exists():
                break
            time.sleep(0.1)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    log = (root / "log").read_text()
    assert (root / "started").exists(), log
    assert "snakemake --unlock && snakemake --cores 1 --rerun-incomplete" in log
    (root / "slow").unlink()
    code, output = snakemake(root, target)
    assert code != 0 and "--unlock" in output
    assert snakemake(root, "--unlock")[0] == 0
    code, output = snakemake(root, target, "--rerun-incomplete")
    assert code == 0 and (root / target).exists(), output
