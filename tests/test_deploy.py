"""Packed files: what they weigh, that they give back the same predictions, that a damaged one is named."""

import errno
import json
import os
import random
import re

import pytest
import safetensors.torch
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

from bnnlib import deploy, layers, models, recipes
from bnnlib.deploy import DeployError, container
from bnnlib.packing import pack_bits
from bnnlib.quantizers import sign


class Tiny(nn.Module):
    """Every kind of layer that a file may hold: real and binary convs and linear layers, norms, shifts."""

    def __init__(self, conv: dict, linear: dict, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.conv = layers.BinaryConv2d(width, 7, 3, padding=1, **conv)
        self.act = layers.RPReLU(7)
        self.sign = layers.RSign(7)
        self.linear = layers.BinaryLinear(7 * 4 * 4, 9, **linear)
        self.last = nn.Linear(9, 5)

    def forward(self, x):
        x = self.act(self.conv(self.norm(self.first(x))))
        return self.last(self.linear(self.sign(x).flatten(1)))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A model of this file's own, ``tiny``, among those that build knows."""
    builders = dict(models.BUILDERS)
    monkeypatch.setattr(models, "BUILDERS", builders)

    @models.register("tiny")
    def build(conv: dict | None = None, linear: dict | None = None, width: int = 3):
        return Tiny(conv or {}, linear or {}, width)


@pytest.fixture
def recipe(tmp_path):
    """A recipe of a model with its options."""

    def recipe(name="tiny", **options):
        path = tmp_path / "net.yaml"
        fields = {
            "title": "Net",
            "source": "ours",
            "dataset": "digits",
            "epochs": 1,
            "model": {"name": name, **options},
            "optimizer": {"lr": 0.1},
        }
        path.write_text(yaml.safe_dump(fields))
        return recipes.load(path)

    return recipe


def trained(recipe, seed=0):
    """A model whose every number differs from what building it gives, in evaluation mode."""
    torch.manual_seed(seed)
    model = models.build(recipe.model.name, **recipe.model.options)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(
                    torch.rand(tensor.shape)
                    if name.endswith("running_var")
                    else 0.3 * torch.randn(tensor.shape)
                )
        for layer in layers.binary_layers(model).values():
            layer.weight.view(-1)[::6] = 0.0  # zeros become +1, as in evaluation
    return model.eval()


def save(model, path, recipe, **options):
    return deploy.save(
        model, path, recipe=recipe, seed=3, top1=98.5, fingerprint="sha256:" + "0" * 64, **options
    )


def images(seed=1, shape=(20, 2, 6, 6)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- there and back ----------------------------------------------------------------------------------------

KINDS = {
    "mean": {},
    "none": {"conv": {"scale": "none"}, "linear": {"scale": "none"}},
    "learned": {"conv": {"scale": "learned"}, "linear": {"scale": "learned"}},
    "xnorpp": {"conv": {"scale": "xnorpp", "output_size": [4, 4]}},
    "dense": {"conv": {"scale": "dense", "output_size": [4, 4]}},
    "channel-map": {"conv": {"scale": "channel-map", "output_size": [4, 4]}},
    "centred": {"conv": {"transform": "center"}, "linear": {"transform": "center"}},
    "standardized": {
        "conv": {"transform": "standardize", "scale": "learned"},
        "linear": {"transform": "standardize"},
    },
    "clipped": {"conv": {"latent": "center-clip"}, "linear": {"latent": "clip"}},
    "K, padding, zero": {
        "conv": {"input_scale": True, "padding_value": -1, "bias": True},
        "linear": {"input_scale": True, "sign_of_zero": -1, "bias": False},
    },
    "dropout": {"conv": {"dropout": 0.5}, "linear": {"dropout": 0.2, "ste": "tanh"}},
    "wide": {"width": 13},
}


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_equal_bit_for_bit(recipe, tmp_path, kind):
    about = recipe(**KINDS[kind])
    model = trained(about)
    path = save(model, tmp_path / "net.safetensors", about)
    loaded = deploy.load(path)
    assert not loaded.training
    x = images()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        for name, layer in layers.binary_layers(model).items():
            assert torch.equal(loaded.get_submodule(name).weight, layer.binary_weight())
        layers.project_(loaded)  # does nothing to weights that are +-1
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("real", "bound"), [("bfloat16", 2**-7), ("int8", 1 / 127)])
def test_smaller_real_valued_parts_are_near(recipe, tmp_path, kind, real, bound):
    """bf16: half a unit in the 8th bit; int8: half a step of 1/127 of the row's largest. All else is kept."""
    about = recipe(**KINDS[kind])
    model = trained(about)
    loaded = deploy.load(save(model, tmp_path / "net.safetensors", about, real=real))
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        if name in ("first.weight", "last.weight"):
            if real == "int8":
                step = bound * tensor.flatten(1).abs().amax(1).view(-1, *[1] * (tensor.dim() - 1))
            else:
                step = 2**-7 * tensor.abs()
            assert ((state[name] - tensor).abs() <= step / 2 * 1.0001).all()
            assert not torch.equal(state[name], tensor)
        elif name not in ("conv.weight", "linear.weight"):
            assert torch.equal(state[name], tensor), name
    with torch.no_grad():  # after the last binary layer nothing but one linear map: its error is bounded
        inputs, x = [], images()
        loaded.last.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
        y = loaded(x)
        exact = nn.functional.linear(inputs[0], model.last.weight, model.last.bias)
        largest = model.last.weight.abs().amax(1)
        assert (
            (y - exact).abs() <= bound / 2 * largest * inputs[0].abs().sum(1, keepdim=True) * 1.001 + 1e-5
        ).all()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet5", (32, 1, 28, 28)), ("lenet5-real", (8, 1, 28, 28)), ("mlp", (32, 1, 28, 28))],
)
def test_the_books_models(recipe, tmp_path, name, shape):
    about = recipe(name)
    model = trained(about)
    x = images(shape=shape).relu()
    with torch.no_grad():
        y = model(x)
        assert torch.equal(deploy.load(save(model, tmp_path / "a.safetensors", about))(x), y)
        for real in ("bfloat16", "int8"):
            low = deploy.load(save(model, tmp_path / "b.safetensors", about, real=real))(x)
            assert (
                (low - y).abs().mean() < 0.2 * y.abs().mean()
            )  # random weights: signs near zero flip, as training makes rarer


