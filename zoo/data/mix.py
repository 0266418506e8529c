"""MixUp and CutMix on the device of the batch; labels become soft labels.

Each takes normalised images (N, C, H, W), soft labels (N, classes) and the batch's `BatchRng`, and returns new images
and labels. Each image is mixed with its neighbour in this process's share of the batch, which is already shuffled. The
mixing ratio is drawn once per batch, as in the authors' code, and on the host, to avoid synchronising with the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from zoo.data.batch_rng import BatchRng
from zoo.ranges import Range, Share

Alpha = Annotated[float, Range(0, 100, above=True)]  # with huge values, Python's betavariate never returns
Mix = Callable[[Tensor, Tensor, BatchRng], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class MixUp:
    """Blend each image with another, weighted λ and 1 - λ, λ ~ Beta(α, α) (Zhang et al., "mixup", 2017)."""

    alpha: Alpha = 0.2

    def __call__(self, images: Tensor, shares: Tensor, draws: BatchRng) -> tuple[Tensor, Tensor]:
        kept = draws.once().betavariate(self.alpha, self.alpha)
        return images.lerp(images.roll(1, 0), 1 - kept), shares.lerp(shares.roll(1, 0), 1 - kept)


@dataclass(frozen=True)
class CutMix:
    """Paste a rectangle of another image, 1 - λ of the area, λ ~ Beta(α, α) (Yun et al., "CutMix", 2019).

    The rectangle's centre is drawn over the whole image, so it may be clipped at the border; labels are weighted by the
    area actually pasted. A batch is mixed with the given probability.
    """

    alpha: Alpha = 1.0
    probability: Share = 1.0

    def __call__(self, images: Tensor, shares: Tensor, draws: BatchRng) -> tuple[Tensor, Tensor]:
        draw = draws.once()
        if draw.random() >= self.probability:
            return images, shares
        h, w = images.shape[-2:]
        side = (1 - draw.betavariate(self.alpha, self.alpha)) ** 0.5  # relative to the image
        rows, columns = (_window(draw.randrange(size), side * size, size) for size in (h, w))
        mixed = images.clone()
        mixed[..., rows, columns] = images.roll(1, 0)[..., rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (h * w)
        return mixed, shares.lerp(shares.roll(1, 0), pasted)


def _window(centre: int, length: float, size: int) -> slice:
    half = int(length) // 2
    return slice(max(0, centre - half), min(size, centre + half))
