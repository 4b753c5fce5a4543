"""Records of signs, as chapters read and tell them."""

import numpy as np
import pytest

from bnnlib import records
from bnnlib.book.studies import signs
from bnnlib.training import diagnostics

NAMES = {"a": "first", "b": "second"}


def made(**changes):
    def layer(name, flipped, cosine):
        bins = [0] * 32
        bins[16] = 8
        return {
            "name": name, "weights": 8, "flipped": flipped, "flipped_a_step": 0.01, "mean_abs": 0.1, "histogram": bins, "cosine": cosine,
        }  # fmt: skip

    epochs = [
        {"epoch": 1, "test_top1": 60.0, "renormed_top1": 58.5, "layers": [layer("a", 0.25, 0.5), layer("b", 0.125, None)]},
        {"epoch": 2, "test_top1": 70.0, "renormed_top1": 70.25, "layers": [layer("a", 0.0625, -0.25), layer("b", 0.03, 0.1)]},
    ]
    fields = {"recipe": "x", "recipe_hash": "0" * 64, "seed": 0, "started": "then", "epochs": epochs}
    return diagnostics.Signs(**{**fields, **changes})


def test_what_is_told_are_the_record_s_numbers():
    said = signs.told(made(), NAMES)
    assert "From epoch 1 to epoch 2" in said and "from 25.0 to 6.25 % in first and from 12.5 to 3.00 % in second" in said
    assert "+0.12 on average for first (from −0.25 to +0.50) and +0.10 on average for second" in said
    assert "by −0.62 points on average; the largest change is −1.50 points, after epoch 1" in said


def test_all_layers_are_drawn():
    figure = signs.draw(made(), NAMES)
    flips, weights, cosine, norm = figure.axes
    assert [line.get_label() for line in flips.lines] == ["first", "second"]
    assert np.allclose(flips.lines[0].get_ydata(), [25, 6.25])
    assert np.isnan(cosine.lines[1].get_ydata()[0])
    assert len(weights.lines) == len(norm.lines) == 2


def test_signs_belong_to_the_run_beside_them(tmp_path, a_record):
    run = a_record(recipe="x", seed=0)
    assert signs.of("x", 0, tmp_path) is None
    path = records.path_of("x", 0, tmp_path)
    path.parent.mkdir()
    records.write(run, path)
    beside = diagnostics.path_of(path)
    fields = made().model_dump()
    diagnostics.write(beside, **{**fields, "started": run.started, "recipe_hash": run.recipe_hash})
    assert len(signs.of("x", 0, tmp_path).epochs) == 2
    assert [r.recipe for r in records.read_all(tmp_path)] == ["x"], "no run record is taken for one of signs, nor the reverse"
    diagnostics.write(beside, **fields)
    with pytest.raises(records.RecordError, match="of another run"):
        signs.of("x", 0, tmp_path)
