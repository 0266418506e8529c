import itertools

import pytest
import torch

from zoo.data.augment import ColorJitter, RandomCrop, RandomFlip, RandomResizedCrop
from zoo.data.batch_rng import BatchRng
from zoo.data.loader import IN_CACHE, BatchLoader, centre, normalised
from zoo.data.policies import RandAugment


def loader(n=103, shuffle=True, seed=1, augmentations=(), batch_size=10, rank=0, world_size=1, **others):
    labels = torch.arange(n)
    images = (labels % 256).to(torch.uint8)[:, None, None, None].expand(n, 1, 4, 4).contiguous()
    mean, std = torch.tensor([10.0]), torch.tensor([5.0])
    settings = {"shuffle": shuffle, "seed": seed, "augmentations": augmentations, **others}
    return BatchLoader(images, labels, batch_size, mean, std, rank=rank, world_size=world_size, **settings)


def test_an_epoch_without_shuffling_is_the_data_in_order_in_batches_as_equal_as_can_be():
    batches = list(loader(shuffle=False))
    assert {len(labels) for _, labels in batches} == {9, 10}
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(103))
    assert len(loader(shuffle=False)) == 11


@pytest.mark.parametrize("world_size", [1, 2])
def test_if_only_some_batches_are_used_each_is_spread_over_data_in_the_order_of_their_classes(world_size):
    found = []
    for rank in range(world_size):
        one = loader(shuffle=False, rank=rank, world_size=world_size)
        one.spread = True
        batches = [labels.tolist() for _, labels in one]
        assert all(max(batch) - min(batch) >= 103 - 2 * len(batches) * world_size for batch in batches)
        found.extend(itertools.chain(*batches))
    assert sorted(found) == list(range(103))


def test_a_shuffled_epoch_sees_every_sample_at_most_once_and_drops_the_short_batch():
    seen = torch.cat([labels for _, labels in loader()])
    assert len(seen) == len(set(seen.tolist())) == 100
    assert seen.tolist() != sorted(seen.tolist())


def test_pixels_are_normalised_to_pixel_minus_mean_over_std():
    images, labels = next(iter(loader()))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[:, 0, 0, 0], (labels.float() - 10) / 5)


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_large_images_are_normalised_in_the_layout_they_come_in(memory_format, margin):
    """Also if they are the middle of larger ones, and if a part of a batch is left over."""
    draw, side = torch.Generator().manual_seed(0), 200
    images = torch.randint(256, (7, 3, side + margin, side + 5), dtype=torch.uint8, generator=draw)
    images = centre(images.to(memory_format=memory_format), side)
    mean, scale = torch.tensor([[1.0, 2.0, 30.0], [0.1, 0.7, 3.0]])[:, :, None, None]
    found = normalised(images, mean, scale, torch.empty_like(images, dtype=torch.float32))
    assert torch.equal(found, (images.float() - mean) * scale)
    assert found.is_contiguous(memory_format=memory_format)
    assert 3 * side**2 < IN_CACHE < images.numel()


def test_epochs_differ_and_repeat_by_their_number_and_seed():
    def order(epoch, seed=1):
        one = loader(seed=seed)
        one.set_epoch(epoch)
        return torch.cat([labels for _, labels in one]).tolist()

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=2)


def test_after_the_distinct_epochs_the_same_batches_come_again_with_their_numbers_in_another_order():
    one = loader(augmentations=[RandomCrop(1)], distinct_epochs=2)

    def batches(epoch):
        one.set_epoch(epoch)
        return {one.number_of(images): (images, labels) for images, labels in one}

    first, second, third = map(batches, range(3))
    assert sorted([*first, *second]) == list(range(20))
    assert list(first) != list(third)
    assert first.keys() == third.keys()
    for number, (images, labels) in third.items():
        assert torch.equal(images, first[number][0])
        assert torch.equal(labels, first[number][1])
    assert one.number_of(images.clone()) is None


@pytest.mark.parametrize("distinct_epochs", [None, 2])
@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_a_restored_state_goes_on_with_the_batches_that_would_have_come(stop, distinct_epochs):
    settings = {"augmentations": [RandomCrop(1)], "distinct_epochs": distinct_epochs}
    whole = loader(**settings)
    whole.set_epoch(3)
    expected = list(whole)

    first = loader(**settings)
    first.set_epoch(3)
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    second = loader(**settings)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == len(expected) - stop
    for (x, y), (u, v) in zip(rest, expected[stop:], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert len(list(second)) == 10  # the next epoch is complete again


@pytest.mark.parametrize("world_size", [2, 5])
def test_processes_share_out_the_very_batches_of_one(world_size):
    augmentations = [RandomCrop(1), RandomFlip(), RandomResizedCrop((0.3, 1.0)), ColorJitter(), RandAugment()]
    alone = list(loader(augmentations=augmentations))
    ranks = [loader(augmentations=augmentations, rank=r, world_size=world_size) for r in range(world_size)]
    shares = list(zip(*ranks, strict=True))
    assert len(shares) == len(alone)
    for (images, labels), parts in zip(alone, shares, strict=True):
        assert torch.equal(torch.cat([x for x, _ in parts]), images)
        assert torch.equal(torch.cat([y for _, y in parts]), labels)
        assert {len(y) for _, y in parts} == {10 // world_size}


@pytest.mark.parametrize("num", [103, 60, 61])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_evaluate_every_sample_once_in_as_many_batches_each(num, world_size):
    shares = [list(loader(num, shuffle=False, rank=r, world_size=world_size)) for r in range(world_size)]
    assert len({len(batches) for batches in shares}) == 1
    assert all(0 < len(y) <= 10 for batches in shares for _, y in batches)
    seen = [label for batches in shares for _, y in batches for label in y.tolist()]
    assert sorted(seen) == list(range(num))


def test_noise_differs_between_processes():
    ranks = [BatchRng(1, "cpu", rank, 2).pixels((4, 3)) for rank in range(2)]
    assert not torch.equal(*ranks)


def test_the_largest_seed_and_a_late_epoch_still_draw():
    one = loader(seed=2**32 - 1, augmentations=[RandomCrop(1)])
    one.set_epoch(100_000)
    assert len(list(one)) == 10


def test_training_images_on_the_device_are_never_changed():
    one = loader(augmentations=[RandomCrop(1)])
    before = one.images.clone()
    list(one)
    assert torch.equal(one.images, before)


def test_the_middle_is_cut_out_of_larger_images_and_smaller_ones_stay_whole():
    ramp = torch.arange(8).expand(1, 1, 8, 8)
    assert centre(ramp, 4)[0, 0, 0].tolist() == [2, 3, 4, 5]
    assert centre(ramp, 8).shape == (1, 1, 8, 8)
    assert centre(ramp, 10).shape == (1, 1, 8, 8)
