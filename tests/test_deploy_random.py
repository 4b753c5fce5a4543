"""Random small nets of all supported operations, saved and loaded: some of the thousand that ``python tests/random_nets.py`` runs."""

import pytest
import random_nets


@pytest.mark.parametrize("seed", range(40))
def test_random_nets_are_the_models_after_save_and_load(seed, tmp_path):
    what, _ = random_nets.check(seed, tmp_path)
    assert what in (None, "skipped"), what


def test_the_random_nets_hold_every_row_of_the_table(tmp_path):
    from bnnlib.deploy.tensorkinds import SUPPORTED

    held = {row for seed in range(40) for row in random_nets.RandomNet(seed).rows()}
    assert held == {row[0] for row in SUPPORTED} - {"form"}
