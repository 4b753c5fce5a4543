"""Whitening in a packed file: what is read is what was fitted, up to the step it says; and every shipped file runs on a PNG alone."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from bnnlib import data, deploy, models, recipes
from bnnlib.deploy import container, images, run, whitened
from bnnlib.deploy.files import WHITENING


def pictures(count, shape, seed=0):
    """Smooth random pictures: neighbouring pixels are alike, as in photographs."""
    rough = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(rough, 3, 1, 1) + 0.1 * rough
    return (127 + 80 * smooth).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def fitted():
    return data.ZCAWhitening.fit(pictures(300, (3, 5, 7)))


def decoded(tensors, shape):
    """The matrix by the definition, entry by entry."""
    c, h, w = shape
    mean, kernel, step, rest = (tensors[name] for name in WHITENING)
    size, at = c * h * w, 0
    matrix = np.zeros((size, size))
    for p in range(size):
        for q in range(p, size):
            (a, i, j), (b, k, m) = (np.unravel_index(n, shape) for n in (p, q))
            place = (a, b, i - k + h - 1, j - m + w - 1)
            level = int(rest[at // 2] >> 4 * (at % 2)) & 15
            matrix[p, q] = matrix[q, p] = float(kernel[place]) + (level - 8) * float(step[place])
            at += 1
    assert len(rest) == -(-at // 2) and len(mean) == size
    return matrix


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 3, 3), (1, 1, 1), (2, 4, 1)])
def test_the_matrix_is_the_formats_and_within_half_a_step_of_the_fitted_one(shape):
    fitted = data.ZCAWhitening.fit(pictures(60, shape))
    tensors = whitened.pack(fitted)
    whitened.check("x", tensors, shape)
    got, want = whitened.unpack(tensors, shape, fitted.scale), decoded(tensors, shape)
    np.testing.assert_allclose(got.matrix.double().numpy(), want, rtol=1e-6, atol=1e-7)
    assert torch.equal(got.mean, fitted.mean) and got.scale == fitted.scale
    largest = float(tensors[WHITENING[2]].astype(np.float64).max())
    assert np.abs(want - fitted.matrix.double().numpy()).max() <= 0.51 * largest + 4e-3 * np.abs(want).max() / 7


def test_whitened_images_are_near_those_of_the_fitted_matrix(fitted):
    x = pictures(50, (3, 5, 7), seed=1)
    tensors = whitened.pack(fitted)
    whole, kernel = (whitened.unpack(tensors, fitted.shape, fitted.scale, rest=rest)(x) for rest in (True, False))
    wanted = fitted(x)
    error = [((y - wanted).square().sum() / wanted.square().sum()).item() for y in (whole, kernel)]
    assert error[0] < 0.05 and error[0] < error[1] / 5, error


def test_what_cannot_be_held_is_refused():
    with pytest.raises(ValueError, match="of 5000 values is not held"):
        whitened.pack(data.ZCAWhitening((1, 50, 100)))
    other = data.ZCAWhitening((1, 2, 2))
    other.matrix[0, 1] = 1.0
    with pytest.raises(ValueError, match="is symmetric; this one is not"):
        whitened.pack(other)
    other.matrix.fill_(1e6)
    with pytest.raises(ValueError, match="larger eps"):
        whitened.pack(other)


# ---- files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """(file, model, whitening): a LeNet-5 of whitened digits with random weights, as the end of a training writes it."""
    folder = tmp_path_factory.mktemp("whitened")
    fields = {
        "title": "Net", "source": "ours", "dataset": "digits", "epochs": 1, "model": {"name": "lenet5"}, "input": "gcn-zca",
        "optimizer": {"lr": 0.1},
    }  # fmt: skip
    (folder / "net.yaml").write_text(yaml.safe_dump(fields))
    digits = data.load("digits")
    torch.manual_seed(0)
    model = models.build("lenet5").eval()
    path = deploy.save(model, folder / "net", recipe=recipes.load(folder / "net.yaml"), seed=0, top1=10.0, dataset=digits)
    return path, model, data.ZCAWhitening.fit(digits.train.images)


def command(*arguments):
    return CliRunner().invoke(deploy.app, list(map(str, arguments)))


def test_a_file_of_whitened_images_is_whole(net, tmp_path, monkeypatch):
    path, model, fitted = net
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(data, "load", None)
    seen = images.expected(path, deploy.info(path))
    x = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    got, want = seen.transform()(x), fitted(x)
    assert (got - want).square().sum() < 0.05 * want.square().sum()
    with torch.no_grad():
        assert torch.equal(deploy.load(path)(got), model(got))
    Image.fromarray(x[0, 0].numpy()).save(tmp_path / "x.png")
    said = command("run", path, tmp_path / "x.png")
    assert said.exit_code == 0 and said.stdout.startswith(str(tmp_path / "x.png")), said.output

    # handed on from file to file, bit for bit
    for name, options in {"again": ("--real", "bfloat16"), "graph": ("--packed",)}.items():
        out = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr("bnnlib.deploy.commands.cost", lambda *_: "")
            assert command("export", path, out, *options).exit_code == 0
        ours, theirs = (images.expected(p, deploy.info(p)) for p in (path, out))
        assert all(np.array_equal(ours.whitening[k], theirs.whitening[k]) for k in WHITENING) and ours.scale == theirs.scale
        assert "whitening of the images" in command("info", out).stdout
    assert command("run", tmp_path / "graph", tmp_path / "x.png").stdout == said.stdout
    assert run.load(tmp_path / "graph")(got.numpy()).shape == (4, 10)


def test_a_file_written_without_its_whitening_does_not_tell_of_one(net, tmp_path):
    path, model, _ = net
    again = deploy.save(model, tmp_path / "again", about=deploy.info(path))
    assert "whitening" not in deploy.info(again)["images"] and images.expected(again, deploy.info(again)).whitening is None


def test_whitening_goes_with_images_that_are_whitened(net, tmp_path):
    path, model, fitted = net
    about = deploy.info(path)
    for bad in ({**about, "input": "unit"}, {k: v for k, v in about.items() if k != "images"}):
        with pytest.raises(ValueError, match="whitening goes with a network whose input is gcn-zca"):
            deploy.save(model, tmp_path / "bad", about=bad, whitening=fitted)
    plain = {**about, "images": {k: v for k, v in about["images"].items() if k != "whitening"}}
    with pytest.raises(ValueError, match="go with the description of their file"):
        deploy.save(model, tmp_path / "bad", about=plain, whitening=whitened.pack(fitted))
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: t.pop(WHITENING[0]), "holds as images.whitening.mean nothing"),
        (lambda a, t: t.update({WHITENING[3]: t[WHITENING[3]][:-1]}), "holds as images.whitening.rest uint8"),
        (lambda a, t: t.update({WHITENING[1]: t[WHITENING[1]].astype("f4")}), "images.whitening.kernel float32"),
        (lambda a, t: t[WHITENING[2]].fill(np.inf), "has values that are not finite"),
        (lambda a, t: a["images"].update(shape=[1, 512, 512]), "whitens images of 262144 values, more than 4096"),
        (lambda a, t: a["images"]["whitening"].update(scale="55"), "does not say in a way known here"),
        (lambda a, t: a["images"]["whitening"].update(scale=1e999), "does not say in a way known here"),
        (lambda a, t: a["images"].update(whitening=7), "does not say in a way known here"),
        (lambda a, t: a.update(input="unit"), "does not say in a way known here"),
    ],
)  # fmt: skip
def test_a_changed_file_is_refused(net, tmp_path, change, message):
    about, tensors = container.read(net[0])
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(about, tensors)
    infinite = about["images"].get("whitening") == {"scale": float("inf")}
    bad = net[0] if infinite else container.write(tmp_path / "bad", about, tensors)
    with pytest.raises(deploy.DeployError, match=message):
        images.expected(bad, about if infinite else deploy.info(bad)).transform()


def test_tensors_of_a_whitening_that_no_one_tells_of_are_refused(net, tmp_path):
    about, tensors = container.read(net[0])
    del about["images"]["whitening"]
    with pytest.raises(deploy.DeployError, match="unexpected"):
        deploy.load(container.write(tmp_path / "bad", about, tensors))


# ---- the shipped files ---------------------------------------------------------------------------------------

SHIPPED = sorted(deploy.FOLDER.glob("*.safetensors"))


@pytest.mark.skipif(not SHIPPED, reason="no packed files here")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_classifies_a_png_without_a_data_set(path, tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA", str(tmp_path / "none"))
    seen = images.expected(path, deploy.info(path))
    pixels = np.random.default_rng(0).integers(0, 256, (*seen.shape[1:], seen.shape[0]), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(tmp_path / "x.png")
    done = command("run", path, tmp_path / "x.png")
    assert done.exit_code == 0, done.output
    named = [part.rsplit(" ", 2)[0] for part in done.stdout.strip().split("  ", 1)[1].split(", ")]
    assert len(named) == 3 and set(named) <= set(seen.classes)
