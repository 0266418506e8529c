"""Shifts of images by fixed amounts: translation, rotation and brightness, on batches of uint8 images (N, C, H, W)."""

import math

import torch
from torch import Tensor

from zoo.data.corruption_blurs import sampled

TRANSLATIONS = (0.05, 0.1, 0.15, 0.2, 0.25)  # fractions of the side
DEGREES = (10.0, 20.0, 30.0, 45.0, 60.0)
FACTORS = (0.25, 0.5, 0.75, 1.5, 2.0)


def translated(images: Tensor, fraction: float) -> list[Tensor]:
    """Return images moved left, right, up and down by a fraction of their side, in whole px and at least one."""
    height, width = images.shape[-2:]
    found = []
    for dim, size in ((3, width), (2, height)):
        pixels = max(1, round(size * fraction))
        places = torch.arange(size, device=images.device)
        found += [images.index_select(dim, (places + move).clamp(0, size - 1)) for move in (pixels, -pixels)]
    return found


def rotated(images: Tensor, degrees: float) -> list[Tensor]:
    """Return images turned about their centre in both directions, with linear interpolation."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        *(torch.arange(size, device=images.device) - (size - 1) / 2 for size in (height, width)), indexing="ij"
    )
    found = []
    for angle in (math.radians(degrees), -math.radians(degrees)):
        across = math.cos(angle) * x - math.sin(angle) * y + (width - 1) / 2
        down = math.sin(angle) * x + math.cos(angle) * y + (height - 1) / 2
        places = torch.stack([across, down], 2).expand(len(images), -1, -1, -1)
        found.append(sampled(images.float(), places, "nearest").round().to(torch.uint8))
    return found


def brightened(images: Tensor, factor: float) -> list[Tensor]:
    """Return images with all values multiplied by a factor."""
    return [(images.float() * factor).round().clamp(max=255).to(torch.uint8)]


SHIFTS = {
    "translation": (translated, TRANSLATIONS),
    "rotation": (rotated, DEGREES),
    "brightness": (brightened, FACTORS),
}  # what is not covered by the image any more repeats its border
