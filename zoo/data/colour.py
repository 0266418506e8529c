"""Batched colour operations, with a separate strength per image.

Each takes uint8 images (N, C, H, W) with 1 or 3 channels and, if it has a parameter, one float per image (N,) on the
same device. Each returns new images, equal to those of the function of the same name in torchvision's
`transforms.v2.functional`.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as PIL's mode L


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by the factor: 0 is black, 1 changes nothing."""
    return _to_uint8(images.to(torch.float32).mul_(_per_image(factor)))


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey by the factor: 0 is grey, 1 changes nothing."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grayscale image by the factor: 0 is grayscale, 1 changes nothing."""
    return images.clone() if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the blurred image by the factor: 0 is blurred, 1 changes nothing."""
    c, h, w = images.shape[1:]
    if min(h, w) < 3:
        return images.clone()
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1].fill_(5)  # an assignment would synchronise with the device
    blurred = images.to(torch.float32)
    inside = torch.nn.functional.conv2d(blurred, (kernel / 13).expand(c, 1, 3, 3), groups=c)
    blurred[..., 1:-1, 1:-1] = inside.round_()
    return _blend(images, blurred, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the first `bits` bits of each value."""
    return images & (256 - 2 ** (8 - bits.to(torch.int64))).to(torch.uint8)[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert all values at or above the threshold (0…255)."""
    return torch.where(images >= _per_image(threshold), 255 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to 0…255; a constant channel is left unchanged."""
    low, high = (x.to(torch.float32) for x in images.flatten(2).aminmax(dim=2, keepdim=True))
    flat = high == low
    low, unit = torch.where(flat, 0.0, low)[..., None], torch.where(flat, 1.0, (high - low) * (1 / 255))[..., None]
    return _to_uint8((images.to(torch.float32) - low).div_(unit))


def equalize(images: Tensor) -> Tensor:
    """Equalize each channel's histogram as PIL does: one step is 1/255 of the pixels, without the brightest ones."""
    values = images.flatten(2).to(torch.int64)  # N × C × pixels
    histogram = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, values, torch.ones_like(values))
    brightest = histogram.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    below = histogram.cumsum(2) - histogram
    table = ((below + step // 2) // step.clamp_min(1)).clamp(max=255)
    return torch.where(step == 0, values, table.gather(2, values)).to(torch.uint8).view_as(images)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    ratio = _per_image(factor)
    return _to_uint8(images.to(torch.float32).mul_(ratio).add_(other * (1 - ratio)))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images.to(torch.float32)
    red, green, blue = images.to(torch.float32).split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).floor_()


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.to(torch.float32)[:, None, None, None]


def _to_uint8(images: Tensor) -> Tensor:
    return images.clamp_(0, 255).to(torch.uint8)
