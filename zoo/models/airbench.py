"""Airbench: six wide 3×3 convolutions, initialised as identities, designed for training in seconds.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3. Departures: the first filters are random and
learnt, while the paper uses whitening of training patches; the scales of norms are learnt; the last pooling is global,
so that images of 16 px or more are accepted.
"""

import torch
from torch import Tensor, nn

from zoo.ranges import Count

LOGIT_SCALE = 1 / 9


class AirBench(nn.Module):
    """Classify images (N, in_channels, H, W) into logits (N, num_classes)."""

    head_names = ("head",)

    def __init__(
        self, in_channels: Count = 3, num_classes: Count = 10, widths: tuple[Count, Count, Count] = (64, 256, 256)
    ) -> None:
        super().__init__()
        stem = 8 * in_channels  # twice the number of values in a 2×2 patch
        self.stem = nn.Sequential(nn.Conv2d(in_channels, stem, 2), nn.GELU())
        self.blocks = nn.Sequential(*(block(i, o) for i, o in zip((stem, *widths[:2]), widths, strict=True)))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # 24 × 31 × 31 of 3 × 32 × 32
        x = self.blocks(x)  # 256 × 3 × 3
        x = self.pool(x).flatten(1)  # 256
        return LOGIT_SCALE * self.head(x)


def block(num_in: int, num_out: int) -> nn.Sequential:
    """Two convolutions whose first filters are initialised as the identity, with pooling in between."""
    return nn.Sequential(
        identity_conv(num_in, num_out),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(num_out, momentum=0.4),
        nn.GELU(),
        identity_conv(num_out, num_out),
        nn.BatchNorm2d(num_out, momentum=0.4),
        nn.GELU(),
    )


def identity_conv(num_in: int, num_out: int) -> nn.Conv2d:
    conv = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:num_in])
    return conv
