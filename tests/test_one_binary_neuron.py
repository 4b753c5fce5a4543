"""The first chapter in small."""

from __future__ import annotations

import matplotlib
import pytest
import test_exercises

from bnnlib.book import chapters
from bnnlib.paths import ROOT

matplotlib.use("Agg")
PATH = ROOT / "notebooks" / "one-binary-neuron.ipynb"
SMALL = {"profile": "quick", "width": 20}  # no multiple of a word: the unused bits count


def run(**given) -> dict:
    """What the chapter's code cells leave behind."""
    return test_exercises.run(PATH.stem, **given)


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
def test_the_networks_learn():
    import torch

    threads = torch.get_num_threads()
    try:
        names = run(**SMALL)
    finally:
        torch.set_num_threads(threads)
    # Far above the tenth that guessing gives, in eight epochs of twenty neurons.
    assert min(names["last"]["binary"]) > 60 and min(names["one_bit"]) > 85


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profile": "fast"}, "profile is 'fast': it must be one of stored, quick, demo, full"),
        ({"low": 3, "high": 3}, "high is 3: it must be one of 0, 1, 2, 4, 5, 6, 7, 8, 9"),
        ({"width": 0}, "width is 0: it must be a whole number from 1 to 4096"),
    ],
)
def test_wrong_parameters_are_refused_in_one_sentence(given, message):
    with pytest.raises(chapters.ChapterError, match=message):
        run(**given)
