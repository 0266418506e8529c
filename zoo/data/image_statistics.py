"""Channel statistics of image data sets."""

import torch
from torch import Tensor


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
