"""What a run shows: a bar on a terminal, a line an epoch in a log, and images/s of the images that were really seen."""

from __future__ import annotations

import io
import re
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from recipe_fields import changed

from bnnlib.data import Batches, Split
from bnnlib.training import loop, progress

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = changed(batch_size=64, quick={"train": 150, "test": 50, "epochs": 3})


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self):
        return True


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What a short run writes to a standard error of this kind."""

    def run(stream):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(RECIPE))
        monkeypatch.setattr(sys, "stderr", stream)
        loop.train(path, profile="quick", runs=tmp_path / "runs", restart=True)
        return stream.getvalue()

    return run


def test_a_log_gets_one_line_an_epoch_and_no_bar(shown):
    said = shown(io.StringIO())
    assert "\r" not in said and "\x1b" not in said
    epochs = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 3
    for i, line in enumerate(epochs, 1):
        assert re.fullmatch(
            rf"epoch {i}/3: loss \d+\.\d{{4}}, train \d+\.\d\d %, test \d+\.\d\d %, \d+ images/s, \d+ (s|min) left", line
        )
    # what is before and between says where the run lies
    rest = [line for line in said.splitlines() if line not in epochs]
    assert len(rest) < 6, rest


def test_a_terminal_gets_a_bar_and_the_lines(shown):
    said = shown(Terminal())
    assert "\r" in said and "step/s" in said
    assert said.count("epoch 3/3: loss ") == 1


@pytest.mark.parametrize("images, batch", [(3, 64), (64, 64), (65, 64), (150, 64), (7, 1)])
def test_images_per_second_count_the_images_that_were_seen(monkeypatch, images, batch):
    """Against a clock that moves by a second a step, whatever the batch is called."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    train = Batches(Split(torch.zeros(images, 1, 2, 2, dtype=torch.uint8), torch.zeros(images, dtype=torch.long)), batch, seed=0)
    steps, run = len(train), SimpleNamespace(progress=SimpleNamespace(epoch=0, step=0, images=0, training_seconds=0.0))
    run.net = SimpleNamespace(train=train, steps=steps)
    bar = progress.Bar(None, 2, "")
    for epoch in range(2):
        seen, sizes = 0, [len(y) for _, _, y in train.epoch(epoch)]
        for step, size in enumerate(sizes, 1):
            clock.now += 1
            seen += size
            run.progress.epoch, run.progress.step = epoch, step
            if step == 1:
                bar.mark = (bar.images(run), clock.now)
            assert bar.images(run) == seen
            if step > 1:
                assert bar.rate(run) == pytest.approx((seen - sizes[0]) / (step - 1))
            elif epoch == 0:
                assert bar.rate(run) is None
            else:  # of the epoch before
                assert bar.rate(run) == pytest.approx(images / steps)
        run.progress.images, run.progress.training_seconds = images, float(steps)
        clock.now += 50  # an evaluation does not count
