"""What becomes of the signs in training: the records of :mod:`bnnlib.training.diagnostics`, drawn and told.

    watched = signs.of("s4-lenet5-15ep-signs")
    signs.draw(watched, {"conv2.layer": "conv 2", "fc1.layer": "fc 1"})
    Markdown(signs.told(watched))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnnlib import records
from bnnlib.book import figures
from bnnlib.statistics import signed
from bnnlib.training import diagnostics
from bnnlib.training.diagnostics import Signs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def of(recipe: str, seed: int = 0, folder: Path = records.FOLDER) -> Signs | None:
    """The record of the signs of a run, None where there is none. Raises :class:`bnnlib.records.RecordError` where it is not of the
    run whose record lies beside it."""
    record = records.path_of(recipe, seed, folder)
    path = diagnostics.path_of(record)
    if not path.exists():
        return None
    found, run = diagnostics.read(path), records.read(record)
    if (found.started, found.recipe_hash) != (run.started, run.recipe_hash):
        raise records.RecordError(f"{path} is of another run than {record}: train {recipe} again with --replace")
    return found


def series(watched: Signs, layer: str, field: str) -> np.ndarray:
    """``field`` of a layer after each epoch, NaN where it is None."""
    values = [next(getattr(x, field) for x in epoch.layers if x.name == layer) for epoch in watched.epochs]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def draw(watched: Signs, names: Mapping[str, str]) -> Figure:
    """Four panels: share of signs that an epoch flips; latent weights after the first and the last epoch; agreement of the
    estimator with flips of the loss; test accuracy with batch norm as training left it and estimated anew. ``names``: of the
    layers, as shown."""
    import matplotlib.pyplot as plt

    fig, ((flips, weights), (cosine, norm)) = plt.subplots(2, 2, figsize=(figures.WIDTH, 5.2))
    epochs = [e.epoch for e in watched.epochs]
    centres = (np.array(diagnostics.EDGES)[1:] + np.array(diagnostics.EDGES)[:-1]) / 2
    looks = [{"color": figures.BINARY, "marker": marker, "ls": ls, "ms": 4} for marker, ls in (("o", "-"), ("^", "--"))]
    for (layer, name), look in zip(names.items(), looks, strict=True):
        flips.plot(epochs, 100 * series(watched, layer, "flipped"), label=name, **look)
        cosine.plot(epochs, series(watched, layer, "cosine"), **look)
    layer = next(iter(names))
    for epoch, colour in ((watched.epochs[0], figures.FAINT), (watched.epochs[-1], figures.BINARY)):
        found = next(x for x in epoch.layers if x.name == layer)
        share = 100 * np.array(found.histogram) / found.weights
        weights.step(centres, share, where="mid", color=colour, label=f"epoch {epoch.epoch}")
    norm.plot(epochs, [e.test_top1 for e in watched.epochs], label="as trained", **looks[0])
    norm.plot(epochs, [e.renormed_top1 for e in watched.epochs], label="estimated anew", **looks[1])
    flips.set(title="flips", xlabel="epoch", ylabel="of the signs, %", yscale="log")
    weights.set(title="latent weights", xlabel=f"latent weight of {names[layer]} / mean |W|", ylabel="of the weights, %")
    cosine.set(title="gradient", xlabel="epoch", ylabel="cosine with single flips")
    cosine.axhline(0, color=figures.FAINT, lw=1)
    norm.set(title="batch norm", xlabel="epoch", ylabel="test accuracy, %")
    for ax in (flips, weights, norm):
        ax.legend(fontsize=8)
    return fig


def told(watched: Signs, names: Mapping[str, str]) -> str:
    """What the four panels show, in sentences whose numbers come from the record: Markdown."""
    first, last = watched.epochs[0], watched.epochs[-1]
    parts = []
    for layer, name in names.items():
        flipped = 100 * series(watched, layer, "flipped")
        parts.append(f"from {flipped[0]:.1f} to {flipped[-1]:.2f} % in {name}")
    cosines = [(name, series(watched, layer, "cosine")) for layer, name in names.items()]
    agreed = " and ".join(
        f"{signed(np.nanmean(c))} on average for {name} (from {signed(np.nanmin(c))} to {signed(np.nanmax(c))})" for name, c in cosines
    )
    gains = np.array([e.renormed_top1 - e.test_top1 for e in watched.epochs])
    widest = watched.epochs[int(np.abs(gains).argmax())]
    return (
        f"One run, seed {watched.seed}:\n\n"
        f"- **Flips.** From epoch {first.epoch} to epoch {last.epoch} the share of signs that an epoch flips falls {' and '.join(parts)}.\n"
        f"- **Gradient.** The cosine between the estimator's gradient and the effect of single flips on the loss, over "
        f"{diagnostics.SAMPLED} weights of a layer, is {agreed}.\n"
        f"- **Batch norm.** Estimating it anew on {diagnostics.RENORM:,} training images changes the test accuracy by {signed(gains.mean())} "
        f"points on average; the largest change is {signed(widest.renormed_top1 - widest.test_top1)} points, after epoch {widest.epoch}."
    )
