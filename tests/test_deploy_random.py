"""Random small nets of all supported operations, saved and loaded: some of the thousand that ``python tests/random_nets.py`` runs."""

import pytest
import random_nets
import torch


@pytest.mark.parametrize("seed", range(40))
def test_random_nets_are_the_models_after_save_and_load(seed, tmp_path):
    what, _ = random_nets.check(seed, tmp_path)
    assert what in (None, *random_nets.LEFT_OUT), what


def test_a_sign_that_rounding_decides_is_a_tie_and_no_other_is():
    exact = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    assert not random_nets.ties(exact.float(), exact)
    assert random_nets.ties(exact.float(), exact + torch.tensor([0, 0, 1e-17]))  # zero in float32 alone
    assert random_nets.ties(torch.tensor([1.0, 1e-6]), torch.tensor([1.0, 1e-6], dtype=torch.float64))
    # a constant map, normalised: zeros up to rounding
    assert random_nets.ties(torch.tensor([5e-5, -4e-5]), torch.tensor([9e-17, 9e-17], dtype=torch.float64))
    assert random_nets.check(476, None) == ("ties", [])


def test_the_random_nets_hold_every_row_of_the_table(tmp_path):
    from bnnlib.deploy.tensorkinds import SUPPORTED

    held = {row for seed in range(40) for row in random_nets.RandomNet(seed).rows()}
    assert held == {row[0] for row in SUPPORTED} - {"form"}
