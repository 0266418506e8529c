"""Augmentation policies: random operations per image, applied to a batch.

Like all augmentations, they take uint8 images (N, C, H, W) and the batch's `BatchRng`. Operations are drawn on the
host, so that images can be grouped by operation without synchronising with the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from zoo.data import colour, geometry
from zoo.data.batch_rng import BatchRng
from zoo.ranges import Count, Range

NUM_LEVELS = 31
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]  # images; per image, level 0…1 and sign ±1


@dataclass(frozen=True)
class TrivialAugment:
    """Apply one random operation of random strength (Müller and Hutter, 2021, the "wide" space of their table 6)."""

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        operations = _operations(0.99, (32.0, 32.0), 135.0, 0.99, 6)
        return _apply(images, operations, draws.host, None)


@dataclass(frozen=True)
class RandAugment:
    """Apply `num_ops` random operations of fixed strength to each image (Cubuk et al., "RandAugment", 2019).

    `magnitude` is 0…30. The search space is torchvision's, with the strengths used by the authors of AutoAugment.
    """

    num_ops: Count = 2
    magnitude: Annotated[int, Range(0, NUM_LEVELS - 1)] = 9

    def __call__(self, images: Tensor, draws: BatchRng) -> Tensor:
        h, w = images.shape[-2:]
        operations = _operations(0.3, (w * 150 / 331, h * 150 / 331), 30.0, 0.9, 4)
        host = draws.host
        for _ in range(self.num_ops):
            images = _apply(images, operations, host, self.magnitude)
        return images


def _operations(
    shear: float, translate_px: tuple[float, float], rotate_degrees: float, enhance: float, posterize_bits: int
) -> list[Operation]:
    """List the fourteen operations of both papers, given their strengths at level 1."""
    across, down = translate_px
    return [
        lambda x, level, sign: x,
        lambda x, level, sign: geometry.shear_x(x, sign * level * shear),
        lambda x, level, sign: geometry.shear_y(x, sign * level * shear),
        lambda x, level, sign: geometry.translate_x(x, sign * level * across),
        lambda x, level, sign: geometry.translate_y(x, sign * level * down),
        lambda x, level, sign: geometry.rotate(x, sign * level * rotate_degrees),
        lambda x, level, sign: colour.adjust_brightness(x, 1 + sign * level * enhance),
        lambda x, level, sign: colour.adjust_saturation(x, 1 + sign * level * enhance),
        lambda x, level, sign: colour.adjust_contrast(x, 1 + sign * level * enhance),
        lambda x, level, sign: colour.adjust_sharpness(x, 1 + sign * level * enhance),
        lambda x, level, sign: colour.posterize(x, (8 - level * posterize_bits).round()),
        lambda x, level, sign: colour.solarize(x, 255 * (1 - level)),
        lambda x, level, sign: colour.autocontrast(x),
        lambda x, level, sign: colour.equalize(x),
    ]


def _apply(images: Tensor, operations: list[Operation], host: BatchRng, magnitude: int | None) -> Tensor:
    """Apply a random operation to each image, with random sign and, unless given, random magnitude."""
    chosen = host.integers(len(operations), 1, len(images))[0]
    drawn = host.integers(NUM_LEVELS, 1, len(images))[0]
    level = (drawn if magnitude is None else torch.full_like(drawn, magnitude)) / (NUM_LEVELS - 1)
    sign = host.integers(2, 1, len(images))[0] * 2.0 - 1
    level, sign, order = (x.to(images.device, non_blocking=True) for x in (level, sign, chosen.argsort()))
    out = torch.empty_like(images)
    counts = chosen.bincount(minlength=len(operations)).tolist()
    for operation, index in zip(operations, order.split(counts), strict=True):
        if len(index):
            out[index] = operation(images[index], level[index], sign[index])
    return out