def test_a_channels_last_or_double_model(recipe, tmp_path):
    about = recipe("lenet5")
    model = trained(about)
    x = images(shape=(8, 1, 28, 28))
    last = model.to(memory_format=torch.channels_last)
    loaded = deploy.load(save(last, tmp_path / "b.safetensors", about))
    with torch.no_grad():  # the layout decides the last bit of real-valued sums: equal in the same one
        x_last = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(loaded.to(memory_format=torch.channels_last)(x_last), last(x_last))
    y = model.double()(x.double())
    torch.testing.assert_close(
        deploy.load(save(model, tmp_path / "c.safetensors", about))(x).double(), y, rtol=1e-3, atol=1e-3
    )


def test_saving_leaves_the_model_as_it_was(recipe, tmp_path):
    about = recipe()
    model = trained(about)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save(model, tmp_path / "net.safetensors", about, real="int8")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_same_model_gives_the_same_bytes(recipe, tmp_path):
    about = recipe()
    assert (
        save(trained(about), tmp_path / "a", about).read_bytes()
        == save(trained(about), tmp_path / "b", about).read_bytes()
    )


def test_a_loaded_model_saves_and_trains_again(recipe, tmp_path):
    for kind, options in KINDS.items():
        about = recipe(**options)
        model = trained(about)
        again = deploy.load(
            save(
                deploy.load(save(model, tmp_path / "a.safetensors", about)), tmp_path / "b.safetensors", about
            )
        )
        x = images()
        with torch.no_grad():
            assert torch.equal(again(x), model(x)), kind
        again.train()(x).sum().backward()
        assert again.conv.weight.grad.isfinite().all()


# ---- what a file holds -----------------------------------------------------------------------------------


