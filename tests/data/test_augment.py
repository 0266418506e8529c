import pytest
import torch

from zoo.data.augment import ColorJitter, RandomCrop, RandomErasing, RandomFlip, RandomResizedCrop
from zoo.data.batch_rng import BatchRng
from zoo.data.policies import RandAugment, TrivialAugment


def images(n=64, channels=3, side=12):
    return torch.randint(
        1, 256, (n, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )


def test_each_crop_is_a_window_of_its_padded_image_and_all_windows_occur():
    batch = images(500, side=6)
    out = RandomCrop(1)(batch, BatchRng(0))
    padded = torch.nn.functional.pad(batch, (1, 1, 1, 1))
    found = set()
    for source, crop in zip(padded, out, strict=True):
        windows = {(y, x) for y in range(3) for x in range(3) if torch.equal(source[:, y : y + 6, x : x + 6], crop)}
        assert len(windows) == 1
        found |= windows
    assert len(found) == 9


@pytest.mark.parametrize("side", [12, 64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_flips_mirror_about_half_of_the_images_and_leave_the_rest(memory_format, side):
    batch = images(400, side=side).to(memory_format=memory_format)
    before = batch.clone()
    out = RandomFlip()(batch, BatchRng(0))
    assert torch.equal(batch, before)
    assert out.is_contiguous(memory_format=memory_format)
    flipped = [torch.equal(o, i.flip(-1)) for o, i in zip(out, batch, strict=True)]
    kept = [torch.equal(o, i) for o, i in zip(out, batch, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_erasing_replaces_one_rectangle_of_2_to_40_per_cent_in_half_of_the_images():
    batch = torch.zeros(400, 1, 28, 28, dtype=torch.uint8)
    out = RandomErasing(0.5)(batch, BatchRng(0))
    touched = (out > 0).flatten(1).any(1)
    assert 150 < int(touched.sum()) < 250
    for image in out[touched]:
        rows, columns = ((image[0] > 0).any(side).nonzero() for side in (1, 0))
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert height * width <= 0.4 * 28 * 28 * 1.1  # sides are rounded to whole pixels
        window = image[0, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        assert (window > 0).float().mean() > 0.8  # noise of 0 to 255 fills it


def test_erased_pixels_are_noise_and_all_others_are_untouched():
    batch = images(50)
    out = RandomErasing(1.0)(batch, BatchRng(3))
    share = (out != batch).any(1).float().mean((1, 2))
    assert float(share.min()) > 0.01
    assert float(share.max()) < 0.45
    assert out.dtype == torch.uint8


def test_the_same_generator_state_gives_the_same_batch():
    every = (RandomCrop(2), RandomFlip(), RandomErasing(), RandomResizedCrop(), ColorJitter())
    for augment in (*every, TrivialAugment(), RandAugment()):
        first, second = (augment(images(), BatchRng(5)) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, augment(images(), BatchRng(6)))


def test_resized_crops_show_parts_of_the_image_of_the_asked_area():
    side = 64
    ramp = torch.linspace(0, 255, side)
    batch = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)]).to(torch.uint8)
    out = RandomResizedCrop((0.25, 0.5))(batch.expand(500, -1, -1, -1), BatchRng(0)).float()
    width = (out[:, 0].amax((1, 2)) - out[:, 0].amin((1, 2))) / 255  # of the visible part, relative to the image
    height = (out[:, 1].amax((1, 2)) - out[:, 1].amin((1, 2))) / 255
    assert (width * height).min() > 0.2
    assert (width * height).max() < 0.55
    assert (width / height).min() < 0.85
    assert (width / height).max() > 1.2
    assert out[:, 0].amin() < 10  # somewhere at the left border
    assert out[:, 0].amax() > 245


def test_jitter_changes_each_image_by_a_factor_of_its_own_within_its_range():
    batch = torch.full((300, 3, 4, 4), 100, dtype=torch.uint8)
    out = ColorJitter(0.3, 0.0, 0.0)(batch, BatchRng(0)).float()
    assert torch.equal(out.amax((1, 2, 3)), out.amin((1, 2, 3)))
    assert 69 <= out.min() < 75
    assert 125 < out.max() <= 130
    assert torch.equal(ColorJitter(0, 0, 0)(images(), BatchRng()), images())


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomResizedCrop((0.0, 1.0)),
        lambda: RandomResizedCrop((0.5, 0.4)),
        lambda: RandomResizedCrop(aspect=(0.0, 1.0)),
        lambda: RandomErasing(0.5, (3, 2)),
    ],
)
def test_ranges_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()
