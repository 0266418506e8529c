"""Fog, frost and snow for corruptions, on batches of float images (N, C, H, W) with values from 0 to 1."""

import torch
from torch import Generator, Tensor

from zoo.data.corruption_blurs import clipped_zoom, motion_blur

FIRST_AMOUNT = 100.0  # of the noise of a plasma field
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
FROST_COLOUR = (0.83, 0.92, 1.0)  # red, green and blue of ice
FROST_SHADE, FROST_DECAY = 0.4, 2.0  # the darkest frost; how much rougher the crystals are than clouds


def plasma(num: int, side: int, decay: float, draw: Generator) -> Tensor:
    """Return fields (num, side, side) from 0 to 1 by the diamond-square algorithm on a torus.

    The noise of each step is smaller than that of the last by the square of `decay`. Fields are cut from squares whose
    side is a power of two.
    """
    whole = 1 << max(side - 1, 1).bit_length()
    field = torch.zeros(num, whole, whole, device=draw.device)
    step, amount = whole, FIRST_AMOUNT

    def mean_of(total: Tensor) -> Tensor:
        noise = 2 * torch.rand(total.shape, generator=draw, device=draw.device) - 1
        return total / 4 + amount**2 * noise

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = mean_of(below + below.roll(-1, 2))
        centres = field[:, half::step, half::step]
        field[:, ::step, half::step] = mean_of(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        field[:, half::step, ::step] = mean_of(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, amount = half, amount / decay
    low, high = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    return ((field - low) / (high - low))[:, :side, :side]


def _plasma_over(images: Tensor, num: int, decay: float, draw: Generator) -> Tensor:
    """Return fields (num, H, W) of the size of images, cut from squares."""
    height, width = images.shape[-2:]
    return plasma(num, max(height, width), decay, draw)[:, :height, :width]


def fog(images: Tensor, amount: float, decay: float, draw: Generator) -> Tensor:
    """Add clouds, and scale so that the brightest value stays possible."""
    brightest = images.amax((1, 2, 3), keepdim=True)
    clouds = _plasma_over(images, len(images), decay, draw)[:, None]
    return (images + amount * clouds) * brightest / (brightest + amount)


def frost(images: Tensor, kept: float, amount: float, draw: Generator) -> Tensor:
    """Add drawn crystals of ice: the ridges of two plasma fields. The paper adds parts of six photographs."""
    fields = _plasma_over(images, 2 * len(images), FROST_DECAY, draw)
    ridges = (1 - (2 * fields - 1).abs()).view(2, len(images), 1, *fields.shape[1:]).amax(0)
    ice = FROST_SHADE + (1 - FROST_SHADE) * ridges.square()
    if images.shape[1] == 3:
        ice = ice * torch.tensor(FROST_COLOUR, device=images.device)[:, None, None]
    return kept * images + amount * ice


def snow(images: Tensor, settings: tuple[float, ...], draw: Generator) -> Tensor:
    """Add flakes: noise that is enlarged, cut off below a threshold and blurred by motion, also turned by 180°."""
    mean, spread, zoom, threshold, radius, sigma, kept = settings
    num, channels, height, width = images.shape
    noise = torch.randn(num, 1, height, width, generator=draw, device=draw.device)
    flakes = clipped_zoom(mean + spread * noise, zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes)
    flakes = (255 * flakes.clamp(0, 1)).floor() / 255
    degrees = -135 + 90 * torch.rand(num, generator=draw, device=draw.device)
    flakes = (255 * motion_blur(flakes, radius, sigma, degrees)).round() / 255
    grey = images
    if channels == 3:
        grey = (images * torch.tensor(LUMA, device=images.device)[:, None, None]).sum(1, keepdim=True)
    paler = kept * images + (1 - kept) * torch.maximum(images, 1.5 * grey + 0.5)
    return paler + flakes + flakes.flip(2, 3)
