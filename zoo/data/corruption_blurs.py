"""Blurs and resampling for corruptions, on batches of float images (N, C, H, W) with values from 0 to 1."""

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate

SMALL_DISK = 8  # the radius up to which OpenCV's blur of the disk's edge has a kernel of 3 × 3, and above of 5 × 5


def padded(images: Tensor, pad: int, mode: str) -> Tensor:
    """Pad by `pad` px on all sides, also by more than the image has.

    Modes are mirror (d c b | a b c d), reflect (c b a | a b c d) and nearest (a a a | a b c d), as scipy.ndimage calls
    them.
    """
    for dim in (-2, -1):
        images = images.index_select(dim, _places(images.shape[dim], pad, mode, images.device))
    return images


def _places(num: int, pad: int, mode: str, device: torch.device) -> Tensor:
    places = torch.arange(-pad, num + pad, device=device)
    if mode == "nearest":
        return places.clamp(0, num - 1)
    period = 2 * num - 2 if mode == "mirror" else 2 * num
    places = places.remainder(max(period, 1))
    return torch.minimum(places, period - places if mode == "mirror" else period - 1 - places)


def gaussian_blur(images: Tensor, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Tensor:
    """Blur as scikit-image's and scipy's Gaussian filters do, up to `truncate` standard deviations."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return images
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = (-0.5 * (steps / sigma) ** 2).exp()
    weights = weights / weights.sum()
    channels = images.shape[1]
    images = padded(images, radius, mode)
    images = conv2d(images, weights[:, None].expand(channels, 1, -1, 1), groups=channels)
    return conv2d(images, weights.expand(channels, 1, 1, -1), groups=channels)


def disk_kernel(radius: float, edge: float) -> Tensor:
    """Return the kernel of a lens out of focus: a disk of `radius` px whose edge is blurred by `edge` px."""
    reach = 1 if radius <= SMALL_DISK else 2
    size = max(SMALL_DISK, math.floor(radius))
    steps = torch.arange(-size, size + 1, dtype=torch.float64)
    disk = (steps**2 + steps[:, None] ** 2 <= radius**2).double()
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    blur = (-0.5 * (taps / edge) ** 2).exp()
    weights = torch.outer(blur, blur) / blur.sum() ** 2
    kernel = conv2d(padded((disk / disk.sum())[None, None], reach, "mirror"), weights[None, None])[0, 0]
    empty = max(0, size - math.floor(radius) - reach)  # rows of zeros on each side
    return kernel[empty : 2 * size + 1 - empty, empty : 2 * size + 1 - empty]


def defocus_blur(images: Tensor, radius: float, edge: float) -> Tensor:
    kernel = disk_kernel(radius, edge).to(images)
    channels = images.shape[1]
    whole = padded(images, kernel.shape[0] // 2, "mirror")
    return conv2d(whole, kernel.expand(channels, 1, -1, -1), groups=channels)


def motion_blur(images: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Blur along a line in one direction per image, `degrees` (N,), with weights that fall like half a Gaussian.

    As ImageMagick does: over 2 * radius + 1 px, at the nearest pixels, with the border repeated.
    """
    num, channels, height, width = images.shape
    length = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(length)]
    total = sum(weights)
    angle = degrees.double().deg2rad().to(images.device)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    out, flat = torch.zeros_like(images).flatten(2), images.flatten(2)
    for i, weight in enumerate(weights):
        down = (i * angle.sin() - 0.5).ceil().long()[:, None]
        across = (i * angle.cos() - 0.5).ceil().long()[:, None]
        y, x = (rows + down).clamp(0, height - 1), (columns + across).clamp(0, width - 1)
        places = (y[:, :, None] * width + x[:, None, :]).view(num, 1, -1).expand(-1, channels, -1)
        out.add_(flat.gather(2, places), alpha=weight / total)
    return out.view_as(images)


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the centre by `factor` with linear interpolation, and cut it to the size of the image."""
    sides = images.shape[-2:]
    cuts = [math.ceil(side / factor) for side in sides]
    rows, columns = (slice((side - cut) // 2, (side - cut) // 2 + cut) for side, cut in zip(sides, cuts, strict=True))
    sizes = [round(cut * factor) for cut in cuts]
    large = interpolate(images[..., rows, columns], sizes, mode="bilinear", align_corners=True)
    top, left = ((size - side) // 2 for size, side in zip(sizes, sides, strict=True))
    return large[..., top : top + sides[0], left : left + sides[1]]


def glass_blur(images: Tensor, sigma: float, reach: int, rounds: int, draw: Generator) -> Tensor:
    """Blur, let each pixel take the value of a random one within `reach` px, from the last to the first, and blur.

    The paper swaps both pixels; the published code, and so the published images, copy one into the other.
    """
    num, _, height, width = images.shape
    images = (gaussian_blur(images, sigma) * 255).floor() / 255
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    places = torch.arange(height * width, device=images.device)[:, None].repeat(1, num)  # from where each pixel comes
    for _ in range(rounds if len(rows) and len(columns) else 0):
        shape = (2, len(rows) * len(columns), num)
        down, across = torch.randint(-reach, reach, shape, generator=draw, device=images.device)
        here = torch.tensor([row * width + column for row in rows for column in columns], device=images.device)
        others = here[:, None] + down * width + across
        for i, target in enumerate(here.tolist()):
            places[target] = places.gather(0, others[i : i + 1])[0]
    moved = images.flatten(2).gather(2, places.T[:, None].expand(-1, images.shape[1], -1))
    return gaussian_blur(moved.view_as(images), sigma)


def elastic(images: Tensor, strength: float, sigma: float, jitter: float, draw: Generator) -> Tensor:
    """Move three points by up to `jitter` px, and the image with them; then each pixel by a smooth field, in px."""
    num, _, height, width = images.shape
    device = images.device
    middle, apart = torch.tensor([width // 2, height // 2]), min(height, width) // 3
    corners = torch.stack([middle + apart, middle + torch.tensor([apart, -apart]), middle - apart]).to(device).double()
    moved = corners + jitter * _signed((num, 3, 2), draw).double()
    ones = torch.ones(num, 3, 1, device=device, dtype=torch.float64)
    back = torch.linalg.lstsq(torch.cat([moved, ones], 2), corners.expand(num, 3, 2)).solution  # from new to old places
    y, x = torch.meshgrid(*(torch.arange(s, device=device).double() for s in (height, width)), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], 2).flatten(0, 1) @ back
    images = sampled(images, places.view(num, height, width, 2), "mirror")
    field = strength * gaussian_blur(_signed((num, 2, height, width), draw), sigma, "reflect", truncate=3)
    places = torch.stack([x, y], 2) + field.permute(0, 2, 3, 1)
    return sampled(images, places, "reflect")


def _signed(shape: tuple[int, ...], draw: Generator) -> Tensor:
    """Return uniform numbers from -1 to 1."""
    return 2 * torch.rand(shape, generator=draw, device=draw.device) - 1


def sampled(images: Tensor, places: Tensor, mode: str) -> Tensor:
    """Return images at places (N, H, W, 2), x and y in px, with linear interpolation; modes are those of `padded`."""
    height, width = images.shape[-2:]
    sizes = torch.tensor([width, height], device=images.device)
    centred = mode == "mirror"
    grid = 2 * places / (sizes - 1).clamp_min(1) - 1 if centred else (2 * places + 1) / sizes - 1
    padding = "border" if mode == "nearest" else "reflection"
    return grid_sample(images, grid.to(images.dtype), "bilinear", padding, align_corners=centred)
