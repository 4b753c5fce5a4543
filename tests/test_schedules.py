"""Learning rates, epoch by epoch, against values worked out by hand."""

import math
import re

import pytest
from pydantic import ValidationError

from bnnlib import recipes
from bnnlib.recipes import Schedule
from bnnlib.training.schedules import factor


def test_constant():
    assert [factor(Schedule(), e, 10) for e in (0, 0.5, 9.99)] == [1, 1, 1]


def test_step_every():
    """S4's LeNet-5: x0.1 every 15 epochs of 60."""
    schedule = Schedule(name="step", every=15, gamma=0.1)
    rates = [factor(schedule, e, 60) for e in range(60)]
    assert rates == pytest.approx([1.0] * 15 + [0.1] * 15 + [0.01] * 15 + [0.001] * 15)
    assert factor(schedule, 14.999, 60) == 1  # within an epoch nothing changes
    assert factor(schedule, 15.5, 60) == pytest.approx(0.1)


def test_step_milestones():
    """S4's NIN: x0.1 at 120, 200, 240, 280."""
    schedule = Schedule(name="step", milestones=(120, 200, 240, 280), gamma=0.1)
    changes = {0: 0, 119: 0, 119.9: 0, 120: 1, 199: 1, 200: 2, 239: 2, 240: 3, 279: 3, 280: 4, 319: 4}
    for epoch, passed in changes.items():
        assert factor(schedule, epoch, 320) == pytest.approx(0.1**passed)


def test_cosine():
    schedule = Schedule(name="cosine")
    half = (1 + math.sqrt(0.5)) / 2
    assert [factor(schedule, e, 20) for e in (0, 5, 10, 15, 20)] == pytest.approx(
        [1, half, 0.5, 1 - half, 0], abs=1e-15
    )
    assert factor(schedule, 10.5, 20) < factor(schedule, 10, 20)  # follows the step, not the epoch


def test_warmup():
    schedule = Schedule(name="cosine", warmup_epochs=2)
    assert [factor(schedule, e, 62) for e in (0, 0.5, 1, 1.5)] == pytest.approx([0, 0.25, 0.5, 0.75])
    # then the whole cosine over what is left
    assert [factor(schedule, e, 62) for e in (2, 32, 62)] == pytest.approx([1, 0.5, 0], abs=1e-15)
    assert factor(Schedule(warmup_epochs=0.5), 0.25, 5) == 0.5
    assert factor(Schedule(warmup_epochs=0.5), 0.5, 5) == 1
    step = Schedule(name="step", milestones=(3,), warmup_epochs=2)
    assert [factor(step, e, 6) for e in (1, 2, 3)] == pytest.approx([0.5, 1, 0.1])


def test_restarts_end_at_1_3_7_15_31_63():
    """S5: T0 = 1, each cycle twice as long. The rate nears 0 before each of these, and is whole at it."""
    schedule = Schedule(name="cosine-restarts", first_cycle=1, growth=2)
    ends = [1, 3, 7, 15, 31, 63]
    starts = [e for e in range(90) if factor(schedule, e, 90) == 1]
    assert starts == [0, *ends]
    for start, end in zip([0, *ends], ends, strict=False):
        assert factor(schedule, end - 1e-6, 90) < 1e-9
        assert factor(schedule, (start + end) / 2, 90) == pytest.approx(0.5)
    # 90 epochs, as its command says, stop in mid-cycle: 27 of 64
    assert factor(schedule, 89.999999, 90) == pytest.approx((1 + math.cos(math.pi * 27 / 64)) / 2, rel=1e-6)


def test_restarts_of_equal_and_of_growing_length():
    equal = Schedule(name="cosine-restarts", first_cycle=4, growth=1)
    assert [e for e in range(13) if factor(equal, e, 13) == 1] == [0, 4, 8, 12]
    tripled = Schedule(name="cosine-restarts", first_cycle=2, growth=3)
    assert [e for e in range(30) if factor(tripled, e, 30) == 1] == [0, 2, 8, 26]


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule(name="step", every=3),
        Schedule(name="step", milestones=(2, 5)),
        Schedule(name="cosine"),
        Schedule(name="cosine-restarts"),
        Schedule(name="cosine", warmup_epochs=3.5),
        Schedule(name="cosine", warmup_epochs=50),
    ],
    ids=repr,
)
def test_always_within_0_and_1(schedule):
    for i in range(700):
        assert 0 <= factor(schedule, i / 10, 70) <= 1


def test_a_resumed_run_asks_for_the_same_rates():
    """A pure function of (epoch, epochs): nothing to save."""
    schedule = Schedule(name="cosine-restarts")
    forward = [factor(schedule, e, 20) for e in range(20)]
    assert [factor(schedule, e, 20) for e in reversed(range(20))] == forward[::-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "step"}, "schedule 'step' needs milestones or every"),
        (
            {"name": "step", "every": 3, "milestones": (2, 5)},
            "schedule 'step' takes milestones or every, not both",
        ),
        ({"name": "linear"}, "Input should be 'constant', 'step', 'cosine' or 'cosine-restarts'"),
        ({"warmup_epochs": -1}, "greater than or equal to 0"),
        ({"name": "step", "every": 0}, "greater than 0"),
        ({"name": "step", "every": 5, "gamma": 0}, "greater than 0"),
        ({"name": "step", "milestones": (5, 2)}, "milestones (5, 2) must be positive and rising"),
        ({"name": "step", "milestones": (0, 2)}, "milestones (0, 2) must be positive and rising"),
        ({"name": "cosine-restarts", "first_cycle": 0}, "greater than 0"),
    ],
)
def test_impossible_schedules_are_named(fields, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        Schedule(**fields)


def test_every_recipes_rate_is_positive_at_its_first_full_step():
    for name in recipes.names():
        recipe = recipes.load(name)
        assert (
            factor(recipe.schedule, max(1, recipe.schedule.warmup_epochs), recipe.epochs) > 0
            or recipe.epochs == 1
        )
