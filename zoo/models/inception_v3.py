"""Inception-v3: GoogLeNet with large kernels factorised into small and asymmetric ones.

Szegedy et al., "Rethinking the Inception architecture for computer vision", 2015, table 1 and figures 5 to 10; with
torchvision's parameter names and sizes, which are those of the authors' published code. Designed for 299 px; for
smaller images, the auxiliary head uses adaptive pooling; with `stem=small`, by default for images up to 74 px, the stem
is padded, of stride 1 and without its first pooling. In train mode, the output of one auxiliary head is returned as
well.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.models.activations import Activation
from zoo.models.googlenet import Conv, ConvNorm, initialise_inception
from zoo.models.logits import Logits
from zoo.models.stem import Stem, stem_for
from zoo.ranges import BelowOne, Count, ImageSize, height_width

SMALL_IMAGE_PX = 74  # too small for the published net
LEAST_PX = 15
AUXILIARY_PX = 299  # the smallest size with the 17 × 17 map that the auxiliary head needs

# A branch is a chain of convolutions (maps, kernel) or (maps, kernel, stride); a list of kernels means parallel
# convolutions that are concatenated. Stride 1 keeps the image size; a block that halves it adds a pooling branch.
Branches = dict[str, list[tuple[Any, ...]]]
ROW, COLUMN = (1, 7), (7, 1)


def block_a(pool: int) -> Branches:  # figure 5
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": [(pool, 1)],
    }


def block_c(inner: int) -> Branches:  # figure 6
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(inner, 1), (inner, ROW), (192, COLUMN)],
        "branch7x7dbl": [(inner, 1), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW)],
        "branch_pool": [(192, 1)],
    }


BLOCK_B: Branches = {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)]}  # figure 10
BLOCK_D: Branches = {
    "branch3x3": [(192, 1), (320, 3, 2)],
    "branch7x7x3": [(192, 1), (192, ROW), (192, COLUMN), (192, 3, 2)],
}
BLOCK_E: Branches = {  # figure 7
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), (384, [(1, 3), (3, 1)])],
    "branch3x3dbl": [(448, 1), (384, 3), (384, [(1, 3), (3, 1)])],
    "branch_pool": [(192, 1)],
}

TABLE: dict[str, tuple[int, Branches, bool]] = {  # input maps, branches, whether it halves the image
    "Mixed_5b": (192, block_a(32), False),
    "Mixed_5c": (256, block_a(64), False),
    "Mixed_5d": (288, block_a(64), False),
    "Mixed_6a": (288, BLOCK_B, True),
    "Mixed_6b": (768, block_c(128), False),
    "Mixed_6c": (768, block_c(160), False),
    "Mixed_6d": (768, block_c(160), False),
    "Mixed_6e": (768, block_c(192), False),
    "Mixed_7a": (768, BLOCK_D, True),
    "Mixed_7b": (1280, BLOCK_E, False),
    "Mixed_7c": (2048, BLOCK_E, False),
}
AUXILIARY_AFTER = "Mixed_6e"


class Mixed(nn.Module):
    """Parallel branches, concatenated along the channels."""

    def __init__(self, maps: int, branches: Branches, halves: bool, conv: Conv) -> None:
        super().__init__()
        self.halves = halves
        self.branches: dict[str, list[list[str]]] = {}  # per branch and step: names of modules
        for branch, chain in branches.items():
            channels, steps = maps, []
            for i, (out, kernels, *stride) in enumerate(chain, start=1):
                base = branch if len(chain) == 1 else f"{branch}_{i}"
                several = isinstance(kernels, list)
                names = [f"{base}{letter}" for letter in "ab"] if several else [base]
                for name, kernel in zip(names, kernels if several else [kernels], strict=True):
                    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
                    padding = (0, 0) if stride else (height // 2, width // 2)
                    self.add_module(name, conv(channels, out, (height, width), stride[0] if stride else 1, padding))
                steps.append(names)
                channels = out * len(names)
            self.branches[branch] = steps

    def forward(self, x: Tensor) -> Tensor:
        joined = []
        for branch, steps in self.branches.items():
            y = F.avg_pool2d(x, 3, stride=1, padding=1) if branch == "branch_pool" else x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            joined.append(y)
        if self.halves:
            joined.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(joined, dim=1)


class AuxiliaryHead(nn.Module):
    """A small classifier on the last 17 × 17 layer (figure 8)."""

    def __init__(self, num_classes: int, image_size: ImageSize, conv: Conv) -> None:
        super().__init__()
        is_small = min(height_width(image_size)) < AUXILIARY_PX
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(5) if is_small else nn.AvgPool2d(5, stride=3)
        self.conv0 = conv(768, 128, 1)
        self.conv1 = conv(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(self.pool(x)))  # 768 × 1 × 1
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class InceptionV3(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px to logits (N, num_classes), in training `Logits`."""

    def __init__(
        self,
        in_channels: Count = 3,
        num_classes: Count = 1000,
        image_size: ImageSize = 299,
        aux_heads: bool = True,
        dropout: BelowOne = 0.5,
        activation: Activation = "relu",
        stem: Stem = "auto",
    ) -> None:
        super().__init__()
        self.form = stem_for(stem, image_size, SMALL_IMAGE_PX, SMALL_IMAGE_PX + 1, LEAST_PX)
        small = self.form == "small"
        conv = partial(ConvNorm, activation=activation)
        stride, padding = (1, 1) if small else (2, 0)
        self.Conv2d_1a_3x3 = conv(in_channels, 32, 3, stride, padding)
        self.Conv2d_2a_3x3 = conv(32, 32, 3, 1, padding)
        self.Conv2d_2b_3x3 = conv(32, 64, 3, 1, 1)
        self.maxpool1: nn.Module = nn.Identity() if small else nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = conv(64, 80, 1)
        self.Conv2d_4a_3x3 = conv(80, 192, 3, 1, padding)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        for name, row in TABLE.items():
            self.add_module(name, Mixed(*row, conv))
        self.AuxLogits = AuxiliaryHead(num_classes, image_size, conv) if aux_heads else None
        self.head_names = ("fc", "AuxLogits.fc") if aux_heads else ("fc",)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        initialise_inception(self)

    def forward(self, x: Tensor) -> Tensor | Logits:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # 64 × 147 × 147 at 299 px
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))  # 192 × 71 × 71, 192 × 28 × 28 at 28 px
        x = self.maxpool2(x)  # 192 × 35 × 35, 192 × 13 × 13
        aux = None
        for name in TABLE:
            x = self.get_submodule(name)(x)  # 288 × 35, 768 × 17, 2048 × 8 px; 13, 6, 2 px
            if self.training and self.AuxLogits is not None and name == AUXILIARY_AFTER:
                aux = self.AuxLogits(x)
        x = self.dropout(self.avgpool(x)).flatten(1)  # 2048
        return self.fc(x) if aux is None else Logits(self.fc(x), (aux,))
