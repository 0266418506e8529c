"""Augmentations of a whole batch at once, each drawn per image, on whatever device the batch lives.

Each takes uint8 images (N, C, H, W) and a generator on their device, and returns new images of the same shape and type.
"""

import math

import torch
from torch import Generator, Tensor


def random_crop(images: Tensor, generator: Generator, *, padding: int) -> Tensor:
    """Pad with black by `padding` px on every side and cut each image's original size at a random place."""
    n, c, h, w = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    corner = torch.randint(2 * padding + 1, (2, n, 1), generator=generator, device=images.device)
    rows = corner[0] + torch.arange(h, device=images.device)  # N × H
    columns = corner[1] + torch.arange(w, device=images.device)  # N × W
    pixels = rows[:, :, None] * (w + 2 * padding) + columns[:, None, :]  # N × H × W
    return padded.flatten(2).gather(2, pixels.view(n, 1, -1).expand(n, c, -1)).view(n, c, h, w)


def random_flip(images: Tensor, generator: Generator, *, probability: float = 0.5) -> Tensor:
    """Mirror each image left to right with the given probability."""
    chosen = torch.rand(len(images), generator=generator, device=images.device) < probability
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def random_erasing(
    images: Tensor,
    generator: Generator,
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """Replace a random rectangle of each chosen image by noise (Zhong et al., "Random erasing", 2017, algorithm 1).

    `area` is the range of the rectangle's share of the image, `aspect` of its height over its width. A rectangle that
    does not fit is cut to the image, where the paper draws again.
    """
    n, c, h, w = images.shape
    draw = torch.rand(5, n, generator=generator, device=images.device)
    share = area[0] + draw[0] * (area[1] - area[0])
    # Algorithm 1 draws the aspect uniformly, which favours tall rectangles; drawn in logarithms both ways are alike.
    ratio = torch.exp(math.log(aspect[0]) + draw[1] * (math.log(aspect[1]) - math.log(aspect[0])))
    height = (share * h * w * ratio).sqrt().round().clamp(1, h)
    width = (share * h * w / ratio).sqrt().round().clamp(1, w)
    top = (draw[2] * (h - height + 1)).floor()
    left = (draw[3] * (w - width + 1)).floor()
    y = torch.arange(h, device=images.device)
    x = torch.arange(w, device=images.device)
    in_rows = (y >= top[:, None]) & (y < (top + height)[:, None])  # N × H
    in_columns = (x >= left[:, None]) & (x < (left + width)[:, None])  # N × W
    erased = in_rows[:, None, :, None] & in_columns[:, None, None, :] & (draw[4] < probability)[:, None, None, None]
    noise = torch.randint(256, (n, c, h, w), generator=generator, device=images.device, dtype=torch.uint8)
    return torch.where(erased, noise, images)
