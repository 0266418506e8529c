"""Batch augmentations, with random parameters per image, on the device of the batch.

Each takes uint8 images (N, C, H, W) and the batch's `BatchRng`, and returns new uint8 images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import colour, geometry
from zoo.data.batch_rng import BatchRng
from zoo.errors import BadInput
from zoo.ranges import Count, ImageSize, Share, height_width, plain_size

MOST_DRAWN = 10  # candidate rectangles; the first that fits into the image is used
NUM_DRAWS = 2 * MOST_DRAWN + 2  # random numbers drawn per cropped image


@dataclass(frozen=True)
class RandomCrop:
    """Pad by `padding` black px on each side and crop back to the original size at a random position."""

    padding: Count

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        n, c, h, w = images.shape
        padded = torch.nn.functional.pad(images, (self.padding,) * 4)
        corner = draws.integers(2 * self.padding + 1, 2, n)[:, :, None]
        rows = corner[0] + torch.arange(h, device=images.device)  # N × H
        columns = corner[1] + torch.arange(w, device=images.device)  # N × W
        pixels = rows[:, :, None] * (w + 2 * self.padding) + columns[:, None, :]  # N × H × W
        return padded.flatten(2).gather(2, pixels.view(n, 1, -1).expand(n, c, -1)).view(n, c, h, w)


class Cut:
    """Base class: crop a rectangle of each image and resize it to `size` px; null keeps the image size.

    For images in files it always runs first, whatever the order, and crops from the whole picture, with antialiasing.
    """

    size: ImageSize | None

    def rectangles(self, draw: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        """Return top, left, height and width (n,) in whole px, given uniform numbers (NUM_DRAWS, n) and image sizes.

        The last two numbers determine the position.
        """
        raise NotImplementedError

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        n, _, h, w = images.shape
        sizes = torch.tensor([[h], [w]], device=images.device)
        top, left, height, width = self.rectangles(draws.uniform(NUM_DRAWS, n), *sizes)
        return geometry.resized_crop(images, top, left, height, width, self.size or (h, w))


@dataclass(frozen=True)
class RandomResizedCrop(Cut):
    """Crop a random rectangle of each image and resize it to `size` px (Szegedy et al., 2014, section 6).

    `area` is the range of the rectangle's area relative to the image, `aspect` that of width / height, sampled
    log-uniformly. As in torchvision, up to ten rectangles are drawn until one fits; if none does, the largest centre
    crop that `aspect` allows is used. Otherwise as in Cut.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    size: ImageSize | None = None

    def __post_init__(self) -> None:
        _check_range("area", self.area, 1)
        _check_range("aspect", self.aspect, math.inf)

    def rectangles(self, draw: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        share = self.area[0] + draw[:MOST_DRAWN] * (self.area[1] - self.area[0])
        low, high = map(math.log, self.aspect)
        ratio = torch.exp(low + draw[MOST_DRAWN : 2 * MOST_DRAWN] * (high - low))
        across = (share * height * width * ratio).sqrt().round()
        down = (share * height * width / ratio).sqrt().round()
        fits = (across >= 1) & (across <= width) & (down >= 1) & (down <= height)
        first, found = fits.int().argmax(0, keepdim=True), fits.any(0)
        across = torch.where(found, across.gather(0, first)[0], torch.minimum(width, (height * self.aspect[1]).round()))
        down = torch.where(found, down.gather(0, first)[0], torch.minimum(height, (width / self.aspect[0]).round()))
        top, left = _corner(draw[-2:], height - down, width - across)
        middle_top, middle_left = ((height - down) / 2).floor(), ((width - across) / 2).floor()
        return torch.where(found, top, middle_top), torch.where(found, left, middle_left), down, across


@dataclass(frozen=True)
class RandomScaleCrop(Cut):
    """Resize the shorter side of each image to `shorter` px, then crop `size` px at a random position.

    `shorter` is a range to draw from, or the same length twice (Simonyan and Zisserman, 2014, section 3.1). If `size`
    is not a square, images are resized so that they just cover a rectangle of its shape, whose shorter side has
    `shorter` px. Otherwise as in Cut.
    """

    shorter: tuple[float, float]
    size: ImageSize

    def __post_init__(self) -> None:
        _check_range("shorter", self.shorter, math.inf)
        if not 1 <= min(height_width(self.size)) <= self.shorter[0]:
            size = plain_size(self.size)
            raise ValueError(f"size={size} px must be at least 1 and at most shorter={list(self.shorter)}")

    def rectangles(self, draw: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        shorter = self.shorter[0] + draw[0] * (self.shorter[1] - self.shorter[0])
        rows, columns = height_width(self.size)
        most = torch.minimum(height * min(rows, columns) / rows, width * min(rows, columns) / columns)
        down, across = ((most * side / shorter).round().clamp_min(1) for side in (rows, columns))
        return *_corner(draw[-2:], height - down, width - across), down, across


def _corner(place: Tensor, *free: Tensor) -> tuple[Tensor, Tensor]:
    """Return top and left in whole px, given `place` (2, n) in [0, 1) and the free space; all px equally likely."""
    top, left = ((share * (room + 1)).floor() for share, room in zip(place, free, strict=True))
    return top, left


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and (of colour images) saturation, in this order, by factors within 1 ± the value."""

    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        draw = 2 * draws.uniform(3, len(images)) - 1
        images = colour.adjust_brightness(images, 1 + self.brightness * draw[0])
        images = colour.adjust_contrast(images, 1 + self.contrast * draw[1])
        return colour.adjust_saturation(images, 1 + self.saturation * draw[2])


@dataclass(frozen=True)
class RandomFlip:
    """Flip each image horizontally with the given probability."""

    probability: Share = 0.5

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        chosen = draws.uniform(1, len(images))[0] < self.probability
        if images.device.type != "cpu":  # nonzero() and tolist() would synchronise
            return torch.where(chosen[:, None, None, None], images.flip(-1), images)
        if images.shape[-1] < geometry.LARGE:
            rows = chosen.nonzero().flatten()
            return images.clone().index_copy_(0, rows, images.index_select(0, rows).flip(-1))
        out = torch.empty_like(images)
        for to, image, is_chosen in zip(out, images, chosen.tolist(), strict=True):
            to.copy_(image.flip(-1) if is_chosen else image)
        return out


@dataclass(frozen=True)
class RandomErasing:
    """Replace a random rectangle by noise, with some probability (Zhong et al., "Random erasing", 2017, algorithm 1).

    `area` is the range of the rectangle's area relative to the image, `aspect` that of height / width. A rectangle that
    does not fit is clipped to the image; the paper draws again.
    """

    probability: Share = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        _check_range("area", self.area, 1)
        _check_range("aspect", self.aspect, math.inf)

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        n, c, h, w = images.shape
        draw = draws.uniform(5, n)
        # Algorithm 1 draws the aspect uniformly, which favours tall rectangles; log-uniform sampling does not.
        top, height, left, width = _rectangles(draw, h, w, self.area, self.aspect)
        y = torch.arange(h, device=images.device)
        x = torch.arange(w, device=images.device)
        in_rows = (y >= top[:, None]) & (y < (top + height)[:, None])  # N × H
        in_columns = (x >= left[:, None]) & (x < (left + width)[:, None])  # N × W
        erased = (
            in_rows[:, None, :, None] & in_columns[:, None, None, :] & (draw[4] < self.probability)[:, None, None, None]
        )
        return torch.where(erased, draws.pixels((n, c, h, w)), images)


def check_fits(key: str, augmentation: object, image_size: ImageSize) -> None:
    """Raise BadInput if the padding is not below the image size, or the crop size is not the net's input size."""
    size, shorter = plain_size(image_size), min(height_width(image_size))
    if isinstance(augmentation, RandomCrop) and augmentation.padding >= shorter:
        raise BadInput(f"{key}.padding: expected less than the images' {shorter} px, got {augmentation.padding}")
    if isinstance(augmentation, Cut) and augmentation.size is not None and plain_size(augmentation.size) != size:
        got = plain_size(augmentation.size)
        raise BadInput(f"{key}.size: expected data.image_size={size} or null, got {got}")


Range = tuple[float, float]


def _rectangles(draw: Tensor, side: int, other: int, area: Range, aspect: Range) -> tuple[Tensor, ...]:
    """Return one rectangle per image in whole px: start and length along one side, then along the other.

    The first four rows of `draw`, uniform in [0, 1), determine the area, the log aspect ratio (length along the first
    side over that along the other), and the two positions. Rectangles are clipped to the image.
    """
    share = area[0] + draw[0] * (area[1] - area[0])
    ratio = torch.exp(math.log(aspect[0]) + draw[1] * (math.log(aspect[1]) - math.log(aspect[0])))
    length = (share * side * other * ratio).sqrt().round().clamp(1, side)
    breadth = (share * side * other / ratio).sqrt().round().clamp(1, other)
    return (draw[2] * (side - length + 1)).floor(), length, (draw[3] * (other - breadth + 1)).floor(), breadth


def _check_range(name: str, pair: Sequence[object], most: float) -> None:
    numbers = [x for x in pair if isinstance(x, int | float)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] <= most:
        raise ValueError(f"{name}={list(pair)} must be two numbers above 0 and up to {most}, the smaller one first")


def check_augmentations(augment: Mapping[str, Any], mix: Any, image_size: ImageSize) -> None:
    """Raise BadInput unless each of data.augment, and data.mix, is an augmentation or null, and fits the images."""
    for name, value in {"mix": mix, **{f"augment.{key}": value for key, value in augment.items()}}.items():
        if value is not None and not callable(value):
            raise BadInput(
                f"data.{name}={value} is not an augmentation; use {{_target_: zoo.data.mix.CutMix}}, or null"
            )
    for name, value in augment.items():
        check_fits(f"data.augment.{name}", value, image_size)
