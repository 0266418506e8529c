"""Pairs of images made into one, on whatever device the batch lives; labels become shares of classes.

Each is called with normalised images (N, C, H, W), the shares of their classes (N, classes) and the batch's draws, and
gives both again. An image's partner is its neighbour in the batch (in this process's share of it), which is shuffled
already; the share of each is drawn once a batch, as the authors' own code does, and on the host, so that nothing waits
for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from zoo.data.batch_rng import Draws
from zoo.ranges import Range, Share

Alpha = Annotated[float, Range(0, 100, above=True)]  # beyond, Python's Beta(α, α) draws for ever
Mix = Callable[[Tensor, Tensor, Draws], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class MixUp:
    """Blend each image with another in shares of λ and 1 - λ, λ ~ Beta(α, α) (Zhang et al., "mixup", 2017)."""

    alpha: Alpha = 0.2

    def __call__(self, images: Tensor, shares: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        kept = draws.once().betavariate(self.alpha, self.alpha)
        return images.lerp(images.roll(1, 0), 1 - kept), shares.lerp(shares.roll(1, 0), 1 - kept)


@dataclass(frozen=True)
class CutMix:
    """Paste a rectangle of another image into each, 1 - λ of its area, λ ~ Beta(α, α) (Yun et al., "CutMix", 2019).

    The rectangle's centre is drawn over the whole image, so that it may be cut at the border; shares are of the area
    that was pasted. A batch is mixed with the given probability.
    """

    alpha: Alpha = 1.0
    probability: Share = 1.0

    def __call__(self, images: Tensor, shares: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        draw = draws.once()
        if draw.random() >= self.probability:
            return images, shares
        h, w = images.shape[-2:]
        side = (1 - draw.betavariate(self.alpha, self.alpha)) ** 0.5  # of the rectangle over that of the image
        rows, columns = (_window(draw.randrange(size), side * size, size) for size in (h, w))
        mixed = images.clone()
        mixed[..., rows, columns] = images.roll(1, 0)[..., rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (h * w)
        return mixed, shares.lerp(shares.roll(1, 0), pasted)


def _window(centre: int, length: float, size: int) -> slice:
    half = int(length) // 2
    return slice(max(0, centre - half), min(size, centre + half))
