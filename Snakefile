# From nothing to the book: data -> training -> records -> chapters -> book. What is there is kept.
#
#   snakemake --dry-run                                     what would run
#   snakemake --cores 4                                     all of it (make reproduce)
#   snakemake --cores 4 --config recipes=s4-lenet5,s3-mlp   trains these recipes alone, then chapters and book
#   snakemake --cores 4 results/runs/s4-lenet5/seed5.json   one record, here one that is not shipped
#
# --config: recipes=NAME,...  threads=N (of one training)  gpu=N (GPUs of one training)

import sys

from bnnlib import recipes
from bnnlib.data.download import DOWNLOADS

PYTHON = sys.executable
RESUME = "snakemake --unlock && snakemake --cores {cores} --rerun-incomplete"

# ImageNet cannot be fetched: its recipes are run where they are asked for.
asked = [name for name in str(config.get("recipes", "")).split(",") if name]
ALL = {name: recipes.load(name) for name in asked or recipes.names()}
RECIPES = {name: recipe for name, recipe in ALL.items() if asked or recipe.dataset != "imagenet"}
CHAPTERS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb") if path.stem != "00-start")
RECORDS = [f"results/runs/{name}/seed{seed}.json" for name, recipe in RECIPES.items() for seed in range(recipe.seeds)]


def code(_):
    """What a chapter depends on besides its notebook and the records."""
    suffixes = {".py", ".js", ".yaml", ".cpp", ".h", ".inl", ".cu", ".cuh"}
    paths = [path for folder in ("bnnlib", "kernels") for path in Path(folder).rglob("*")]
    return sorted(str(path) for path in paths if path.suffix in suffixes and not path.name.startswith("."))


def needs(wildcards):
    """What training a recipe takes: its data, and the record of the teacher that it learns from.

    Nothing where the record is there already. Snakemake runs a job again when another makes one of its inputs, even an
    `ancient` one; so the first missing seed would have all the others trained again, for the sake of the data.
    """
    if Path(f"results/runs/{wildcards.recipe}/seed{wildcards.seed}.json").exists():
        return []
    recipe = recipes.load(wildcards.recipe)
    inputs = [f"build/data/{recipe.dataset}.fetched"] if recipe.dataset in DOWNLOADS else []
    if recipe.distill and recipe.distill.teacher in recipes.names():
        inputs.append(f"results/runs/{recipe.distill.teacher}/seed0.json")
    return inputs


onstart:
    print(f"If this is killed, {RESUME.format(cores=workflow.cores)} goes on where it stopped.", file=sys.stderr)

onerror:
    print(f"To go on where it stopped: {RESUME.format(cores=workflow.cores)}", file=sys.stderr)


wildcard_constraints:
    recipe=r"[a-z0-9][a-z0-9.-]*",
    seed=r"\d+",


localrules: book, data


rule book:
    input:
        "_config.yml", "_toc.yml", code,
        RECORDS,
        expand("build/chapters/stored/{name}.ipynb", name=CHAPTERS),
        [str(path) for path in sorted(Path("book").rglob("*")) if path.is_file() and path.suffix != ".pyc"],
    output:
        "build/html/index.html",
    shell:
        "{PYTHON:q} -m bnnlib.book && touch {output}"


rule chapter:
    input:
        "notebooks/{name}.ipynb", code, RECORDS,
    output:
        "build/chapters/stored/{name}.ipynb",
    shell:
        "{PYTHON:q} -m bnnlib.chapters run {wildcards.name} --profile stored"


# No recipe and no code among the inputs: a record stays until it is deleted, and one whose recipe has changed is named
# stale by `python -m bnnlib.report`. A run that was stopped goes on from its checkpoint, which lies elsewhere.
rule train:
    input:
        needs,
    output:
        "results/runs/{recipe}/seed{seed}.json",
    threads: int(config.get("threads", 1))
    resources:
        gpu=int(config.get("gpu", 0)),
        mem_mb=6000,
    shell:
        "{PYTHON:q} -m bnnlib.train {wildcards.recipe} --seed {wildcards.seed} --threads {threads}"


rule data:
    output:
        touch("build/data/{name}.fetched"),
    shell:
        "{PYTHON:q} -m bnnlib.data fetch {wildcards.name}"
