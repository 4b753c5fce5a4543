"""AlexNet as S4 has it: parameters counted by hand, the order of its layers written out."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from bnnlib import data, layers, models, recipes
from bnnlib.data import evaluate
from bnnlib.layers import BinaryConv2d, BinaryLinear
from bnnlib.training import building, loop

CONVS = ((96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3))


def linears(inputs):
    return (inputs, 4096), (4096, 4096)


def parameters(inputs, classes):
    """Weights and biases of the layers, and gamma and beta of the batch norms: one before each binary layer,
    by its inputs, one after the first conv, one before the last linear layer."""
    weights = 3 * 96 * 121 + sum(i * o * k * k for i, o, k in CONVS)
    weights += sum(i * o for i, o in linears(inputs)) + 4096 * classes
    biases = 96 + sum(o for _, o, _ in CONVS) + 2 * 4096 + classes
    norms = 2 * (96 + sum(i for i, _, _ in CONVS) + inputs + 4096 + 4096)
    return weights + biases + norms


@pytest.mark.parametrize(("image", "classes", "inputs"), [(227, 1000, 256 * 6 * 6), (64, 200, 256 * 3 * 3)])
def test_parameters(image, classes, inputs):
    expected = parameters(inputs, classes)
    binary = sum(i * o * k * k for i, o, k in CONVS) + sum(i * o for i, o in linears(inputs))
    with torch.device("meta"):  # shapes alone: a tenth of a second instead of two
        nets = [models.build(name, image=image, classes=classes) for name in ("alexnet", "alexnet-real")]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [expected, expected]
    assert sum(m.weight.numel() for m in layers.binary_layers(nets[0]).values()) == binary
    assert not layers.binary_layers(nets[1])


def test_the_sources_parameters():
    assert parameters(9216, 1000) == 62_415_592


def small():
    """The net for the smallest image, so that its linear layers are small too."""
    return models.build("alexnet", image=29, classes=5)


def test_binary_layers_are_s4s():
    binary = list(layers.binary_layers(small()).values())
    assert [type(m) for m in binary] == [BinaryConv2d] * 4 + [BinaryLinear] * 2
    for m in binary:
        assert isinstance(m.weight_quantizer, layers.ScaledSign)
        assert (m.weight_quantizer.gradient, m.weight_quantizer.gain) == ("s4", 1e9)
        assert [type(part) for part in (m.input_quantizer, m.constraint)] == [layers.ClippedSTE, layers.CenterClip]
        assert m.bias is not None
    assert [m.dropout for m in binary] == [0, 0, 0, 0, 0, 0.5]
    assert [m.groups for m in binary[:4]] == [1] * 4


def test_norms_are_s4s():
    net = small()
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert [m.eps for m in norms] == [1e-4] * 7 + [1e-3]
    assert all(m.affine for m in norms)
    with torch.no_grad():
        for m in norms:
            m.weight.fill_(-3)
    layers.project_(net)
    assert [m.weight.max().item() for m in norms] == [-3, *[pytest.approx(0.01)] * 6, -3]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("image", "stride", "padding"), [(96, 2, 5), (131, 4, 0)])
def test_the_net_computes_what_is_written_out(binary, image, stride, padding):
    torch.manual_seed(0)
    net = models.build("alexnet" if binary else "alexnet-real", image=image, classes=5).double().eval()
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.uniform_(-0.3, 0.3)
            m.running_var.uniform_(0.5, 2)
    p = net.state_dict()

    def bn(v, name, eps=1e-4):
        shape = (1, -1, 1, 1) if v.dim() == 4 else (1, -1)
        v = (v - p[f"{name}.running_mean"].view(shape)) / (p[f"{name}.running_var"].view(shape) + eps).sqrt()
        return v * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)

    def block(v, name, **options):
        v, w, b = bn(v, f"{name}.bn"), None, None
        at = f"{name}.layer" if f"{name}.layer.weight" in p else f"{name}.layer.1"  # behind a dropout
        w, b = p[f"{at}.weight"], p[f"{at}.bias"]
        if binary:
            alpha = w.abs().flatten(1).mean(1).view(-1, *[1] * (w.dim() - 1))
            v, w = torch.where(v >= 0, 1.0, -1.0).double(), torch.where(w >= 0, alpha, -alpha)
        return (F.conv2d(v, w, b, **options) if w.dim() == 4 else F.linear(v, w, b)).relu()

    def pool(v):
        return F.max_pool2d(v, 3, 2)

    x = torch.randn(2, 3, image, image, dtype=torch.float64)
    v = F.conv2d(x, p["features.0.weight"], p["features.0.bias"], stride, padding)
    v = pool(block(pool(bn(v, "features.1").relu()), "features.4", padding=2))
    for i in (6, 7, 8):
        v = block(v, f"features.{i}", padding=1)
    v = block(block(pool(v).flatten(1), "classifier.1"), "classifier.2")
    v = F.linear(bn(v, "classifier.3", 1e-3), p["classifier.5.weight"], p["classifier.5.bias"])
    torch.testing.assert_close(net(x), v, rtol=1e-8, atol=1e-9)


def test_a_step_reaches_every_parameter():
    torch.manual_seed(0)
    net = small()
    F.cross_entropy(net(torch.randn(4, 3, 29, 29)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_an_image_too_small_is_named():
    with pytest.raises(ValueError, match=re.escape("image is 28: nothing would be left after the pools")):
        models.build("alexnet", image=28)


# ---- recipes ----------------------------------------------------------------------------------------------


def test_initialisation_is_s4s():
    """Deviation 2 / n, n the inputs of an output (S4's code: no root); biases as PyTorch draws them."""
    torch.manual_seed(0)
    recipe = recipes.load("s4-alexnet", {"model": {"name": "alexnet", "image": 64, "classes": 10}})
    for module in building.model(recipe).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, BinaryConv2d, BinaryLinear)):
            n = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(2 / n, rel=0.05)
            assert 0 < module.bias.abs().max().item() <= n**-0.5


def test_input_is_on_s4s_scale():
    split = data.Split(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    dataset = data.Dataset("x", split, split, ("a",), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    transform = evaluate.input_transform("mean-subtracted", dataset)
    shown = transform(torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)).flatten()
    assert shown.tolist() == pytest.approx([200 - 255 * m for m in dataset.mean], rel=1e-5)


def test_recipes_train_as_s4_does():
    for name in ("s4-alexnet", "s4-alexnet-real", "tiny-s4-alexnet", "tiny-s4-alexnet-real"):
        r = recipes.load(name)
        assert (r.optimizer.name, r.optimizer.lr, r.optimizer.weight_decay) == ("adam", 1e-3, 1e-5)
        assert (r.epochs, r.batch_size, r.schedule.every, r.schedule.gamma) == (100, 256, 30, 0.1)
        assert (r.input, r.init) == ("mean-subtracted", "normal-fan-in")
    assert (recipes.load("s4-alexnet").augment.view, recipes.load("tiny-s4-alexnet").augment.view) == (
        "s4",
        None,
    )


def test_the_recipe_runs_in_its_quick_profile(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(8):
            path = tmp_path / part / f"n{i % 4:08d}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    overrides = {"dataset": f"imagefolder:{tmp_path}", "quick.train": 8, "quick.test": 8, "model.classes": 4}
    options = {"profile": "quick", "runs": tmp_path / "runs", "progress": False}
    record = loop.train("tiny-s4-alexnet", overrides=overrides, **options).record
    assert record.parameters.total == parameters(2304, 4)
