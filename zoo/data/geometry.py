"""Batched geometric operations, with a separate amount per image.

Each takes uint8 images (N, C, H, W) and one float per image (N,) on the same device, and returns new images of the
same size. Areas outside the image are black. Interpolation is nearest-neighbour, as in torchvision's policies.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zoo.ranges import ImageSize, height_width

LARGE = 64  # px per side; a CPU processes images of at least this size several times faster one by one


def shear_x(images: Tensor, amount: Tensor) -> Tensor:
    """Shift each row to the left by `amount` times its distance from the top."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return _affine(images, (one, amount, zero), (zero, one, zero), centre=(0.0, 0.0))


def shear_y(images: Tensor, amount: Tensor) -> Tensor:
    """Shift each column up by `amount` times its distance from the left."""
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    return _affine(images, (one, zero, zero), (amount, one, zero), centre=(0.0, 0.0))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift to the right by whole pixels."""
    zero, one = torch.zeros_like(pixels), torch.ones_like(pixels)
    return _affine(images, (one, zero, -pixels.trunc()), (zero, one, zero))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Shift down by whole pixels."""
    zero, one = torch.zeros_like(pixels), torch.ones_like(pixels)
    return _affine(images, (one, zero, zero), (zero, one, -pixels.trunc()))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre."""
    angle = degrees.deg2rad()
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    return _affine(images, (cos, -sin, zero), (sin, cos, zero))


def resized_crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: ImageSize) -> Tensor:
    """Crop a rectangle of each image and resize it to `size` px with bilinear interpolation.

    Equal to torchvision's `resized_crop` with bilinear interpolation and without antialiasing; the rectangles are in
    whole pixels. On a CPU, large images are resized one by one, which is ten times as fast.
    """
    down, across = height_width(size)
    if images.device.type == "cpu" and max(down, across) >= LARGE:
        cuts = enumerate(torch.stack([top, left, height, width], 1).int().tolist())
        resized = (
            torch.nn.functional.interpolate(images[i : i + 1, :, y : y + h, x : x + w], (down, across), mode="bilinear")
            for i, (y, x, h, w) in cuts
        )
        return torch.cat(list(resized))
    h, w = images.shape[-2:]
    rows = _positions(down, top, height)  # N × down, in pixels of the image
    columns = _positions(across, left, width)
    y = (2 * rows + 1) / h - 1  # grid_sample's units: -1 and 1 are the outer borders
    x = (2 * columns + 1) / w - 1
    grid = torch.stack([x[:, None, :].expand(-1, down, -1), y[:, :, None].expand(-1, -1, across)], dim=-1)
    out = torch.nn.functional.grid_sample(images.to(torch.float32), grid, "bilinear", "border", align_corners=False)
    return out.round_().to(torch.uint8)  # interpolated values stay within 0…255


def antialiased_crop(
    image: Tensor,
    rectangle: Sequence[float],
    size: ImageSize,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Crop an image (C, H, W) to top, left, height, width, in px, and resize it to `size` px with antialiasing.

    For whole px, equal to torchvision's `resized_crop`. Fractions count on a CPU; elsewhere they are rounded.
    """
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    top, left, bottom, right = rectangle[0], rectangle[1], rectangle[0] + rectangle[2], rectangle[1] + rectangle[3]
    sides = height_width(size)
    if image.device.type == "cpu" and not all(edge.is_integer() for edge in (top, left, bottom, right)):
        inside = (left, top, min(right, image.shape[2]), min(bottom, image.shape[1]))
        picture = F.to_pil_image(image).resize(sides[::-1], Image.Resampling[interpolation.upper()], inside)
        return F.pil_to_tensor(picture)
    y, x, end, last = map(round, (top, left, bottom, right))
    part = image[None, :, y : max(end, y + 1), x : max(last, x + 1)]
    if image.device.type != "cpu":
        return F.resize(part[0], [*sides], InterpolationMode(interpolation), antialias=True)
    # What F.resize does, but dense and channels last, as decoders write pictures, which takes half the time.
    part = part.contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.interpolate(part, sides, mode=interpolation, antialias=True)[0]


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Stack images (C, H, W) to (n, C, H, W), channels last: the layout of decoded pictures, and the one nets use."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _positions(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Return the centres of `size` pixels that divide start … start + length, clamped to the ends."""
    centres = (torch.arange(size, device=start.device) + 0.5) * (length / size)[:, None] - 0.5
    return start[:, None] + torch.minimum(centres.clamp_min(0), length[:, None] - 1)


Row = tuple[Tensor, Tensor, Tensor]


def _affine(images: Tensor, x: Row, y: Row, centre: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Sample each pixel at (x, y) = rows · (column, row, 1), in px relative to `centre`, a fraction of the image."""
    h, w = images.shape[-2:]
    across = torch.arange(w, device=images.device) + 0.5 - centre[0] * w
    down = torch.arange(h, device=images.device)[:, None] + 0.5 - centre[1] * h
    columns, rows = (a[:, None, None] * across + b[:, None, None] * down + c[:, None, None] for a, b, c in (x, y))
    grid = torch.stack([(columns / w + centre[0]) * 2 - 1, (rows / h + centre[1]) * 2 - 1], dim=-1)
    out = torch.nn.functional.grid_sample(images.to(torch.float32), grid, "nearest", "zeros", align_corners=False)
    return out.to(torch.uint8)
