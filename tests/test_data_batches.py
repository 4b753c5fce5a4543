"""Batches: order, resuming, sharding, and that nothing depends on anything but (seed, epoch, step)."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from bnnlib import data
from bnnlib.data.random import generator, mix

AUGMENT = data.Augment(crop=2, flip=True, cutout=2, affine=data.Affine(10, 0.1, 1, 5))


def a_split(count=53, shape=(3, 8, 6)):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return data.Split(torch.tensor(images), torch.arange(count) % 5, (0.4,) * shape[0], (0.3,) * shape[0])


def listed(batches):
    return [(index.tolist(), x, y.tolist()) for index, x, y in batches]


def same(a, b):
    return len(a) == len(b) and all(
        p[0] == q[0] and torch.equal(p[1], q[1]) and p[2] == q[2] for p, q in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("count", [1, 2, 52, 53, 54, 129])
@pytest.mark.parametrize("size", [1, 7, 53, 200])
def test_an_epoch_is_a_permutation(count, size):
    split = a_split(count)
    batches = data.Batches(split, size, seed=0)
    seen = listed(batches.epoch(0))
    assert len(seen) == len(batches) == -(-count // size)
    assert sorted(i for index, _, _ in seen for i in index) == list(range(count))
    assert [len(index) for index, _, _ in seen] == [batches.count(step) for step in range(len(batches))]
    for index, x, y in seen:
        assert y == split.labels[index].tolist()
        assert x.dtype == torch.float32 and x.is_contiguous()
        want = TF.normalize(split.images[index].float() / 255, [0.4] * 3, [0.3] * 3)
        assert torch.allclose(x, want, atol=2e-6)


def test_order_depends_on_seed_and_epoch_alone():
    batches = data.Batches(a_split(), 10, seed=0)
    orders = [batches.order(e).tolist() for e in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[1] == data.Batches(a_split(), 7, seed=0, augment=AUGMENT).order(1).tolist()
    assert orders[1] != data.Batches(a_split(), 10, seed=1).order(1).tolist()
    assert data.Batches(a_split(), 10, seed=0, shuffle=False).order(4).tolist() == list(range(53))


def test_drop_last():
    batches = data.Batches(a_split(), 10, seed=0, drop_last=True)
    assert len(batches) == 5 and [len(index) for index, _, _ in batches.epoch(0)] == [10] * 5
    assert len(data.Batches(a_split(50), 10, seed=0, drop_last=True)) == 5
    with pytest.raises(ValueError, match="no batch of 60 in 53"):
        data.Batches(a_split(), 60, seed=0, drop_last=True)


def test_an_epoch_resumed_at_any_step_is_the_uninterrupted_one():
    whole = listed(data.Batches(a_split(), 10, seed=3, augment=AUGMENT).epoch(2))
    for start in range(7):
        torch.rand(start)  # the state of the global generator does not matter
        assert same(
            listed(data.Batches(a_split(), 10, seed=3, augment=AUGMENT).epoch(2, start)), whole[start:]
        )


def test_epochs_and_iterators_do_not_disturb_each_other():
    batches = data.Batches(a_split(), 10, seed=3, augment=AUGMENT)
    first, second = listed(batches.epoch(0)), listed(batches.epoch(1))
    one, two = batches.epoch(0), batches.epoch(1)
    mixed = [(next(one), next(two)) for _ in range(len(batches))]
    assert same([(i.tolist(), x, y.tolist()) for (i, x, y), _ in mixed], first)
    assert same([(i.tolist(), x, y.tolist()) for _, (i, x, y) in mixed], second)
    assert not same(first, second)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    want = torch.rand(4)
    torch.manual_seed(5)
    listed(data.Batches(a_split(), 10, seed=3, augment=AUGMENT).epoch(0))
    assert torch.equal(torch.rand(4), want)


@pytest.mark.parametrize("world", [2, 3, 10, 13])
@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_shards_are_the_batch_that_one_process_sees(world, augment):
    """World 13 and 53 images: the last batch of 3 leaves most ranks with an empty shard."""
    whole = listed(data.Batches(a_split(), 10, seed=1, augment=augment).epoch(1))
    ranks = [
        listed(data.Batches(a_split(), 10, seed=1, augment=augment, rank=r, world=world).epoch(1))
        for r in range(world)
    ]
    assert {len(rank) for rank in ranks} == {len(whole)}  # every rank takes every step
    for step, (index, x, y) in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert sum(len(part[0]) for part in parts) == len(index)
        assert max(len(p[0]) for p in parts) - min(len(p[0]) for p in parts) <= 1
        for r, (part_index, part_x, part_y) in enumerate(parts):
            assert part_index == index[r::world] and part_y == y[r::world]
            assert torch.equal(part_x, x[r::world])


def test_evaluation_over_ranks_counts_each_image_once():
    seen = [
        i
        for rank in range(4)
        for index, _, _ in data.Batches(a_split(), 16, seed=0, shuffle=False, rank=rank, world=4)
        for i in index.tolist()
    ]
    assert sorted(seen) == list(range(53))


def test_transform_replaces_the_normalisation():
    batches = data.Batches(a_split(), 10, seed=0, shuffle=False, transform=data.Normalize(0.0, 1.0))
    x = next(batches.epoch(0))[1]
    assert torch.allclose(x, a_split().images[:10] / 255, atol=1e-7)


def test_float_images_pass_as_they_are_and_can_be_augmented():
    split = a_split().map(lambda x: x.float() - 100)
    assert torch.equal(next(data.Batches(split, 10, seed=0, shuffle=False).epoch(0))[1], split.images[:10])
    x = next(data.Batches(split, 10, seed=0, augment=data.Augment(crop=2)).epoch(0))[1]
    assert x.shape == (10, 3, 8, 6) and x.dtype == torch.float32


def test_other_seeds_and_steps_draw_other_augmentation():
    split = data.Split(
        torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(40, 1, 8, 8), torch.zeros(40).long()
    )

    def shown(seed, epoch):
        return [x for _, x, _ in data.Batches(split, 10, seed=seed, augment=AUGMENT).epoch(epoch)]

    images = torch.cat(shown(0, 0) + shown(0, 1) + shown(1, 0))
    assert len({tuple(image.flatten().tolist()) for image in images}) == len(images) == 120


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augment", [data.Augment(crop=2, cutout=2), AUGMENT])
def test_a_gpu_shows_what_the_cpu_shows(augment):
    here = listed(data.Batches(a_split(), 10, seed=0, augment=augment).epoch(0))
    there = data.Batches(a_split(), 10, seed=0, augment=augment, device="cuda").epoch(0)
    for (index, x, y), (index_2, x_2, y_2) in zip(here, there, strict=True):
        assert index == index_2.tolist() and y == y_2.tolist() and x_2.is_cuda and not index_2.is_cuda
        assert torch.allclose(x, x_2.cpu(), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"batch_size": -3}, "batch_size = -3"),
        ({"rank": 2, "world": 2}, "rank = 2 of world = 2"),
        ({"rank": -1, "world": 2}, "rank = -1"),
        ({"world": 0}, "world = 0"),
        ({"augment": "flip"}, "augment = 'flip' does not fit: a Split takes an Augment"),
    ],
)
def test_impossible_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        data.Batches(a_split(), **{"batch_size": 10, "seed": 0, **options})


def test_impossible_starts_are_named():
    with pytest.raises(ValueError, match="start = 7.*6 steps"):
        data.Batches(a_split(), 10, seed=0).epoch(0, 7)
    assert listed(data.Batches(a_split(), 10, seed=0).epoch(0, 6)) == []


def test_keys_of_random_numbers_do_not_collide():
    keys = [(a, b) for a in range(30) for b in range(30)] + [
        ("a", 1),
        ("a1",),
        (1, "a"),
        ("1", 1),
        (1, "1"),
        (11,),
    ]
    low = {mix(*key) & 0xFFFFFFFF for key in keys}  # all of a seed that torch's CPU generator looks at
    assert len(low) == len(keys)
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))