def test_a_binary_weight_takes_one_bit(recipe, tmp_path):
    """LeNet-5: rows of 500 and 800 bits in whole bytes, else 4 bytes a number, and a small header."""
    about = recipe("lenet5")
    model = trained(about)
    path = save(model, tmp_path / "net.safetensors", about)
    bits = 50 * ((20 * 5 * 5 + 7) // 8) + 500 * (800 // 8)
    scales = 50 + 500
    real = (
        (20 * 25 + 20) + (2 * 20) + (2 * 20 + 2 * 20 + 50) + (2 * 50 + 2 * 50 + 500) + (500 * 10 + 10)
    )  # conv1, bn1, conv2, fc1, fc2
    header = path.stat().st_size - bits - 4 * (scales + real)
    assert 8 < header < 4096
    parameters = sum(p.numel() for p in model.parameters())
    assert path.stat().st_size < 4 * parameters / 20  # 4 x 431,220 bytes as trained
    sizes = {
        real: save(model, tmp_path / "small.safetensors", about, real=real).stat().st_size
        for real in ("float32", "bfloat16", "int8")
    }
    matrices = 20 * 25 + 500 * 10
    assert sizes["float32"] - sizes["bfloat16"] == pytest.approx(2 * matrices, abs=300)
    assert sizes["float32"] - sizes["int8"] == pytest.approx(3 * matrices - 4 * (20 + 10), abs=600)


def test_the_layout_is_as_documented(recipe, tmp_path):
    """Another program can read the file: safetensors, signs packed by output channel, one JSON document."""
    about = recipe(conv={"transform": "center"})
    model = trained(about)
    path = save(model, tmp_path / "net.safetensors", about)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["bnnlib"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    centred = model.conv.weight - model.conv.weight.mean(1, keepdim=True)
    assert torch.equal(tensors["conv.weight.bits"], pack_bits(sign(centred).flatten(1)))
    assert torch.equal(tensors["conv.scale"], centred.abs().mean((1, 2, 3)))
    assert "conv.weight" not in tensors
    assert torch.equal(tensors["first.weight"], model.first.weight)
    assert metadata["packed"] == {
        "conv": {"shape": [7, 3, 3, 3], "scale": "mean"},
        "linear": {"shape": [9, 112], "scale": "mean"},
    }
    assert metadata == deploy.info(path)
    assert {k: metadata[k] for k in ("format", "recipe", "seed", "top1", "dataset", "input")} == {
        "format": 3,
        "recipe": "net",
        "seed": 3,
        "top1": 98.5,
        "dataset": "digits",
        "input": "normalized",
    }
    assert metadata["model"] == {"name": "tiny", "options": {"conv": {"transform": "center"}}}
    assert metadata["recipe_hash"] == about.hash()


# ---- damaged files -----------------------------------------------------------------------------------------


@pytest.fixture
def good(recipe, tmp_path):
    about = recipe()
    return save(trained(about), tmp_path / "good.safetensors", about)


def rewritten(path, change):
    """The file with its tensors and metadata changed by ``change(tensors, about)``."""
    about, tensors = container.read(path)
    about["format"] = 1
    change(tensors, about)
    bad = path.with_name("bad.safetensors")
    return container_of(bad, about, tensors)


def container_of(path, about, tensors):
    """A file of format 1: as another program could write it, without a checksum."""
    given = {name: torch.as_tensor(array) for name, array in tensors.items()}
    path.write_bytes(safetensors.torch.save(given, metadata={"bnnlib": json.dumps({"format": 1, **about})}))
    return path


def refuses(path, message):
    with pytest.raises(DeployError, match=message) as caught:
        deploy.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, a: a.update(format=4), "is of format 4, this version reads 1 to 3"),
        (lambda t, a: a.update(format=True), "is of format True"),
        (lambda t, a: a.update(format=2), "its checksum is missing"),
        (lambda t, a: a.update(format=None), "is of format None"),
        (lambda t, a: a["model"].update(name="lenet"), "unknown model 'lenet'"),
        (lambda t, a: a["model"]["options"].update(depth=3), "unknown option 'depth'"),
        (
            lambda t, a: a["model"]["options"].update(width=5),
            r"layer conv is of shape \(7, 3, 3, 3\), its model has \(7, 5, 3, 3\)",
        ),
        (lambda t, a: a.update(model="tiny"), "does not hold the model it names: TypeError"),
        (lambda t, a: a.pop("model"), "does not hold the model it names: KeyError"),
        (lambda t, a: a["packed"].pop("conv"), "does not hold the model it names: KeyError: 'conv'"),
        (lambda t, a: a["packed"]["conv"].update(shape=[7, 27]), "layer conv is of shape"),
        (lambda t, a: a["packed"]["conv"].update(shape=None), "does not hold"),
        (lambda t, a: t.pop("conv.weight.bits"), r"missing \['conv.weight.bits'\]"),
        (lambda t, a: t.pop("conv.scale"), "conv.scale"),
        (lambda t, a: t.pop("last.bias"), r"missing \['last.bias'\]"),
        (lambda t, a: t.update(extra=torch.zeros(2)), r"unexpected \['extra'\]"),
        (
            lambda t, a: t.update({"conv.weight.bits": torch.zeros(7, 3, dtype=torch.uint8)}),
            r"conv.weight.bits is uint8 \[7, 3\], not uint8 \[7, 4\]",
        ),
        (
            lambda t, a: t.update({"conv.weight.bits": torch.zeros(6, 4, dtype=torch.uint8)}),
            r"conv.weight.bits is uint8 \[6, 4\], not uint8 \[7, 4\]",
        ),
        (lambda t, a: t.update({"conv.weight.bits": torch.zeros(7, 4)}), "conv.weight.bits is float32"),
        (lambda t, a: t.update({"last.weight": torch.zeros(9, 5)}), r"last.weight is float32 \[9, 5\]"),
        (
            lambda t, a: t.update({"conv.scale": torch.zeros(6)}),
            r"conv.scale is float32 \[6\], not float32 \[7\]",
        ),
        (
            lambda t, a: t.update({"last.weight": torch.zeros(5, 9, dtype=torch.int8)}),
            r"missing \['last.weight.int8_scale'\]",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(good, change, message):
    refuses(rewritten(good, change), message)


@pytest.mark.parametrize("options", [{"depth": 10**9}, {"widths": [1] * 300_000}, {"depth": 10**30}, {"widths": [[[]]]}])
def test_options_of_more_layers_than_tensors_are_refused_at_once(tmp_path, options):
    container.write(tmp_path / "x", {"model": {"name": "convnet", "options": options}, "packed": {}}, {"a": torch.zeros(3).numpy()})
    with pytest.raises(DeployError, match="does not hold the model it names"):
        deploy.load(tmp_path / "x")


def test_files_that_are_not_ours(tmp_path, good):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    refuses(path, "is a safetensors file, but not one of bnnlib's")
    torch.save({"x": torch.zeros(3)}, path)
    refuses(path, "is a zip archive, such as torch.save writes, and no packed model")
    for text, message in (("{", "is damaged"), ("[]", r"is of format \[\]"), ("null", "is of format None")):
        path.write_bytes(safetensors.torch.save({"x": torch.zeros(3)}, metadata={"bnnlib": text}))
        refuses(path, message)
    refuses(tmp_path / "none.safetensors", "no packed model")
    refuses(tmp_path, "cannot be read")
    for content in (
        b"",
        b"\0" * 7,
        b"\xff" * 1000,
        b"title: a recipe\n" * 50,
        random.Random(0).randbytes(5000),
    ):
        path.write_bytes(content)
        refuses(path, "is damaged")


def test_a_file_cut_anywhere_is_named(good):
    raw = good.read_bytes()
    cut = good.with_name("cut.safetensors")
    for length in [*range(0, 20), *range(20, len(raw), max(1, len(raw) // 60)), len(raw) - 1]:
        cut.write_bytes(raw[:length])
        refuses(cut, "is damaged")
    cut.write_bytes(raw + b"\0")
    refuses(cut, "is damaged")


def test_a_garbled_header_loads_or_is_named(good):
    """Nothing but DeployError, whatever bytes of the header change; what still loads is a model."""
    raw, rng = good.read_bytes(), random.Random(1)
    header = 8 + int.from_bytes(raw[:8], "little")
    path = good.with_name("garbled.safetensors")
    refused = 0
    for _ in range(150):
        changed = bytearray(raw)
        for _ in range(rng.choice([1, 1, 3, 20])):
            changed[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            assert isinstance(deploy.load(path), nn.Module)
        except DeployError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50


def test_info_names_a_damaged_file_too(good):
    assert deploy.info(good)["recipe"] == "net"
    good.write_bytes(good.read_bytes()[:100])
    with pytest.raises(DeployError, match="good.safetensors is damaged"):
        deploy.info(good)


# ---- writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_leaves_the_old_file(recipe, good, monkeypatch, step, number):
    about = recipe()
    before = good.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(good))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        save(trained(about, seed=9), good, about)
    monkeypatch.undo()
    assert good.read_bytes() == before
    assert sorted(p.name for p in good.parent.iterdir()) == ["good.safetensors", "net.yaml"]  # no leavings


def test_a_folder_is_made_and_a_file_in_its_place_is_told(recipe, tmp_path):
    about = recipe()
    assert save(trained(about), tmp_path / "a" / "b" / "net.safetensors", about).is_file()
    with pytest.raises(OSError, match=r"net\.yaml"):
        save(trained(about), tmp_path / "net.yaml" / "net.safetensors", about)


def test_an_unknown_kind_is_refused_before_anything_is_written(recipe, tmp_path):
    about = recipe()
    with pytest.raises(ValueError, match="unknown real 'int4': choose float32, bfloat16, int8"):
        save(trained(about), tmp_path / "net.safetensors", about, real="int4")
    assert not (tmp_path / "net.safetensors").exists()


# ---- the commands ----------------------------------------------------------------------------------------


def test_info_and_export_commands(recipe, good, tmp_path):
    run = CliRunner().invoke
    shown = run(deploy.app, ["info", str(good)])
    assert shown.exit_code == 0
    assert "recipe: net" in shown.output
    assert f"size: {good.stat().st_size} bytes" in shown.output
    small = tmp_path / "small.safetensors"
    about = recipe()
    for real in ("float32", "bfloat16", "int8"):
        assert run(deploy.app, ["export", str(good), str(small), "--real", real]).exit_code == 0
        direct = deploy.load(save(trained(about), tmp_path / "direct.safetensors", about, real=real))
        with torch.no_grad():  # the way over a file changes nothing
            assert torch.equal(deploy.load(small)(images()), direct(images()))
        assert deploy.info(small)["real"] == real
    for arguments, message in (
        (["info", str(tmp_path / "none")], "no packed model"),
        (["export", str(good), str(small), "--real", "int4"], "unknown real 'int4'"),
        (["export", str(tmp_path / "net.yaml"), str(small)], "is damaged"),
    ):
        failed = run(deploy.app, arguments)
        assert failed.exit_code == 1
        assert message in failed.output
        assert "Traceback" not in failed.output


# ---- what cannot be read again is not written --------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"name": "nin", "options": {}}, "is not what .*'nin'.* builds"),
        ({"name": "no-such", "options": {}}, "unknown model 'no-such'"),
        ({"name": "lenet5", "options": {"no": 1}}, "unknown option 'no'"),
        ({"name": "lenet5", "options": {"classes": 7}}, "unknown option 'classes'|is not what"),
        ({"name": "tiny", "options": {"width": 4}}, "is not what .*'tiny'.* builds"),
        ({"name": "lenet5"}, "is described as"),
        ("lenet5", "is described as"),
    ],
)
def test_a_model_that_its_description_does_not_build_is_not_saved(tmp_path, said, message):
    path = tmp_path / "net"
    for model in (models.build("lenet5"), models.build("tiny")):
        with pytest.raises(ValueError, match=message):
            deploy.save(model, path, about={"model": said})
    with pytest.raises(ValueError, match="say what builds it: give its recipe, or about= with a 'model'"):
        deploy.save(models.build("lenet5"), path)
    assert not path.exists()
    deploy.save(models.build("lenet5"), path, about={"model": {"name": "lenet5", "options": {}}})
    assert deploy.load(path)
