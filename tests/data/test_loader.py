import pytest
import torch

from zoo.data.augment import RandomCrop
from zoo.data.loader import BatchLoader


def loader(n=103, shuffle=True, seed=1, augmentations=(), batch_size=10):
    labels = torch.arange(n)
    images = (labels % 256).to(torch.uint8)[:, None, None, None].expand(n, 1, 4, 4).contiguous()
    mean, std = torch.tensor([10.0]), torch.tensor([5.0])
    return BatchLoader(
        images, labels, batch_size, mean, std, shuffle=shuffle, seed=seed, augmentations=augmentations
    )  # fmt: skip


def test_an_epoch_without_shuffling_is_the_data_in_order_with_a_short_last_batch():
    batches = list(loader(shuffle=False))
    assert [len(labels) for _, labels in batches] == [10] * 10 + [3]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(103))
    assert len(loader(shuffle=False)) == 11


def test_a_shuffled_epoch_sees_every_sample_at_most_once_and_drops_the_short_batch():
    seen = torch.cat([labels for _, labels in loader()])
    assert len(seen) == len(set(seen.tolist())) == 100
    assert seen.tolist() != sorted(seen.tolist())


def test_pixels_are_normalised_to_pixel_minus_mean_over_std():
    images, labels = next(iter(loader()))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[:, 0, 0, 0], (labels.float() - 10) / 5)


def test_epochs_differ_and_repeat_by_their_number_and_seed():
    def order(epoch, seed=1):
        one = loader(seed=seed)
        one.set_epoch(epoch)
        return torch.cat([labels for _, labels in one]).tolist()

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=2)


@pytest.mark.parametrize("stop", [0, 1, 4, 9])
def test_a_restored_state_goes_on_with_the_batches_that_would_have_come(stop):
    augmentations = [RandomCrop(1)]
    whole = loader(augmentations=augmentations)
    whole.set_epoch(3)
    expected = list(whole)

    first = loader(augmentations=augmentations)
    first.set_epoch(3)
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    second = loader(augmentations=augmentations)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == len(expected) - stop
    for (x, y), (u, v) in zip(rest, expected[stop:], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)
    assert len(list(second)) == 10  # the next epoch is whole again


def test_the_largest_seed_and_a_late_epoch_still_draw():
    one = loader(seed=2**32 - 1, augmentations=[RandomCrop(1)])
    one.set_epoch(100_000)
    assert len(list(one)) == 10


def test_training_images_on_the_device_are_never_changed():
    one = loader(augmentations=[RandomCrop(1)])
    before = one.images.clone()
    list(one)
    assert torch.equal(one.images, before)
