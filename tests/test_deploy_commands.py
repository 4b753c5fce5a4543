"""``python -m bnnlib.deploy``: images in, classes out; other forms of a file; and a line for what cannot be."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from bnnlib import data, deploy, models, recipes
from bnnlib.data import evaluate
from bnnlib.deploy import images

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def recipe_of(folder, **fields):
    fields = {
        "title": "Net", "source": "ours", "dataset": "digits", "epochs": 1, "model": {"name": "lenet5"},
        "optimizer": {"lr": 0.1}, **fields,
    }  # fmt: skip
    path = folder / "net.yaml"
    path.write_text(yaml.safe_dump(fields))
    return recipes.load(path)


@pytest.fixture
def net(tmp_path, digits):
    """(file, model): a LeNet-5 whose batch norms have seen the digits; its weights are random."""
    torch.manual_seed(0)
    model = models.build("lenet5").train()
    transform = data.Normalize(digits.mean, digits.std)
    with torch.no_grad():
        for _ in range(5):
            model(transform(digits.train.images[:200]))
    path = deploy.save(
        model.eval(), tmp_path / "net.safetensors", recipe=recipe_of(tmp_path), seed=0, top1=50.0, dataset=digits
    )
    return path, model


@pytest.fixture
def pictures(tmp_path, digits):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(digits.test.images[i, 0].numpy()).save(folder / f"{i}.png")
    Image.fromarray(digits.test.images[4].expand(3, -1, -1).permute(1, 2, 0).numpy()).save(folder / "4.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*arguments):
    done = CliRunner().invoke(deploy.app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done


def fails(message, *arguments):
    done = run(*arguments)
    assert done.exit_code == 1
    assert re.search(message, done.output), done.output


def lines_for(model, digits, count):
    """What must be printed for the first images of the test set."""
    with torch.no_grad():
        share = model(data.Normalize(digits.mean, digits.std)(digits.test.images[:count])).softmax(1)
    best = share.topk(3)
    return [
        ", ".join(f"{NAMES[i]} {100 * p:.1f} %" for p, i in zip(*row, strict=True))
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


@pytest.mark.parametrize("how", [(), ("--module",)])
def test_run_names_classes_of_images(net, pictures, digits, how):
    path, model = net
    expected = lines_for(model, digits, 5)
    done = run("run", path, pictures, *how)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        f"{pictures / name!s}  {text}" for name, text in zip(["0.png", "1.png", "2.png", "3.png", "4.bmp"], expected, strict=True)
    ]
    one = run("run", path, pictures / "2.png", "--top", 1, *how).output
    assert one == f"{pictures / '2.png'}  {expected[2].split(',')[0]}\n"
    assert run("run", path, pictures, "--limit", 2, *how).output.splitlines() == done.output.splitlines()[:2]


def test_run_over_a_data_set(net, digits):
    path, model = net
    scores = evaluate.logits(model, digits.test, data.Normalize(digits.mean, digits.std))
    right = int((scores.argmax(1) == digits.test.labels).sum())
    whole = run("run", path, "--dataset", "digits").output
    assert whole == f"{right} of {len(digits.test)} right: {100 * right / len(digits.test):.2f} %\n"
    few = run("run", path, "--dataset", "digits", "--limit", 3).output.splitlines()
    assert len(few) == 4 and " of 3 right" in few[3]
    for line, text, label in zip(few, lines_for(model, digits, 3), digits.test.labels.tolist(), strict=False):
        assert line.endswith(f"{NAMES[label]}:  {text}")


def test_a_packed_file_gives_the_same_classes(net, pictures, tmp_path):
    path, _ = net
    out = tmp_path / "packed.safetensors"
    done = run("export", path, out, "--packed")
    assert done.exit_code == 0 and f"{out.stat().st_size} bytes" in done.output
    assert run("run", out, pictures).output == run("run", path, pictures).output
    shown = run("info", out).output
    assert "a packed network" in shown and "binary_conv" in shown and "images: 1x28x28, 10 classes" in shown
    assert f"{50 * 63 + 500 * 100} binary weights" in shown
    about = deploy.info(out)
    assert (about["recipe"], about["top1"], about["real"]) == ("net", 50.0, "float32")
    assert "model" not in about
    fails("holds a packed network; export the trained model", "export", out, tmp_path / "x")
    fails("from which no module can be made", "run", out, pictures, "--module")
    for real in ("bfloat16", "int8"):
        done = run("export", path, out, "--packed", "--real", real)
        assert re.search(r"top-1 \d+\.\d\d %, was \d+\.\d\d %; \d+ of \d+ predictions differ", done.output), done.output
        assert real in deploy.info(out)["real"].split(", ")


def test_what_images_cannot_be(net, tmp_path, pictures):
    path, _ = net
    large = tmp_path / "large.png"
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(large)
    fails("large.png is 30x40 pixels, the network takes 28x28", "run", path, large)
    assert run("run", path, large, "--resize").exit_code == 0
    fails("notes.txt: damaged image", "run", path, pictures / "notes.txt")
    cut = tmp_path / "cut.png"
    cut.write_bytes((pictures / "0.png").read_bytes()[:60])
    fails("cut.png: damaged image", "run", path, cut)
    fails("no image .*none.png", "run", path, tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    fails("there are no images in the folder", "run", path, tmp_path / "empty")
    fails("give image files or folders, or --dataset", "run", path)
    fails("give image files or folders, or --dataset NAME, not both", "run", path, large, "--dataset", "digits")
    fails("no data set 'digit'", "run", path, "--dataset", "digit")
    fails("no packed model", "run", tmp_path / "none", large)
    assert run("run", path, large, "--limit", 0).exit_code == 2


def test_what_a_command_cannot_read_or_write(net, tmp_path, pictures, monkeypatch):
    path, _ = net
    before = path.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    for other in (path, link, path.parent / "." / path.name):
        fails("is the trained model itself, which would be lost: name another file", "export", path, other, "--real", "int8")
    assert path.read_bytes() == before
    fails(f"^error: {re.escape(str(pictures))}: Is a directory\n$", "export", path, pictures)
    fails("cannot be read: Is a directory\n$", "info", pictures)
    monkeypatch.setenv("BNN_KERNEL", "abacus")
    fails("^error: BNN_KERNEL=abacus names no kernel variant; usable here: .*reference\n$", "run", path, pictures)
    assert run("run", path, pictures, "--module").exit_code == 0  # PyTorch alone


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_images_of_more_than_8_bits_are_not_clipped(net, tmp_path, mode):
    Image.new(mode, (28, 28), 300).save(tmp_path / "deep.tiff")
    fails("deep.tiff: pixels of more than 8 bits", "run", net[0], tmp_path / "deep.tiff")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nerror: 100.00 %"


def test_no_text_of_a_file_commands_the_terminal(net, tmp_path, pictures):
    path, _ = net
    about = deploy.info(path)
    about["images"]["classes"][:] = [HOSTILE] * 10
    bad = deploy.save(deploy.load(path), tmp_path / "bad", about={**about, "recipe": HOSTILE, "dataset": HOSTILE, "input": about["input"]})
    packed = deploy.convert(deploy.load(path), (1, 28, 28)).graph
    for op in packed.ops:
        op.name = HOSTILE
    graph = deploy.save(packed, tmp_path / "graph", about={**about, "recipe": HOSTILE})
    name = tmp_path / "x\x1b[31m.png"
    name.write_bytes((pictures / "0.png").read_bytes())
    for arguments in (("info", bad), ("info", graph), ("run", bad, name), ("run", graph, name), ("run", bad, tmp_path / HOSTILE[:9])):
        done = run(*arguments)
        assert "\\x1b" in done.output + done.stderr, done.output
        assert not set("\x1b\x07\r") & set(done.output + done.stderr)
        assert not any(line.startswith("error: 100") for line in done.output.splitlines())


def test_a_packed_network_takes_the_images_that_it_says(net, tmp_path):
    about = deploy.info(net[0])
    graph = deploy.convert(deploy.load(net[0]), (1, 28, 28)).graph
    said = deploy.info(deploy.save(graph, tmp_path / "x", about=about))
    about["images"]["shape"] = said["images"]["shape"] = [1, 32, 32]
    told = r"images.shape is \[1, 32, 32\], and the network takes \[1, 28, 28\] \(channels, height, width\)"
    with pytest.raises(ValueError, match=told):
        deploy.save(graph, tmp_path / "y", about=about)
    with pytest.raises(deploy.DeployError, match=told):
        images.expected(tmp_path / "x", said)


SEEN = {"shape": [1, 28, 28], "classes": ["a", "b"], "mean": [0.5], "std": [0.5], "view": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "normalised"}, "about: input is 'normalised': it must be one of normalized, unit"),
        ({"images": {"shape": [3]}}, "about: images has no 'classes': it must have shape, classes, mean, std, view"),
        ({"images": [1, 28, 28]}, "about: images is .*: it must be a dictionary of shape"),
        ({"images": {**SEEN, "std": [0.0]}}, r"about: images.std is \[0.0\]: .*, above 0"),
        ({"images": {**SEEN, "shape": [28, 28, 1]}}, r"about: images.shape is \[28, 28, 1\]: it must be \[channels, height, width\]"),
        ({"images": {**SEEN, "classes": "ab"}}, "about: images.classes is 'ab': it must be a list of names"),
        ({"images": {**SEEN, "mean": [float("nan")]}}, r"about.images.mean\[0\] is nan: a file holds finite numbers"),
        ({"top1": float("inf")}, "about.top1 is inf: a file holds finite numbers"),
        ({"recipe": Path("x")}, "about.recipe is a PosixPath: a file holds numbers, strings, lists"),
        ({"note": {1: 2}}, "about.note has the key 1: keys must be strings"),
    ],
)
def test_a_description_is_checked_when_it_is_written(net, tmp_path, change, message):
    graph = deploy.convert(deploy.load(net[0]), (1, 28, 28)).graph
    about = {"input": "unit", "images": SEEN, **change}
    for made in (graph, deploy.load(net[0])):
        with pytest.raises(ValueError, match=message):
            deploy.save(made, tmp_path / "x", about={"model": deploy.info(net[0])["model"], **about})
    assert not (tmp_path / "x").exists()


def test_numbers_of_numpy_may_stand_in_a_description(net, tmp_path):
    seen = {**SEEN, "shape": np.array([1, 28, 28]), "mean": np.float32([0.5]), "std": (np.float64(0.25),), "classes": ("a", "b")}
    graph = deploy.convert(deploy.load(net[0]), (1, 28, 28)).graph
    path = deploy.save(graph, tmp_path / "x", about={"images": seen, "input": "unit"}, top1=np.float32(3), seed=np.int64(2))
    about = deploy.info(path)
    assert about["top1"] == 3 and about["seed"] == 2 and images.expected(path, about).std == (0.25,)


def test_a_file_that_says_nothing_of_images(net, tmp_path):
    path = deploy.save(deploy.convert(deploy.load(net[0]), (1, 28, 28)).graph, tmp_path / "x")
    fails("does not say what images its network takes: it has neither a field 'images' nor a 'dataset'", "run", path, tmp_path)


def test_run_needs_a_score_a_class(tmp_path):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 2, 1)

        def forward(self, x):
            y = self.layer(x)
            return y, y.flatten(1)

    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    about = {"input": "normalized", "images": {**SEEN, "shape": [1, 2, 2]}}
    for made, said in ((torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1)), r"\[2, 2, 2\] an image"), (Two(), "a tuple")):
        path = deploy.save(deploy.convert(made.eval(), (1, 2, 2)), tmp_path / "x.bnn", about=about)
        fails(f"^error: the network gives {said}; `run` needs one score a class$", "run", path, tmp_path / "a.png")


@pytest.mark.parametrize("command", [("run",), ("export", "--packed")])
def test_a_kernel_that_cannot_run_is_an_error_in_words(net, pictures, tmp_path, command):
    packed = deploy.save(deploy.convert(deploy.load(net[0]), (1, 28, 28)), tmp_path / "packed", about=deploy.info(net[0]))
    path, out = (packed, pictures / "0.png") if command == ("run",) else (net[0], tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-m", "bnnlib.deploy", command[0], path, out, *command[1:]],
        env={**os.environ, "BNN_KERNEL": "avx9000"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: BNN_KERNEL=avx9000"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_data_set_of_other_images(net, bnn_data):
    fails(r"cifar10 has images of \(3, 32, 32\), the network takes \(1, 28, 28\)", "run", net[0], "--dataset", "cifar10")


def test_whitening_needs_its_training_images(tmp_path, monkeypatch):
    monkeypatch.setenv("BNN_DATA", str(tmp_path))
    seen = {"shape": [3, 32, 32], "classes": ["a"], "mean": [0.5], "std": [0.5], "view": None}
    about = {"images": seen, "input": "gcn-zca", "dataset": "cifar10"}
    with pytest.raises(deploy.DeployError, match="whitening is fitted on cifar10: .* is not here"):
        images.expected(tmp_path / "x", about).transform()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1, 28]}, {"shape": [1, 28, 2**40]}, {"shape": [2, 28, 28]}, {"shape": 3}, {"mean": ["a"]},
        {"std": [0.0]}, {"shape": [1, 4096, 4096]}, {"mean": [10**400]}, {"mean": [1e999]}, {"std": [True]}, {"mean": [1.0, 2.0]},
        {"classes": [1]}, {"classes": None}, {"view": "s6"},
    ],
)  # fmt: skip
def test_a_file_that_says_nonsense_of_its_images(tmp_path, change):
    seen = {"shape": [1, 28, 28], "classes": ["a"], "mean": [0.5], "std": [0.5], "view": None}
    about = {"images": seen, "input": "unit", "dataset": "digits"}
    assert images.expected(tmp_path, about).classes == ("a",)
    for bad in ({**about, "images": {**seen, **change}}, {**about, "input": "raw"}, {**about, "images": 7}):
        with pytest.raises(deploy.DeployError, match="does not say"):
            images.expected(tmp_path, bad)


@pytest.mark.parametrize(("dataset", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32)), ("digits", (1, 28, 28))])
def test_files_of_format_1_are_known_by_their_data_set(tmp_path, dataset, shape):
    found = images.expected(tmp_path, {"dataset": dataset, "input": "normalized"})
    assert found.shape == shape and len(found.classes) == 10
    with pytest.raises(deploy.DeployError, match="does not say what images"):
        images.expected(tmp_path, {"dataset": "imagefolder:/none", "input": "unit"})


def test_images_of_any_size_are_cut_by_their_view(tmp_path):
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(tmp_path / "a.png")
    seen = {"shape": [3, 224, 224], "classes": ["a"], "mean": [0.5], "std": [0.5], "view": "s5"}
    found = images.expected(tmp_path, {"images": seen, "input": "normalized", "dataset": "imagenet"})
    assert images.read([tmp_path / "a.png"], found).shape == (1, 3, 224, 224)


# ---- ONNX ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"), [("lenet5", (1, 28, 28)), ("lenet5-real", (1, 28, 28)), ("mlp", (1, 28, 28)), ("nin", (3, 32, 32))]
)
def test_onnx_gives_the_logits_of_the_model(tmp_path, name, shape):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from bnnlib.deploy import onnx_export

    torch.manual_seed(1)
    model = models.build(name).eval()
    path = onnx_export.write(model, shape, tmp_path / "net.onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = torch.randn(9, *shape)
    (y,) = session.run(["logits"], {"images": x.numpy()})
    with torch.no_grad():
        expected = model(x)
    # another order of summation may turn a sign of a real-valued sum that is all but zero: not here
    torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-4, atol=1e-4)


def test_onnx_command(net, tmp_path, monkeypatch):
    path, _ = net
    if importlib.util.find_spec("onnx"):
        done = run("export", path, tmp_path / "net.onnx")
        assert done.exit_code == 0 and "inputs 'images'" in done.output
        assert (tmp_path / "net.onnx").stat().st_size > 4 * 400_000
    fails("an ONNX file holds floats", "export", path, tmp_path / "net.onnx", "--real", "int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fails(r"the package onnx is missing: pip install 'bnnlib\[bench\]'", "export", path, tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


def test_dark_on_bright_is_told_and_put_right(net, pictures, tmp_path):
    """A digit as people draw it, black on white: the net, trained on white on black, answers wrongly and with confidence."""
    file, _ = net
    drawn = tmp_path / "drawn.png"
    Image.fromarray(255 - np.asarray(Image.open(pictures / "0.png"))).save(drawn)
    plain, warned = run("run", file, pictures / "0.png"), run("run", file, drawn)
    assert "warning" not in plain.stderr and "drawn.png has a bright border" in warned.stderr and "--invert auto" in warned.stderr
    both = run("run", file, pictures / "0.png", drawn, "--invert", "auto")
    first, second = (line.split("  ", 1)[1].strip() for line in both.stdout.splitlines())
    assert first == second and "warning" not in both.stderr
    assert run("run", file, drawn, "--invert", "yes").stdout.split("  ", 1)[1].strip() == first
    fails("invert is 'perhaps': choose one of no, auto, yes", "run", file, drawn, "--invert", "perhaps")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette"])
def test_a_transparent_picture_is_laid_on_white(net, pictures, tmp_path, mode):
    """Its transparent pixels hold black: without the alpha channel a black digit would be black on black."""
    file, _ = net
    ink = Image.open(pictures / "0.png").convert("L")
    clear = Image.new("RGBA", ink.size, (0, 0, 0, 0))
    clear.putalpha(ink)
    path = tmp_path / "clear.png"
    if mode == "palette":
        palette = ink.point(lambda v: 1 if v > 127 else 0).convert("P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.save(path, transparency=0)
        ink = ink.point(lambda v: 255 if v > 127 else 0)
    else:
        clear.convert(mode).save(path)
    seen = images.read([path], images.expected(file, deploy.info(file)))[0, 0]
    assert (seen.int() - (255 - torch.from_numpy(np.asarray(ink)).int())).abs().max() <= 1


def test_an_onnx_file_says_what_images_it_takes(net, tmp_path):
    onnx = pytest.importorskip("onnx")
    assert run("export", net[0], tmp_path / "net.onnx").exit_code == 0
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert said["input"] == "normalized" and said["mean"] == "[0.1307]" and said["dataset"] == "digits"
