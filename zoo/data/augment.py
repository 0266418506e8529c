"""Augmentations of a whole batch at once, each drawn per image, on whatever device the batch lives.

Each is called with uint8 images (N, C, H, W) and the batch's draws, and gives new images of the same kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data import colour, geometry
from zoo.data.batch_rng import Draws
from zoo.errors import BadInput
from zoo.ranges import Count, Share

MOST_DRAWN = 10  # rectangles, of which the first that fits into the image is cut
NUM_DRAWS = 2 * MOST_DRAWN + 2  # numbers that are drawn for an image that is cut


@dataclass(frozen=True)
class RandomCrop:
    """Pad with black by `padding` px on every side and cut each image's original size at a random place."""

    padding: Count

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        n, c, h, w = images.shape
        padded = torch.nn.functional.pad(images, (self.padding,) * 4)
        corner = draws.integers(2 * self.padding + 1, 2, n)[:, :, None]
        rows = corner[0] + torch.arange(h, device=images.device)  # N × H
        columns = corner[1] + torch.arange(w, device=images.device)  # N × W
        pixels = rows[:, :, None] * (w + 2 * self.padding) + columns[:, None, :]  # N × H × W
        return padded.flatten(2).gather(2, pixels.view(n, 1, -1).expand(n, c, -1)).view(n, c, h, w)


class Cut:
    """What cuts a rectangle of each image and resizes it to `size` px, null for the images' own.

    Of images in files it is the first augmentation, whatever the order, and cuts from the whole picture, with
    antialiasing.
    """

    size: int | None

    def rectangles(self, draw: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        """Return top, left, height and width (n,) in whole px, from uniform numbers (NUM_DRAWS, n) and images' sizes.

        The last two numbers are the place.
        """
        raise NotImplementedError

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        n, _, h, w = images.shape
        sizes = torch.tensor([[h], [w]], device=images.device)
        top, left, height, width = self.rectangles(draws.uniform(NUM_DRAWS, n), *sizes)
        return geometry.resized_crop(images, top, left, height, width, self.size or h)

    def cut(self, picture: Tensor, draw: Sequence[float] | None, size: int) -> Tensor:
        """Cut from one picture (3, height, width) of any size, by NUM_DRAWS numbers, and resize with antialiasing."""
        sides = torch.tensor(picture.shape[-2:])[:, None]
        rectangle = torch.stack(self.rectangles(torch.tensor(draw)[:, None], *sides))
        return geometry.antialiased_crops(picture[None], rectangle, size)[0]

    def cut_squeezed(self, images: Tensor, sizes: Tensor, draw: Tensor, size: int) -> Tensor:
        """Cut from pictures of heights and widths `sizes` (n, 2) that were squeezed into squares (n, 3, S, S)."""
        side, (height, width) = images.shape[-1], sizes.T
        rectangles = torch.stack(self.rectangles(draw, height, width)) * side
        return geometry.antialiased_crops(images, rectangles / torch.stack([height, width, height, width]), size)


@dataclass(frozen=True)
class RandomResizedCrop(Cut):
    """Cut a random rectangle of each image and resize it to `size` px (Szegedy et al., 2014, section 6).

    `area` is the range of the rectangle's share of the image, `aspect` of its width over its height, drawn uniformly in
    its logarithm. As torchvision does, a rectangle that does not fit is drawn again, up to ten times; then the middle
    is taken, as much of it as `aspect` allows. All else is as in Cut.
    """

    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    size: Count | None = None

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
    """Cut `size` px of each image at a random place after its shorter side was made `shorter` px.

    That is a range to be drawn from, or one length twice (Simonyan and Zisserman, 2014, section 3.1). All else is as in
    Cut.
    """

    shorter: tuple[float, float]
    size: int

    def __post_init__(self) -> None:
        _check_range("shorter", self.shorter, math.inf)
        if not 1 <= self.size <= self.shorter[0]:
            raise ValueError(f"size={self.size} px must be at least 1 and at most shorter={list(self.shorter)}")

    def rectangles(self, draw: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        shorter = self.shorter[0] + draw[0] * (self.shorter[1] - self.shorter[0])
        side = (torch.minimum(height, width) * self.size / shorter).round().clamp_min(1)
        return *_corner(draw[-2:], height - side, width - side), side, side


def _corner(place: Tensor, *free: Tensor) -> tuple[Tensor, Tensor]:
    """Return top and left in whole px: shares (2, n) of what is free below and to the right, each px as likely."""
    top, left = ((share * (room + 1)).floor() for share, room in zip(place, free, strict=True))
    return top, left


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and colour images' saturation, in this order, by factors within 1 ± the number."""

    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        draw = 2 * draws.uniform(3, len(images)) - 1
        images = colour.adjust_brightness(images, 1 + self.brightness * draw[0])
        images = colour.adjust_contrast(images, 1 + self.contrast * draw[1])
        return colour.adjust_saturation(images, 1 + self.saturation * draw[2])


@dataclass(frozen=True)
class RandomFlip:
    """Mirror each image left to right with the given probability."""

    probability: Share = 0.5

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        chosen = draws.uniform(1, len(images))[0] < self.probability
        if images.device.type == "cpu":  # elsewhere, to know which they are would wait for the device
            rows = chosen.nonzero().flatten()
            return images.clone().index_copy_(0, rows, images.index_select(0, rows).flip(-1))
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class RandomErasing:
    """Replace a random rectangle of each chosen image by noise (Zhong et al., "Random erasing", 2017, algorithm 1).

    `area` is the range of the rectangle's share of the image, `aspect` of its height over its width. A rectangle that
    does not fit is cut to the image, where the paper draws again.
    """

    probability: Share = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        _check_range("area", self.area, 1)
        _check_range("aspect", self.aspect, math.inf)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        n, c, h, w = images.shape
        draw = draws.uniform(5, n)
        # Algorithm 1 draws the aspect uniformly, which favours tall rectangles; its logarithm favours neither.
        top, height, left, width = _rectangles(draw, h, w, self.area, self.aspect)
        y = torch.arange(h, device=images.device)
        x = torch.arange(w, device=images.device)
        in_rows = (y >= top[:, None]) & (y < (top + height)[:, None])  # N × H
        in_columns = (x >= left[:, None]) & (x < (left + width)[:, None])  # N × W
        erased = (
            in_rows[:, None, :, None] & in_columns[:, None, None, :] & (draw[4] < self.probability)[:, None, None, None]
        )
        return torch.where(erased, draws.pixels((n, c, h, w)), images)


def check_fits(key: str, augmentation: object, image_size: int) -> None:
    """Refuse what would pad images by more than they have, or give images of another size than the net sees."""
    if isinstance(augmentation, RandomCrop) and augmentation.padding >= image_size:
        got = augmentation.padding
        raise BadInput(f"{key}.padding: expected less than the images' {image_size} px, got {got}")
    if isinstance(augmentation, Cut) and augmentation.size not in (None, image_size):
        raise BadInput(f"{key}.size: expected data.image_size={image_size} or null, got {augmentation.size}")


Range = tuple[float, float]


def _rectangles(draw: Tensor, side: int, other: int, area: Range, aspect: Range) -> tuple[Tensor, ...]:
    """Return start and length along one side of an image, then along the other, of a rectangle each, in whole px.

    `draw` is uniform, four numbers a rectangle: its share of the area, the logarithm of its aspect, the length along
    the first side over that along the other, and its two places. What does not fit is cut to the image.
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
