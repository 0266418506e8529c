import torch
from torch import Generator

from zoo.data.augment import RandomCrop, RandomErasing, RandomFlip


def images(n=64, channels=3, side=12):
    return torch.randint(1, 256, (n, channels, side, side), dtype=torch.uint8, generator=Generator().manual_seed(7))


def test_each_crop_is_a_window_of_its_padded_image_and_all_windows_occur():
    batch = images(500, side=6)
    out = RandomCrop(1)(batch, Generator().manual_seed(0))
    padded = torch.nn.functional.pad(batch, (1, 1, 1, 1))
    found = set()
    for source, crop in zip(padded, out, strict=True):
        windows = {(y, x) for y in range(3) for x in range(3) if torch.equal(source[:, y : y + 6, x : x + 6], crop)}
        assert len(windows) == 1
        found |= windows
    assert len(found) == 9


def test_flips_mirror_about_half_of_the_images_and_leave_the_rest():
    batch = images(400)
    out = RandomFlip()(batch, Generator().manual_seed(0))
    flipped = [torch.equal(o, i.flip(-1)) for o, i in zip(out, batch, strict=True)]
    kept = [torch.equal(o, i) for o, i in zip(out, batch, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_erasing_replaces_one_rectangle_of_2_to_40_per_cent_in_half_of_the_images():
    batch = torch.zeros(400, 1, 28, 28, dtype=torch.uint8)
    out = RandomErasing(0.5)(batch, Generator().manual_seed(0))
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
    out = RandomErasing(1.0)(batch, Generator().manual_seed(3))
    share = (out != batch).any(1).float().mean((1, 2))
    assert float(share.min()) > 0.01
    assert float(share.max()) < 0.45
    assert out.dtype == torch.uint8


def test_the_same_generator_state_gives_the_same_batch():
    for augment in (RandomCrop(2), RandomFlip(), RandomErasing()):
        first, second = (augment(images(), Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(first, second)
        assert not torch.equal(first, augment(images(), Generator().manual_seed(6)))
