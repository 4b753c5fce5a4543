"""Augmentation against torchvision and plain loops, one image at a time."""

import math
import random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torchvision.transforms import RandomResizedCrop

from bnnlib.data import Affine, Augment, colour, geometry
from bnnlib.data.augment import boxes
from bnnlib.data.random import generator

SIZES = [(1, 1, 1), (1, 28, 28), (3, 32, 32), (3, 7, 13), (2, 13, 5)]


def pictures(count, shape, seed=0):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator(seed))


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("padding", [1, 4])
@pytest.mark.parametrize("fill", [0, 17])
def test_crop_is_a_window_of_the_padded_image(shape, padding, fill):
    x = pictures(9, shape)
    offset = torch.randint(0, 2 * padding + 1, (9, 2), generator=generator(1))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=fill)
    want = [
        p[:, a : a + shape[1], b : b + shape[2]] for p, (a, b) in zip(padded, offset.tolist(), strict=True)
    ]
    got = geometry.crop(x, offset, padding, fill)
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy(), np.stack(want))


def test_crop_draws_reach_every_offset_and_leave_the_middle_alone():
    draws = Augment(crop=2, flip=False).draw(2000, (3, 8, 8), generator(0))["crop"]
    assert {tuple(row) for row in draws.tolist()} == {(a, b) for a in range(5) for b in range(5)}
    x = pictures(1, (3, 8, 8))
    assert torch.equal(geometry.crop(x, torch.tensor([[2, 2]]), 2), x)


@pytest.mark.parametrize("shape", SIZES)
def test_flip(shape):
    x, which = pictures(6, shape), torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    want = np.stack([image[..., ::-1] if w else image for image, w in zip(x.numpy(), which, strict=True)])
    assert np.array_equal(geometry.flip(x, which).numpy(), want)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("side", [1, 2, 5, 40])
def test_cutout_against_slices(shape, side):
    x = pictures(12, shape)
    _, height, width = shape
    centre = torch.stack([torch.randint(0, n, (12,), generator=generator(n)) for n in (height, width)], 1)
    want = x.clone()
    for image, (a, b) in zip(want, centre.tolist(), strict=True):
        top, left = a - side // 2, b - side // 2
        image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 99
    assert torch.equal(geometry.cutout(x, centre, side, 99), want)


def test_cutout_centres_cover_the_image():
    draws = Augment(0, False, cutout=2).draw(4000, (1, 5, 7), generator(0))["cutout"]
    assert {tuple(row) for row in draws.tolist()} == {(a, b) for a in range(5) for b in range(7)}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 21, 34), (1, 9, 5)])
@pytest.mark.parametrize("fill", [0.0, 128.0])
def test_affine_is_torchvisions(shape, fill):
    draw = random.Random(3)
    rows = [
        (
            draw.uniform(-40, 40),
            draw.uniform(0.6, 1.5),
            draw.randint(-3, 3),
            draw.randint(-3, 3),
            draw.uniform(-25, 25),
            draw.uniform(-25, 25),
        )
        for _ in range(20)
    ] + [
        (0, 1, 0, 0, 0, 0),
        (90, 1, 0, 0, 0, 0),
        (0, 2, 0, 0, 0, 0),
        (0, 1, 2, -1, 0, 0),
        (0, 1, 0, 0, 15, 0),
    ]
    # Smooth pictures: both sides round the coordinates, which matters where the picture is rough.
    x = TF.gaussian_blur(pictures(len(rows), shape).float(), [5, 5], [1.5, 1.5])
    angle, scale, dx, dy, sx, sy = torch.tensor(rows, dtype=torch.float64).unbind(1)
    maps = geometry.affine_map(
        torch.deg2rad(angle), scale, torch.stack([dx, dy], 1), torch.deg2rad(torch.stack([sx, sy], 1))
    )
    got = geometry.affine(x, maps, fill)
    for i, (a, s, tx, ty, shear_x, shear_y) in enumerate(rows):
        # torchvision blends its own fill in twice at the border: let it put zeros around x - fill.
        want = fill + TF.affine(
            x[i] - fill,
            angle=a,
            translate=[tx, ty],
            scale=s,
            shear=[shear_x, shear_y],
            interpolation=TF.InterpolationMode.BILINEAR,
        )
        assert torch.allclose(got[i], want, atol=0.02), (i, (got[i] - want).abs().max())


def test_affine_identity_and_whole_pixel_shifts_are_exact_enough():
    x = pictures(2, (3, 10, 12)).float()
    zero = torch.zeros(2, dtype=torch.float64)
    one = zero + 1
    same = geometry.affine(x, geometry.affine_map(zero, one, torch.zeros(2, 2), torch.zeros(2, 2)))
    assert torch.allclose(same, x, atol=1e-3)
    right = geometry.affine(
        x, geometry.affine_map(zero, one, torch.tensor([[3.0, 0.0]] * 2), torch.zeros(2, 2))
    )
    assert torch.allclose(right[..., 3:], x[..., :-3], atol=1e-3)
    assert (right[..., :3].abs() < 1e-3).all()


