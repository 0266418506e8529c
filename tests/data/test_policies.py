import pytest
import torch
from torchvision.transforms.v2 import RandAugment as TheirRandAugment
from torchvision.transforms.v2 import TrivialAugmentWide
from torchvision.transforms.v2 import functional as F

from zoo.data.batch_rng import BatchRng
from zoo.data.policies import NUM_LEVELS, RandAugment, TrivialAugment, _apply


def picture(channels=3, side=20):
    return torch.randint(1, 256, (channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def close(image, candidates):
    """Return whether an image is one of the candidates, except for pixel positions and rounding."""
    return ((candidates.int() - image.int()).abs() > 1).float().mean((1, 2, 3)).min() < 0.03


def outcomes(policy, image, magnitudes):
    """All results of one operation of torchvision's policy on an image, with these magnitudes."""
    found = []
    for name, (amounts, signed) in policy._AUGMENTATION_SPACE.items():
        amounts = amounts(NUM_LEVELS, *image.shape[1:])
        chosen = [0.0] if amounts is None else [round(float(amounts[m]), 4) for m in magnitudes]  # 16 px is 15.999999
        for amount in chosen + [-a for a in chosen if signed]:
            made = policy._apply_image_or_video_transform(image, name, amount, policy.interpolation, {})
            found.append(made)
    return torch.stack(found)


def test_trivial_augment_makes_what_torchvisions_could_and_nothing_else():
    image = picture()
    possible = outcomes(TrivialAugmentWide(), image, range(NUM_LEVELS))
    made = TrivialAugment()(image.expand(300, -1, -1, -1), BatchRng(0))
    assert all(close(one, possible) for one in made)
    assert len({one.numpy().tobytes() for one in made}) > 150


def test_rand_augment_of_one_operation_makes_what_torchvisions_could_and_all_of_it():
    image = picture()
    possible = outcomes(TheirRandAugment(magnitude=12), image, [12])
    made = RandAugment(1, 12)(image.expand(400, -1, -1, -1), BatchRng(0))
    assert all(close(one, possible) for one in made)
    assert all(close(one, made) for one in possible)


def test_rand_augment_of_two_operations_goes_beyond_one():
    image = picture()
    possible = outcomes(TheirRandAugment(), image, [9])
    made = RandAugment()(image.expand(100, -1, -1, -1), BatchRng(0))
    assert sum(not close(one, possible) for one in made) > 50


def test_no_second_operation_repeats_the_first_of_another_batch():
    """Consecutive batches have consecutive seeds, so a generator with seed + 1 would repeat the next batch."""
    numbered = [lambda x, level, sign, i=i: torch.full_like(x, i) for i in range(14)]
    firsts, seconds = set(), set()
    for seed in range(300):
        host = BatchRng(seed).host
        for seen in (firsts, seconds):
            made = _apply(torch.zeros(32, 1, 1, 1, dtype=torch.uint8), numbered, host, 9)
            seen.add(tuple(made.flatten().tolist()))
    assert len(firsts | seconds) == 600


@pytest.mark.parametrize("policy", [TrivialAugment(), RandAugment()])
def test_grayscale_comes_back_as_grayscale_and_equal_seeds_repeat(policy):
    images = picture(1).expand(64, -1, -1, -1)
    first, again, other = (policy(images, BatchRng(s)) for s in (4, 4, 5))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_oracles_own_names_are_still_there():
    """The tests above call torchvision's private dispatcher; a rename should fail here, with a clear reason."""
    assert TrivialAugmentWide()._apply_image_or_video_transform(picture(), "Identity", 0.0, "nearest", {}) is not None
    assert F.equalize(picture()).dtype == torch.uint8
