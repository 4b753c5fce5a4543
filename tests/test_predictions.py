"""Records of what shipped nets answer: read back as they were, refused where they do not fit, and of the files that are here."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from typer.testing import CliRunner

from bnnlib import deploy, models, recipes
from bnnlib.benchmarks import verify
from bnnlib.data import evaluate
from bnnlib.deploy import files
from bnnlib.experiments import predictions
from bnnlib.experiments.predictions import PredictionError
from bnnlib.ops import _backend


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "files" / "net.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"a packed net")
    return path


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (129, 10), (1000, 200), (64, 300)])
def test_a_record_says_what_the_logits_say(tmp_path, file, images, classes):
    draw = torch.Generator().manual_seed(images)
    scores = torch.randn(images, classes, generator=draw)
    labels = torch.randint(classes, (images,), generator=draw)
    predictions.write("net", file, scores, labels, "sha256:0", tmp_path)
    found = predictions.read("net", file, tmp_path)
    assert torch.equal(found.labels, labels) and torch.equal(found.answers, scores.argmax(1))
    kept = scores.topk(min(5, classes))
    assert torch.equal(found.classes, kept.indices)
    torch.testing.assert_close(found.logits, kept.values, rtol=1e-3, atol=1e-3)
    assert found.top1 == pytest.approx(100 * metrics.accuracy_score(labels, scores.argmax(1)))
    assert found.wrong == np.flatnonzero((scores.argmax(1) != labels).numpy()).tolist()
    table = found.confusions()
    expected = metrics.confusion_matrix(labels, scores.argmax(1), labels=range(len(table)))
    assert torch.equal(table, torch.from_numpy(expected))
    assert found.about["images"] == images and found.about["fingerprint"] == "sha256:0"


def test_accuracy_of_each_class(tmp_path, file):
    scores, labels = torch.eye(3)[[0, 0, 1, 2, 1]], torch.tensor([0, 1, 1, 2, 2])
    predictions.write("net", file, scores, labels, "sha256:0", tmp_path)
    assert predictions.read("net", file, tmp_path).of_classes() == [100.0, 50.0, 50.0]


def test_of_equal_logits_the_answer_is_the_one_of_the_net(tmp_path, file):
    scores = torch.tensor([[1.00001, 1.0], [1.0, 1.00001]])  # equal as float16
    predictions.write("net", file, scores, torch.tensor([0, 1]), "sha256:0", tmp_path)
    assert predictions.read("net", file, tmp_path).top1 == 100.0


def test_no_record_is_none_and_the_record_of_another_file_is_refused(tmp_path, file):
    assert predictions.read("net", file, tmp_path / "none") is None
    path = predictions.write("net", file, torch.eye(3), torch.arange(3), "sha256:0", tmp_path / "made")
    file.write_bytes(b"another")
    with pytest.raises(PredictionError, match="was made from another net.safetensors than the one here: run `bnn verify net`"):
        predictions.read("net", file, path.parent)
    for broken in (b"", b"{}", path.read_bytes()[:-3]):
        path.write_bytes(broken)
        with pytest.raises(PredictionError, match="is no record of predictions"):
            predictions.read("net", file, path.parent)


@pytest.mark.parametrize(
    ("scores", "message"),
    [(torch.eye(3)[:2], "do not belong together"), (torch.eye(3) / 0, "not finite"), (torch.ones(3), "do not belong")],
)
def test_answers_that_mean_nothing_are_not_kept(tmp_path, file, scores, message):
    with pytest.raises(PredictionError, match=message):
        predictions.write("net", file, scores, torch.arange(3), "sha256:0", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_stored_records_are_of_the_files_that_are_shipped():
    for path in deploy.FOLDER.glob("*.safetensors"):
        found = predictions.read(path.stem)
        assert found is not None, f"no answers of {path.stem}: bnn verify {path.stem} --only predictions"
        assert abs(found.top1 - deploy.info(path)["top1"]) < 0.5
        verified = {r["net"]: r for r in verify.read()}.get(path.stem)
        if verified and verified["agreement"]:
            assert found.top1 == pytest.approx(verified["agreement"]["top1"]["float32"], abs=0.03)


@pytest.mark.skipif(isinstance(_backend.backend(), _backend.Fallback), reason="no compiled kernels here")
def test_verify_keeps_what_the_packed_net_answers(tmp_path, monkeypatch):
    torch.manual_seed(0)
    recipe = recipes.load("s4-lenet5").model_copy(update={"dataset": "digits"})
    model = models.build("lenet5").eval()
    path = tmp_path / "s4-lenet5.safetensors"
    deploy.save(model, path, recipe=recipe, seed=0, top1=12.34, fingerprint="sha256:0")
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    answer = CliRunner().invoke(verify.app, ["s4-lenet5", "--only", "predictions", "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    found = predictions.read("s4-lenet5", path, tmp_path / "out")
    from bnnlib import data

    digits = data.load("digits")
    expected = evaluate.logits(deploy.load(path), digits.test, evaluate.input_transform("normalized", digits))
    torch.testing.assert_close(found.logits[:, 0], expected.max(1).values, rtol=2e-3, atol=2e-3)
    assert verify.write_predictions("s1-vgg") is None
