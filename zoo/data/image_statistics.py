"""Channel statistics of image data sets."""

import torch
from torch import Tensor

from zoo.errors import BadInput


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's exact mean and standard deviation over (N, C, H, W) uint8 images, from histograms."""
    levels = torch.arange(256, dtype=torch.float64)
    moments = []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        moments.append((mean, variance.sqrt().clamp_min(1e-3)))
    means, deviations = zip(*moments, strict=True)
    return torch.stack(means).float(), torch.stack(deviations).float()


def check_normalisation(mean: list[float] | None, std: list[float] | None, in_channels: int) -> None:
    """Raise BadInput unless data.mean and data.std are both null, or one valid number per channel."""
    for name, values in (("mean", mean), ("std", std)):
        if (mean is None) != (std is None) or (values is not None and len(values) != in_channels):
            raise BadInput(
                f"data.{name}={values} is not valid: set both mean and std, one number per channel, or neither"
            )
    if mean is not None and std is not None and (min(std) <= 0 or max(mean + std) <= 1):
        raise BadInput(f"data.mean={mean} data.std={std} are not valid: they are in pixel units 0…255, with std > 0")
