"""Measurements that stand in for images: what they measure, on small data, and that a damaged or foreign file is refused."""

import pytest
import torch

from bnnlib import data, deploy, records, storage
from bnnlib.book.studies import measured
from bnnlib.data import evaluate, whitening


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_a_flipped_channel_is_a_channel_whose_signs_are_the_opposite(digits):
    """By hooks behind the batch norm, in place of gain and shift."""
    model = deploy.load(deploy.FOLDER / f"{measured.NET}.safetensors").eval()
    inputs = evaluate.input_transform("normalized", digits)(digits.test.images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measured.accuracy_with_flipped(model, [3, 7], inputs, digits.test.labels)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def turn(module, args, y):
        y = y.clone()
        y[:, [3, 7]] *= -1
        return y

    model.conv2.bn.register_forward_hook(turn)
    with torch.no_grad():
        assert found == evaluate.top1(model(inputs), digits.test.labels)


def test_channels_and_sets(digits, tmp_path):
    found = measured.channels(digits, sizes=(2, 20), draws=3)
    assert len(found.single) == 20 and {size: len(v) for size, v in found.sets.items()} == {2: 3, 20: 1}
    assert found.dataset.name == "digits"
    path = measured.path_of(measured.Channels, tmp_path)
    storage.write_atomically(path, found.model_dump_json().encode())
    assert measured.read(measured.Channels, tmp_path) == found
    storage.write_atomically(path, found.model_copy(update={"file": "0" * 64}).model_dump_json().encode())
    with pytest.raises(records.RecordError, match="another file of ours-lenet5; make it again"):
        measured.read(measured.Channels, tmp_path)


def test_the_spectrum_is_that_of_the_covariance(digits, alone):
    found = measured.spectrum(digits)
    x = whitening.gcn(digits.train.images.double()).flatten(1)
    expected = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0).clamp(min=0)
    torch.testing.assert_close(torch.tensor(found.variances, dtype=torch.float64), expected, rtol=1e-4, atol=1e-5)
    assert found.variances == sorted(found.variances, reverse=True)


def test_an_absent_or_damaged_file_names_the_way_out(tmp_path):
    with pytest.raises(records.RecordError, match="make it with python -m bnnlib.book.studies.measured spectrum"):
        measured.read(measured.Spectrum, tmp_path)
    measured.path_of(measured.Spectrum, tmp_path).write_text("{}")
    with pytest.raises(records.RecordError, match="damaged: dataset: Field required; restore it from git"):
        measured.read(measured.Spectrum, tmp_path)


@pytest.mark.parametrize("kind", [measured.Channels, measured.Spectrum])
def test_the_books_own_are_here_and_whole(kind):
    found = measured.read(kind)
    assert found.dataset.train >= 50_000 and not found.commit.dirty
