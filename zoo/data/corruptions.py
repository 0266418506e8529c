"""The 15 corruptions at 5 severities of ImageNet-C and CIFAR-10-C, for batches on any device.

Hendrycks, Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019.
Severities are those of the published code: of CIFAR-10-C for images whose shorter side has up to 64 px, and of
ImageNet-C for larger ones. Departures:

- Lengths that the code has for 32 or 224 px only, such as those of elastic, follow the size of the image.
- Gray images are corrupted in their one channel: noise is drawn once, and JPEG has no colours to reduce.
- Frost is drawn, since the photographs of the published code are not ours to include.
- Images are decoded once and stay in memory: no corruption writes a file.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from zoo.data import corruption_blurs as blurs
from zoo.data import corruption_weather as weather
from zoo.data.jpeg import jpeg
from zoo.errors import BadInput

SEVERITIES = 5
LARGEST_SMALL_PX = 64  # up to which the severities of CIFAR-10-C are used
PX_OF_ELASTIC = 244 / 224  # the published code for 224 px has 244
CHANNELS = (1, 3)
TIE = 1e-9  # below which a sum of weights counts as a half

# Settings per severity. Lengths of elastic are fractions of the side.
Settings = list[tuple[float, ...]]
SMALL: dict[str, Settings] = {
    "gaussian_noise": [(0.04,), (0.06,), (0.08,), (0.09,), (0.10,)],
    "shot_noise": [(500,), (250,), (100,), (75,), (50,)],
    "impulse_noise": [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "brightness": [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)],
    "contrast": [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)],
    "elastic_transform": [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
    "pixelate": [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)],
    "jpeg_compression": [(80,), (65,), (58,), (50,), (40,)],
}
LARGE: dict[str, Settings] = {
    "gaussian_noise": [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)],
    "shot_noise": [(60,), (25,), (12,), (5,), (3,)],
    "impulse_noise": [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)],
    "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "zoom_blur": [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    "snow": [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
    "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    "brightness": [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
    "contrast": [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
    "elastic_transform": [
        *(
            (2 * PX_OF_ELASTIC, blur * PX_OF_ELASTIC, jitter * PX_OF_ELASTIC)
            for blur, jitter in ((0.7, 0.1), (0.08, 0.2))
        ),
        *((amount * PX_OF_ELASTIC, 0.01 * PX_OF_ELASTIC, 0.02 * PX_OF_ELASTIC) for amount in (0.05, 0.07, 0.12)),
    ],
    "pixelate": [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
    "jpeg_compression": [(25,), (18,), (15,), (10,), (7,)],
}
KINDS = tuple(SMALL)


def generator(kind: str, severity: int, seed: int, device: torch.device) -> Generator:
    """Return the random numbers of a kind and severity; batches in the same order get the same ones."""
    return Generator(device).manual_seed(zlib.crc32(f"{kind} {severity} {seed}".encode()))


def corrupt(images: Tensor, kind: str, severity: int, draw: Generator) -> Tensor:
    """Return uint8 images (N, C, H, W), with 1 or 3 channels, corrupted by a kind with a severity from 1 to 5.

    Values are cut to whole numbers as in the published code. Raises BadInput for images of other channels.
    """
    if images.shape[1] not in CHANNELS:
        raise BadInput(f"corruptions are for gray and RGB images, and these have {images.shape[1]} channels")
    table = SMALL if min(images.shape[-2:]) <= LARGEST_SMALL_PX else LARGE
    settings = table[kind][severity - 1]
    if kind == "jpeg_compression":
        return jpeg(images, int(settings[0]))
    if kind == "pixelate":
        return pixelate(images, settings[0])
    found = FUNCTIONS[kind](images.float() / 255, settings, draw)
    return (found.clamp(0, 1) * 255).to(torch.uint8)


def _gaussian_noise(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    return images + settings[0] * torch.randn(images.shape, generator=draw, device=images.device)


def _shot_noise(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    return torch.poisson(images * settings[0], generator=draw) / settings[0]


def _impulse_noise(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    """Replace a fraction of all values, half of them by 0 and half by 1."""
    chance = torch.rand(images.shape, generator=draw, device=images.device)
    salt = (chance < settings[0] / 2).to(images.dtype)
    return torch.where(chance < settings[0], salt, images)


def _motion_blur(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    degrees = -45 + 90 * torch.rand(len(images), generator=draw, device=images.device)
    return (255 * blurs.motion_blur(images, settings[0], settings[1], degrees)).round() / 255  # ImageMagick rounds


def _zoom_blur(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    stop, step = settings
    factors = np.arange(1, stop, step).tolist()  # with its rounding, which may or may not include `stop`
    return (images + sum(blurs.clipped_zoom(images, factor) for factor in factors)) / (len(factors) + 1)


def _brightness(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    """Add to the value of hue, saturation and value, which scales the largest channel and all others with it."""
    value = images.amax(1, keepdim=True)
    brighter = (value + settings[0]).clamp(max=1)
    return torch.where(value > 0, images * brighter / value.clamp_min(1e-6), brighter)


def _contrast(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * settings[0] + means


def _elastic(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    strength, sigma, jitter = (min(images.shape[-2:]) * fraction for fraction in settings)
    return blurs.elastic(images, strength, sigma, jitter, draw)


def pixelate(images: Tensor, fraction: float) -> Tensor:
    """Resize uint8 images to a fraction of their sides and back, as PIL does with its box filter."""
    sides = images.shape[-2:]
    small = [max(1, int(side * fraction)) for side in sides]
    found = images.double()
    for before, after in ((sides, small), (small, sides)):
        down, across = (_box(*pair).to(images.device) for pair in zip(before, after, strict=True))
        found = _whole(down @ _whole(found @ across.T))
    return found.to(torch.uint8)


def _whole(values: Tensor) -> Tensor:
    return (values + 0.5 + TIE).floor()  # PIL rounds halves up


def _box(num_in: int, num_out: int) -> Tensor:
    """Return the weights (num_out, num_in) of a box filter: means of the pixels whose centres are in the box."""
    scale = num_in / num_out
    centres = (torch.arange(num_out, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(num_in) + 0.5 - centres[:, None]) / max(scale, 1)
    inside = ((distance > -0.5) & (distance <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


FUNCTIONS: dict[str, Callable[[Tensor, tuple[float, ...], Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": lambda images, c, draw: blurs.defocus_blur(images, c[0], c[1]),
    "glass_blur": lambda images, c, draw: blurs.glass_blur(images, c[0], int(c[1]), int(c[2]), draw),
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": weather.snow,
    "frost": lambda images, c, draw: weather.frost(images, c[0], c[1], draw),
    "fog": lambda images, c, draw: weather.fog(images, c[0], c[1], draw),
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic,
}