def test_affine_draws_stay_in_their_ranges():
    ranges = Affine(degrees=12, scale=(0.9, 1.2), translate=2, shear=6)
    maps = Augment(0, False, affine=ranges).draw(5000, (1, 28, 28), generator(0))["affine"]
    forward = torch.linalg.inv(maps[:, :, :2])
    # scale^2 is the determinant, for shear and rotation keep areas (but for 1 - tan tan of two shears)
    area = torch.linalg.det(forward)
    slack = 1 + math.tan(math.radians(6)) ** 2
    assert (area >= 0.81 / slack).all() and (area <= 1.44 * slack).all()
    assert area.min() < 0.85 and area.max() > 1.37
    shift = -(forward @ maps[:, :, 2:]).squeeze(2)
    assert (shift.abs() <= 2 + 1e-9).all() and (shift.abs().amax(0) > 1.9).all()
    assert Augment(affine={"degrees": 12, "scale": (0.9, 1.2), "translate": 2, "shear": 6}).affine == ranges
    assert Affine(scale=0.25).scale == (0.75, 1.25)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 31)])
def test_resized_crop_is_torchvisions(shape):
    _, height, width = shape
    x = pictures(40, shape)
    box = boxes(40, height, width, (0.08, 1.0), generator(5))
    box[0] = torch.tensor([0, 0, height, width])
    box[1] = torch.tensor([height - 1, width - 1, 1, 1])
    got = geometry.resized_crop(x, box)
    for i, (top, left, h, w) in enumerate(box.tolist()):
        want = TF.resized_crop(x[i].float(), top, left, h, w, [height, width], antialias=False)
        assert torch.allclose(got[i], want, atol=0.02), (i, box[i])


@pytest.mark.parametrize("size", [(32, 32), (20, 31), (64, 8)])
def test_boxes_are_distributed_as_torchvisions(size):
    """Means of top, left, height and width agree within five standard errors."""
    count = 4000
    mine = boxes(count, *size, (0.2, 0.9), generator(0)).double()
    torch.manual_seed(0)
    image = torch.zeros(1, *size)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, (0.2, 0.9), (3 / 4, 4 / 3)) for _ in range(count)],
        dtype=torch.float64,
    )
    spread = ((mine.var(0) + theirs.var(0)) / count).sqrt()
    assert ((mine.mean(0) - theirs.mean(0)).abs() <= 5 * spread + 1e-9).all()
    assert (mine[:, :2] >= 0).all()
    assert (mine[:, :2] + mine[:, 2:] <= torch.tensor(size)).all() and (mine[:, 2:] > 0).all()


def test_jitter_is_torchvisions():
    x = pictures(30, (3, 12, 9))
    factors = 0.6 + 0.8 * torch.rand(30, 3, generator=generator(1))
    order = torch.rand(30, 3, generator=generator(2)).argsort(1)
    got = colour.jitter(x, factors, order)
    steps = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    for i in range(30):
        want = x[i].float() / 255
        for k in order[i].tolist():
            want = steps[k](want, float(factors[i, k]))
        assert torch.allclose(got[i] / 255, want, atol=1e-5)


def test_jitter_draws():
    draws = Augment(0, False, jitter=0.4).draw(3000, (3, 4, 4), generator(0))
    assert draws["jitter"].min() >= 0.6 and draws["jitter"].max() <= 1.4
    assert len({tuple(row) for row in draws["jitter_order"].tolist()}) == 6
    with pytest.raises(ValueError, match="3 channels.*have 1"):
        Augment(jitter=0.4).draw(2, (1, 4, 4), generator(0))


def test_the_same_draws_give_the_same_images_and_parts_of_them_parts():
    augment = Augment(crop=2, cutout=3, affine=Affine(10, 0.1, 1, 5), resized_crop=(0.3, 1), jitter=0.3)
    x = pictures(11, (3, 16, 12))
    draws = augment.draw(11, (3, 16, 12), generator(4))
    whole = augment(x, draws)
    assert torch.equal(whole, augment(x, augment.draw(11, (3, 16, 12), generator(4))))
    part = augment(x[1::3], {name: rows[1::3] for name, rows in draws.items()})
    assert torch.equal(part, whole[1::3])
    assert whole.shape == x.shape and whole.dtype == torch.float32


def test_nothing_asked_nothing_done():
    x = pictures(3, (1, 5, 5))
    nothing = Augment(crop=0, flip=False)
    assert nothing.draw(3, (1, 5, 5), generator(0)) == {}
    assert nothing(x, {}) is x


def test_empty_batches_pass():
    augment = Augment(crop=2, cutout=3, affine=Affine(10), resized_crop=(0.5, 1), jitter=0.3)
    x = pictures(4, (3, 8, 8))
    draws = augment.draw(4, (3, 8, 8), generator(0))
    assert augment(x[:0], {name: rows[:0] for name, rows in draws.items()}).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Augment(crop=-1), "crop = -1"),
        (lambda: Augment(crop=1.5), "crop = 1.5"),
        (lambda: Augment(cutout=-2), "cutout = -2"),
        (lambda: Augment(jitter=2), "jitter = 2"),
        (lambda: Augment(fill=300), "fill = 300"),
        (lambda: Augment(resized_crop=(0, 1)), "resized_crop"),
        (lambda: Augment(resized_crop=(0.9, 0.1)), "resized_crop"),
        (lambda: Augment(affine={"degree": 3}), "'degree'.*degrees"),
        (lambda: Affine(degrees=-3), "degrees = -3"),
        (lambda: Affine(degrees=float("nan")), "degrees = nan"),
        (lambda: Affine(scale=(1.2, 0.8)), "scale"),
        (lambda: Affine(scale=0.0, shear=90), "shear = 90"),
        (lambda: Affine(translate=-1), "translate = -1"),
    ],
)
def test_impossible_values_are_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
