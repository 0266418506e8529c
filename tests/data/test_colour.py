"""Each operation on a batch equals torchvision's on every single image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from zoo.data import colour, geometry


def pictures(channels, n=6, side=17):
    """Noise, smooth ramps, one constant image and one with two values."""
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(256, (n, channels, side, side), dtype=torch.uint8, generator=draw)
    images[1] = torch.linspace(20, 200, side).to(torch.uint8)
    images[2] = 77
    images[3] = torch.where(images[3] > 128, 250, 3)
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_sharpness"])
def test_enhancements_equal_torchvisions(name, channels):
    images = pictures(channels)
    factors = torch.tensor([0.01, 0.3, 1.0, 1.4, 1.99, 0.7])
    found = getattr(colour, name)(images, factors)
    wanted = torch.stack([getattr(F, name)(x, float(f)) for x, f in zip(images, factors, strict=True)])
    assert (found.int() - wanted.int()).abs().max() <= 1  # truncated, so a rounding error may change the value by one
    assert (found != wanted).float().mean() < 0.01


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "amounts"),
    [("posterize", [8, 7, 5, 3, 2, 4]), ("solarize", [0.0, 255.0, 76.5, 100.0, 8.5, 204.0])],
)
def test_posterize_and_solarize_equal_torchvisions(name, amounts, channels):
    images = pictures(channels)
    wanted = [getattr(F, name)(x, amount) for x, amount in zip(images, amounts, strict=True)]
    assert torch.equal(getattr(colour, name)(images, torch.tensor(amounts)), torch.stack(wanted))


@pytest.mark.parametrize("side", [5, 17, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_autocontrast_and_equalize_equal_torchvisions(name, channels, side):
    images = pictures(channels, side=side)
    assert torch.equal(getattr(colour, name)(images), torch.stack([getattr(F, name)(x) for x in images]))


def near(found, wanted):
    """Nearest pixels may differ where a sample falls between two, up to rounding; the rest is equal."""
    assert (found != wanted).float().mean() < 0.02


@pytest.mark.parametrize("shape", [(17, 17), (12, 20)])
def test_moves_equal_torchvisions(shape):
    draw = torch.Generator().manual_seed(5)
    images = torch.randint(1, 256, (5, 3, *shape), dtype=torch.uint8, generator=draw)
    amounts = torch.tensor([0.0, 0.3, -0.21, 0.99, -0.77])
    shears = [float(a.atan().rad2deg()) for a in amounts]
    top_left = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "center": [0, 0]}
    near(
        geometry.shear_x(images, amounts),
        torch.stack([F.affine(x, shear=[s, 0.0], **top_left) for x, s in zip(images, shears, strict=True)]),
    )
    near(
        geometry.shear_y(images, amounts),
        torch.stack([F.affine(x, shear=[0.0, s], **top_left) for x, s in zip(images, shears, strict=True)]),
    )
    pixels = torch.tensor([0.0, 3.9, -4.2, 11.0, -40.0])
    still = {"angle": 0.0, "scale": 1.0, "shear": [0.0, 0.0]}
    right = [F.affine(x, translate=[int(p), 0], **still) for x, p in zip(images, pixels, strict=True)]
    down = [F.affine(x, translate=[0, int(p)], **still) for x, p in zip(images, pixels, strict=True)]
    near(geometry.translate_x(images, pixels), torch.stack(right))
    near(geometry.translate_y(images, pixels), torch.stack(down))
    degrees = torch.tensor([0.0, 30.0, -17.0, 135.0, 90.0])
    near(
        geometry.rotate(images, degrees),
        torch.stack([F.rotate(x, float(d)) for x, d in zip(images, degrees, strict=True)]),
    )


@pytest.mark.parametrize("size", [24, 17, 96])  # the last one image at a time on a CPU
def test_resized_crops_equal_torchvisions(size):
    images = pictures(3, 6, 24)
    top, left = torch.tensor([0.0, 5, 3, 20, 0, 7]), torch.tensor([0.0, 1, 9, 23, 14, 2])
    height, width = torch.tensor([24.0, 10, 7, 4, 13, 17]), torch.tensor([24.0, 20, 9, 1, 10, 5])
    found = geometry.resized_crop(images, top, left, height, width, size)
    boxes = torch.stack([top, left, height, width], 1).int().tolist()
    wanted = [F.resized_crop(x, *box, [size, size], antialias=False) for x, box in zip(images, boxes, strict=True)]
    assert (found.int() - torch.stack(wanted).int()).abs().max() <= 1
    assert (found != torch.stack(wanted)).float().mean() < 0.1  # theirs computes in integers
