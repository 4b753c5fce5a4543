"""ResNet-18 as S5 has it: parameters counted by hand, the order of a block written out, and the variants."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from bnnlib import layers, models, recipes
from bnnlib.book.studies import inventory
from bnnlib.models import resnet
from bnnlib.training import building, loop, schedules

# (in, out) of the eight blocks; a block has two 3x3 convs, and a 1x1 conv in its shortcut where they differ.
BLOCKS = ((64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512))
BODY = sum(i * o * 9 + o * o * 9 for i, o in BLOCKS)
DOWN = sum(i * o for i, o in BLOCKS if i != o)
STEM = 3 * 64 * 49 + 2 * 64
NORMS = sum(2 * (i + o + o) for i, o in BLOCKS) + sum(2 * o for i, o in BLOCKS if i != o)
CHANNELS = sum(2 * o for _, o in BLOCKS)  # of the outputs of all 3x3 convs
SIDES = {224: (56, 28, 14, 7), 64: (16, 8, 4, 2)}  # after the large stem


def count(net):
    return sum(p.numel() for p in net.parameters())


def head(classes):
    return 512 * classes + classes


def test_hand_count_of_the_parts():
    assert BODY == 10_985_472
    assert DOWN == 172_032
    # torchvision's ResNet-18 has 11,689,512 parameters and no batch norm at the head of its blocks
    assert STEM + BODY + DOWN + NORMS + head(1000) == 11_689_512 + sum(2 * i for i, _ in BLOCKS)


@pytest.mark.parametrize(("image", "classes"), [(224, 1000), (64, 200)])
def test_parameters(image, classes):
    real = STEM + BODY + DOWN + NORMS + head(classes)
    options = {"image": image, "classes": classes}
    assert count(models.build("resnet18-real", **options)) == real
    sides = SIDES[image]
    vectors = CHANNELS + sum(2 * side for side in sides) * 4  # four convs a stage, rows and columns each
    expected = {
        "none": 0,
        "mean": 0,
        "learned": CHANNELS,
        "xnorpp": vectors,
        "channel-map": CHANNELS + 4 * sum(side * side for side in sides),
        "dense": sum(4 * w * side * side for w, side in zip((64, 128, 256, 512), sides, strict=True)),
    }
    for scale, more in expected.items():
        net = models.build("resnet18", scale=scale, **options)
        assert count(net) == real + more, scale
        assert sum(m.weight.numel() for m in layers.binary_layers(net).values()) == BODY


def test_parameters_of_a_binary_downsample():
    for downsample in ("binary", "binary-weight"):
        net = models.build("resnet18", image=64, classes=200, downsample=downsample)
        vectors = CHANNELS + 8 * sum(SIDES[64]) + 128 + 256 + 512 + 2 * sum(SIDES[64][1:])
        assert count(net) == STEM + BODY + DOWN + NORMS + head(200) + vectors
        binary = layers.binary_layers(net)
        assert sum(m.weight.numel() for m in binary.values()) == BODY + DOWN
        assert {m.binary_input for n, m in binary.items() if "shortcut" in n} == {downsample == "binary"}


def scramble(net):
    """Batch norms and scales that are all different, so that a wrong order shows."""
    g = torch.Generator().manual_seed(7)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in ((m.weight, 0.5, 1.5), (m.bias, -0.5, 0.5), (m.running_mean, -0.5, 0.5)):
                tensor.data.uniform_(low, high, generator=g)
            m.running_var.uniform_(0.5, 2, generator=g)
    for name, p in net.named_parameters():
        if ".scale" in name:
            p.data.uniform_(0.5, 1.5, generator=g)
    return net


def pm(v):
    return (v >= 0).double() * 2 - 1


def written_out(p, x, order="s5", binary=True, downsample="real", real_blocks=()):
    """The whole net in functions, from a state dict. Each order is spelt out as its own line of a block."""

    def bn(v, name):
        shape = (1, -1, 1, 1)
        v = (v - p[f"{name}.running_mean"].view(shape)) / (p[f"{name}.running_var"].view(shape) + 1e-5).sqrt()
        return v * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)

    def conv(v, name, stride=1, padding=1, binary=binary, sign_input=True):
        w = p[f"{name}.weight"]
        if not binary or int(name.split(".")[1]) in real_blocks:
            return F.conv2d(v, w, None, stride, padding)
        y = F.conv2d(pm(v) if sign_input else v, pm(w - w.mean(1, keepdim=True)), None, stride, padding)
        return y * p[f"{name}.scale_channel"] * p[f"{name}.scale_height"] * p[f"{name}.scale_width"]

    x = F.conv2d(x, p["stem.0.weight"], None, 2, 3)
    x = bn(x, "stem.1")
    x = F.max_pool2d(x if order == "bireal" else x.relu(), 3, 2, 1)
    for i, (a, b) in enumerate(BLOCKS):
        at, stride = f"blocks.{i}", 1 if a == b else 2
        o, c = x, [f"{at}.body.{j}" for j in range(6)]
        if order == "s5":
            o = bn(x, f"{at}.norm")
            y = bn(conv(bn(conv(o, c[0], stride).relu(), c[2]), c[3]), c[4])
        elif order == "xnor":
            o = bn(x, f"{at}.norm")
            y = conv(bn(conv(o, c[0], stride).relu(), c[2]), c[3]).relu()
        elif order == "resnet":
            y = bn(conv(bn(conv(x, c[0], stride), c[1]).relu(), c[3]), c[4])
        else:
            y = bn(conv(bn(conv(x, c[0], stride), c[1]), c[2]), c[3])
        if a != b:
            pooled = F.avg_pool2d(o, 2, ceil_mode=True, count_include_pad=False)
            kind = {"binary": binary and downsample != "real", "sign_input": downsample == "binary"}
            x = bn(conv(pooled, f"{at}.shortcut.1", 1, 0, **kind), f"{at}.shortcut.2")
        x = y + x
        x = x.relu() if order in ("s5", "resnet") else x
    x = bn(x, "last.0").relu() if order == "xnor" else x
    return F.linear(x.mean((2, 3)), p["head.2.weight"], p["head.2.bias"])


@pytest.mark.parametrize("order", ["s5", "xnor", "resnet", "bireal"])
@pytest.mark.parametrize("downsample", ["real", "binary-weight", "binary"])
def test_the_net_computes_what_is_written_out(order, downsample):
    torch.manual_seed(0)
    net = scramble(models.build("resnet18", image=40, classes=7, order=order, downsample=downsample))
    net.double().eval()
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)  # sides 10, 5, 3, 2: odd ones too
    expected = written_out(net.state_dict(), x, order, True, downsample)
    torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-10)
    # signs that follow a ReLU are all +1: with the shortcuts' signs too, the net does not see its input
    assert torch.allclose(*expected) == ((order, downsample) == ("resnet", "binary"))


@pytest.mark.parametrize("order", ["s5", "bireal"])
def test_the_real_valued_twin_is_the_same_without_signs_and_scales(order):
    torch.manual_seed(0)
    net = models.build("resnet18", image=40, classes=7, order=order, scale="none")
    real = scramble(models.build("resnet18-real", image=40, classes=7, order=order))
    assert list(net.state_dict()) == list(real.state_dict())
    real.double().eval()
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(
        real(x), written_out(real.state_dict(), x, order, binary=False), rtol=1e-9, atol=1e-10
    )


def test_xnor_net_scales_by_the_mean_of_the_centred_weight():
    torch.manual_seed(0)
    net = models.build("resnet18", image=40, classes=7, scale="mean")
    for layer in layers.binary_layers(net).values():
        centred = layer.weight - layer.weight.mean(1, keepdim=True)
        torch.testing.assert_close(layer.channel_scale(), centred.abs().mean((1, 2, 3)))


def test_in_the_real_valued_order_every_sign_is_plus_one():
    """Replace the convs of a ReLU-BN-conv net by binary ones, and the body no longer sees the image."""
    torch.manual_seed(0)
    net = models.build("resnet18", image=40, classes=7, order="resnet").eval()
    seen = []
    for layer in layers.binary_layers(net).values():
        layer.register_forward_hook(lambda m, inputs, y: seen.append((inputs[0] >= 0).all().item()))
    net(torch.randn(2, 3, 40, 40))
    assert seen == [True] * 16


@pytest.mark.parametrize("order", ["s5", "xnor", "bireal"])
def test_in_every_other_order_all_signs_see_the_image(order):
    torch.manual_seed(0)
    net = models.build("resnet18", image=40, classes=7, width=16, order=order)
    said = inventory.sign_information(net, torch.randn(8, 3, 40, 40))
    # least in Bi-Real's first layer, which sees what the max-pool raised: the norm before it can learn to shift
    assert len(said) == 16 and min(said.values()) > (0.02 if order == "bireal" else 0.5)


def test_binary_weights_start_as_s5_has_them():
    torch.manual_seed(0)
    net = models.build("resnet18", image=64)
    weights = torch.cat([m.weight.detach().flatten() for m in layers.binary_layers(net).values()])
    assert weights.min() >= 0 and weights.max() < 0.001
    assert weights.mean().item() == pytest.approx(0.0005, rel=1e-2)
    for m in layers.binary_layers(net).values():
        parts = m.transform, m.input_quantizer, m.weight_quantizer
        assert [type(part) for part in parts] == [layers.Center, layers.ClippedSTE, layers.ClippedSTE]
        assert m.constraint is m.bias is None
        assert (m.scaling_factors() == 1).all()
        assert 0.45 < (m.binary_weight() > 0).float().mean() < 0.55, "centred, though all start above zero"
    default = models.build("resnet18", image=64, weights_below=None)
    assert min(m.weight.min() for m in layers.binary_layers(default).values()) < 0
    assert models.build("resnet18", image=64, scale="learned").blocks[0].body[0].scale.unique().tolist() == [
        1
    ]


@pytest.mark.parametrize(("stem", "sides"), [("imagenet", [16, 8, 4, 2]), ("small", [64, 32, 16, 8])])
def test_stems(stem, sides):
    net = models.build("resnet18", image=64, classes=5, stem=stem).eval()
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, y: shapes.append(y.shape[-1]))
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert shapes == [side for side in sides for _ in range(2)]


@pytest.mark.parametrize(
    "options", [{}, {"scale": "dense", "downsample": "binary"}, {"order": "bireal"}], ids=str
)
def test_a_step_reaches_every_parameter(options):
    torch.manual_seed(0)
    net = models.build("resnet18", image=32, classes=4, **options)
    F.cross_entropy(net(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "s4"}, "unknown order 's4': choose one of s5, xnor, resnet, bireal"),
        ({"downsample": "none"}, "unknown downsample 'none': choose one of real, binary-weight, binary"),
        ({"stem": "cifar"}, "unknown stem 'cifar': choose one of imagenet, small"),
        ({"image": 4}, "image is 4: it must be at least 8 pixels"),
        ({"scale": "max"}, "unknown scale 'max'"),
        ({"real_blocks": [8]}, "real_blocks is [8]: it is a list of blocks, each from 0 to 7, such as [0]"),
        ({"real_blocks": [-1]}, "real_blocks is [-1]: it is a list of blocks"),
        ({"real_blocks": 3}, "real_blocks is 3: it is a list of blocks"),
        ({"real_blocks": "0"}, "real_blocks is '0': it is a list of blocks"),
        ({"real_blocks": [True]}, "real_blocks is [True]: it is a list of blocks"),
        ({"norm_eps": 0}, "norm_eps is 0: it must lie between 0 and 1"),
        ({"norm_eps": 1}, "norm_eps is 1: it must lie between 0 and 1"),
        ({"real_blocks": [1, 1]}, "real_blocks is [1, 1]: name each block once"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.build("resnet18", **options)


@pytest.mark.parametrize(("real_blocks", "downsample"), [((0,), "real"), ((2, 7), "binary")])
def test_blocks_that_stay_real_valued(real_blocks, downsample):
    torch.manual_seed(0)
    options = {"image": 40, "classes": 7, "downsample": downsample, "real_blocks": list(real_blocks)}
    net = scramble(models.build("resnet18", **options))
    assert not [n for n in layers.binary_layers(net) if int(n.split(".")[1]) in real_blocks]
    all_binary = layers.binary_layers(models.build("resnet18", **{**options, "real_blocks": []}))
    left = {n for n in all_binary if int(n.split(".")[1]) not in real_blocks}
    assert layers.binary_layers(net).keys() == left
    for i in real_blocks:  # as the real-valued twin starts them: not in [0, 0.001)
        assert net.blocks[i].body[0].weight.min() < 0
    net.double().eval()
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    expected = written_out(net.state_dict(), x, downsample=downsample, real_blocks=real_blocks)
    torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-10)


def test_a_net_whose_blocks_are_all_real_valued_is_the_twin():
    torch.manual_seed(0)
    net = scramble(models.build("resnet18", image=40, classes=7, real_blocks=range(8))).eval()
    twin = models.build("resnet18-real", image=40, classes=7).eval()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(net(x), twin(x))


def test_another_size_of_image_is_named():
    with pytest.raises(ValueError, match=re.escape("has factors for outputs of (16, 16)")):
        models.build("resnet18", image=64)(torch.zeros(2, 3, 96, 96))


def test_orders_are_documented_by_their_names():
    assert set(resnet.ORDERS) == set(resnet.Order.__args__)


# ---- recipes ----------------------------------------------------------------------------------------------

TINY = [name for name in recipes.names() if name.startswith("tiny-s5-")]


def distinct(names):
    """The first recipe of each model and optimizer: what a quick run shows."""
    found = {}
    for name in names:
        recipe = recipes.load(name)
        found.setdefault((str(recipe.model), recipe.optimizer), name)
    return sorted(found.values())


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """An ImageNet-shaped tree: class folders of images, 64 pixels a side."""
    root, rng = tmp_path_factory.mktemp("tree"), np.random.default_rng(0)
    for part, images in (("train", 16), ("val", 8)):
        for i in range(images):
            path = root / part / f"n{i % 4:08d}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.parametrize("name", distinct(TINY))
def test_every_variant_runs_in_its_quick_profile(name, tree, tmp_path):
    overrides = {"dataset": f"imagefolder:{tree}", "quick.train": 16, "quick.test": 8, "model.width": 16}
    result = loop.train(name, profile="quick", overrides=overrides, runs=tmp_path, progress=False)
    record = result.record
    assert record.curve[0].train_loss < 20 and record.parameters.total == count(result.model)
    if "-7ep" not in name:
        assert f"{name}-7ep" in TINY


def test_the_imagenet_recipe_runs_on_images_of_any_size(tree, tmp_path):
    overrides = {"dataset": f"lazyfolder:{tree}", "quick.train": 8, "quick.test": 4, "model.width": 16}
    options = {"profile": "quick", "runs": tmp_path, "progress": False}
    record = loop.train("s5-resnet18-xnorpp", overrides=overrides, **options).record
    assert record.dataset.train == 8
    with pytest.raises(recipes.RecipeError, match="decoded as they are needed: augment them by a view"):
        loop.train("s5-resnet18-xnorpp", overrides={**overrides, "augment": {"flip": True}}, **options)
    overrides["dataset"] = f"imagefolder:{tree}"
    with pytest.raises(recipes.RecipeError, match="held in memory: leave augment.view out"):
        loop.train("s5-resnet18-xnorpp", overrides=overrides, **options)


def test_the_net_with_a_block_that_was_not_binarised_differs_in_that_block_alone():
    for ending in ("", "-7ep"):
        one, other = (recipes.load(f"tiny-s5-resnet18-xnorpp{kind}{ending}") for kind in ("-real-block", ""))
        assert one.model.options == {**other.model.options, "real_blocks": [0]}
        rest = [r.model_copy(update={"model": None, "name": "", "title": "", "shortens": None}) for r in (one, other)]
        assert rest[0] == rest[1]


def test_recipes_train_as_s5_does():
    for name in (n for n in recipes.names() if n.startswith(("s5-", "tiny-s5-")) and "adam" not in n):
        r = recipes.load(name)
        o = r.optimizer
        assert (o.name, o.lr, o.momentum, o.weight_decay, o.no_decay) == (
            "sgd",
            0.1,
            0.9,
            1e-5,
            ("binary", "scale"),
        )
        assert (r.schedule.name, r.batch_size, r.epochs) == (
            "cosine-restarts",
            256,
            7 if "7ep" in name else 63,
        )
        at = [schedules.factor(r.schedule, e, r.epochs) for e in (0, 1, 3, r.epochs - 1e-3)]
        assert at == pytest.approx([1, 1, 1, 0], abs=1e-6), (
            "a cycle starts with epochs 1, 3 and 7 and ends with the run"
        )
        assert r.cost is not None


def test_the_three_nets_that_are_compared_differ_in_the_net_alone():
    for ending in ("", "-7ep"):
        nets = [recipes.load(f"tiny-s5-resnet18-{kind}{ending}") for kind in ("real", "xnor", "xnorpp")]
        rest = [r.model_copy(update={"model": None, "name": "", "title": "", "shortens": None}) for r in nets]
        assert rest[0] == rest[1] == rest[2]


def test_weight_decay_falls_on_real_valued_weights_alone():
    recipe = recipes.load("s5-resnet18-xnorpp")
    decayed, spared = building.optimizer(recipe, models.build("resnet18", image=64, classes=200)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-5, 0)
    assert sum(p.numel() for p in decayed["params"]) == STEM + DOWN + NORMS + head(200)
    assert sum(p.numel() for p in spared["params"]) == BODY + CHANNELS + 8 * sum(SIDES[64])


def after_steps(scale: str, eps: float) -> torch.Tensor:
    """The binary weights of a small net after two steps of SGD, in float64. Random shifts in the batch norms keep values off
    zero, and there is no ReLU, since rounding would decide what it passes where a sum is zero."""
    torch.manual_seed(0)
    net = models.build("resnet18", image=32, classes=10, width=8, scale=scale, order="bireal", norm_eps=eps).double().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, 0, 0.1)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        sgd.zero_grad()
        nn.functional.cross_entropy(net(torch.randn(8, 3, 32, 32).double()), torch.randint(10, (8,))).backward()
        sgd.step()
    return torch.cat([layer.weight.detach().flatten() for layer in layers.binary_layers(net).values()])


def test_without_epsilon_a_scale_for_each_channel_changes_no_step():
    plain = after_steps("none", 1e-300)
    for scale in ("mean", "learned"):
        torch.testing.assert_close(after_steps(scale, 1e-300), plain, rtol=1e-6, atol=1e-12)
    assert after_steps("mean", 1e-5).norm() > 2 * after_steps("none", 1e-5).norm()
