"""Train nets in which the gradient of the scaled sign can matter, each gradient at a rate of its own.

    python -m bnnlib.book.studies.scale_gradients search mlp    # validation accuracy of a grid of rates
    python -m bnnlib.book.studies.scale_gradients run mlp       # ten seeds at the best rate; the errors of each, by image

Batch norm and Adam hide the scale of a gradient. The recipes ``ours-<net>-gradient-<gradient>`` have neither. One more,
``longer``, is ``detached`` with steps about as long as those of ``identity``. ``search`` trains
each of them at every rate of ``RATES`` with the seeds of ``SEARCH_SEEDS``, which ``run`` does not use, and keeps the
accuracy on validation images; the test set plays no part in it. The rate that a recipe states is the best of its grid. ``run``
writes the record of each run as any training does, and which test images it got wrong, so that two gradients can be
compared image by image. Both go on where they were stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Annotated, get_args

import typer

from bnnlib import data, quantizers, recipes, records, storage
from bnnlib.data import evaluate
from bnnlib.paths import RESULTS
from bnnlib.training import loop

FOLDER = RESULTS / "gradients"
GRADIENTS: tuple[str, ...] = get_args(quantizers.WeightGradient)
ARMS = (*GRADIENTS, "longer")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SEARCH_SEEDS = (100, 101)


def names(net: str) -> dict[str, str]:
    """The recipe of each gradient for ``net``. Raises :class:`bnnlib.recipes.RecipeError` for a net without such recipes."""
    return {gradient: recipes.load(f"ours-{net}-gradient-{gradient}").name for gradient in ARMS}


def rates_path(net: str) -> Path:
    """The file of validation accuracies by rate."""
    return FOLDER / f"rates-{net}.json"


def errors_path(net: str) -> Path:
    """The file of wrong test images."""
    return FOLDER / f"errors-{net}.json"


def read(path: Path) -> dict:
    """A file of this module, or an empty one where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def search(net: str, data_root: Path | None = None) -> dict:
    """Validation accuracy, top-1 % of the last epoch, by gradient, rate and seed; NaN that stopped a run counts as null."""
    found = read(rates_path(net))
    for gradient, name in names(net).items():
        for rate in RATES:
            for seed in SEARCH_SEEDS:
                tried = found.setdefault("validation_top1", {}).setdefault(gradient, {}).setdefault(str(rate), {})
                if str(seed) in tried:
                    continue
                try:
                    made = loop.train(name, seed=seed, data_root=data_root, overrides={"optimizer.lr": rate}, progress=False)
                    tried[str(seed)] = made.record.curve[-1].validation_top1
                except loop.TrainingError as diverged:
                    tried[str(seed)] = None
                    print(diverged, file=sys.stderr)
                _keep(found, rates_path(net))
                print(f"{name} rate {rate} seed {seed}: {tried[str(seed)]}", flush=True)
    return found


def best_rates(net: str) -> dict[str, float]:
    """The rate of the highest mean validation accuracy, by gradient. A rate at which a run diverged is not chosen."""
    best = {}
    for gradient, tried in read(rates_path(net))["validation_top1"].items():
        means = {
            float(rate): statistics.fmean(by_seed.values()) for rate, by_seed in tried.items() if None not in by_seed.values()
        }
        best[gradient] = max(means, key=means.__getitem__)
    return best


def run(net: str, data_root: Path | None = None) -> dict:
    """Train every seed of every gradient's recipe, and keep the wrong test images of each, by gradient and seed."""
    found = read(errors_path(net))
    for gradient, name in names(net).items():
        recipe = recipes.load(name)
        for seed in range(recipe.seeds):
            by_seed = found.setdefault("wrong", {}).setdefault(gradient, {})
            if str(seed) in by_seed:
                continue
            made = loop.train(name, seed=seed, data_root=data_root, out=records.FOLDER, progress=False)
            dataset = data.load(recipe.dataset, data_root)
            scores = evaluate.logits(made.model, dataset.test, evaluate.input_transform(recipe.input, dataset))
            wrong = (scores.argmax(1) != dataset.test.labels).nonzero().flatten().tolist()
            by_seed[str(seed)] = wrong
            found["test_images"] = len(dataset.test)
            found["fingerprint"] = dataset.fingerprint
            _keep(found, errors_path(net))
            print(f"{name} seed {seed}: {made.record.top1_last:.2f} %, {len(wrong)} wrong", flush=True)
    return found


def _keep(found: dict, path: Path) -> None:
    found["commit"] = records.commit().model_dump()
    found["versions"] = records.versions()
    storage.write_atomically(path, (json.dumps(found) + "\n").encode())


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
Net = Annotated[str, typer.Argument(help="mlp or lenet5, of the recipes ours-<net>-gradient-*")]
Data = Annotated[Path | None, typer.Option("--data", help="folder of the data sets")]


@app.command(name="search")
def _search(net: Net, data_root: Data = None) -> None:
    """Try every rate for every gradient on validation images."""
    search(net, data_root)
    for gradient, rate in best_rates(net).items():
        print(f"{gradient}: best rate {rate}")


@app.command(name="run")
def _run(net: Net, data_root: Data = None) -> None:
    """Train ten seeds of every gradient."""
    run(net, data_root)


if __name__ == "__main__":
    app(prog_name="python -m bnnlib.book.studies.scale_gradients")
