"""GoogLeNet: modules with parallel branches at several scales, made affordable by 1×1 convolutions.

Szegedy et al., "Going deeper with convolutions", 2014, table 1 and figure 3; with torchvision's parameter names.
Departures: batch norm after every convolution (Ioffe and Szegedy, 2015) instead of response normalisation; as in the
published weights, 3×3 convolutions instead of 5×5, a last pooling of 2×2 instead of 3×3 (`kernel_5x5=true` restores
both), dropout of 0.2, auxiliary heads that pool to 4 × 4, and linear layers initialised from a truncated normal of std
0.01. With `stem=small`, by default for images up to 64 px, the stem is 3×3 with stride 1 and without its first pooling.
In train mode, the outputs of two auxiliary heads (section 5) are returned as well.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation, width_multiplier
from zoo.models.logits import Logits
from zoo.models.stem import Stem, stem_for
from zoo.ranges import BelowOne, Count, ImageSize

SMALL_IMAGE_PX = 64

# Table 1: input maps, then 1×1; 3×3 reduce, 3×3; 5×5 reduce, 5×5; pool projection. None is a pooling.
TABLE: dict[str, tuple[int, int, int, int, int, int, int] | None] = {
    "inception3a": (192, 64, 96, 128, 16, 32, 32),
    "inception3b": (256, 128, 128, 192, 32, 96, 64),
    "maxpool3": None,
    "inception4a": (480, 192, 96, 208, 16, 48, 64),
    "inception4b": (512, 160, 112, 224, 24, 64, 64),
    "inception4c": (512, 128, 128, 256, 24, 64, 64),
    "inception4d": (512, 112, 144, 288, 32, 64, 64),
    "inception4e": (528, 256, 160, 320, 32, 128, 128),
    "maxpool4": None,
    "inception5a": (832, 256, 160, 320, 32, 128, 128),
    "inception5b": (832, 384, 192, 384, 48, 128, 128),
}
Conv = Callable[..., nn.Module]  # ConvNorm with the net's activation
AUXILIARY = {"inception4a": ("aux1", 512), "inception4d": ("aux2", 528)}  # heads and their input maps


class ConvNorm(nn.Module):
    """A convolution without bias, batch norm and an activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: int = 1,
        padding: Any = 0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        maps = width_multiplier(activation) * out_channels
        self.conv = nn.Conv2d(in_channels, maps, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(maps, eps=0.001)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four parallel branches, concatenated along the channels (figure 2b)."""

    def __init__(
        self, maps: int, one: int, reduce3: int, three: int, reduce5: int, five: int, pool: int, kernel: int, conv: Conv
    ) -> None:
        super().__init__()
        self.branch1 = conv(maps, one, 1)
        self.branch2 = nn.Sequential(conv(maps, reduce3, 1), conv(reduce3, three, 3, padding=1))
        self.branch3 = nn.Sequential(conv(maps, reduce5, 1), conv(reduce5, five, kernel, padding=kernel // 2))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), conv(maps, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """A small classifier on an inner layer, to inject gradient (section 5); pools to 4 × 4 for any image size."""

    def __init__(self, maps: int, num_classes: int, dropout: float, activation: Activation, conv: Conv) -> None:
        super().__init__()
        self.conv = conv(maps, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024 * width_multiplier(activation))
        self.act = make_activation(activation)
        self.fc2 = nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(nn.functional.adaptive_avg_pool2d(x, 4)).flatten(1)  # 2048
        return self.fc2(self.dropout(self.act(self.fc1(x))))


def initialise_inception(net: nn.Module) -> None:
    """Initialise convolutions as He et al., 2015; linear layers from a truncated normal of std 0.01, as torchvision."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


class GoogLeNet(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px to logits (N, num_classes), in training `Logits`."""

    def __init__(
        self,
        in_channels: Count = 3,
        num_classes: Count = 1000,
        image_size: ImageSize = 224,
        kernel_5x5: bool = False,
        aux_heads: bool = True,
        dropout: BelowOne = 0.2,
        aux_dropout: BelowOne = 0.7,
        activation: Activation = "relu",
        stem: Stem = "auto",
    ) -> None:
        super().__init__()
        self.form = stem_for(stem, image_size, SMALL_IMAGE_PX)
        small = self.form == "small"
        conv = partial(ConvNorm, activation=activation)
        self.conv1 = conv(in_channels, 64, 3, 1, 1) if small else conv(in_channels, 64, 7, 2, 3)
        self.maxpool1 = nn.Identity() if small else nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        for name, row in TABLE.items():
            if row is None:
                side = 3 if name == "maxpool3" or kernel_5x5 else 2
                self.add_module(name, nn.MaxPool2d(side, stride=2, ceil_mode=True))
            else:
                self.add_module(name, Inception(*row, 5 if kernel_5x5 else 3, conv))
        self.aux_heads = aux_heads
        self.head_names = ("fc", "aux1.fc2", "aux2.fc2") if aux_heads else ("fc",)
        if aux_heads:
            for name, maps in AUXILIARY.values():
                self.add_module(name, AuxiliaryHead(maps, num_classes, aux_dropout, activation, conv))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        initialise_inception(self)

    def forward(self, x: Tensor) -> Tensor | Logits:
        x = self.maxpool1(self.conv1(x))  # 64 × 56 × 56 at 224 px, 64 × 28 × 28 at 28 px
        x = self.maxpool2(self.conv3(self.conv2(x)))  # 192 × 28 × 28, 192 × 14 × 14
        aux = []
        for name in TABLE:
            x = self.get_submodule(name)(x)  # 480 × 28, 832 × 14, 1024 × 7 px; 14, 7, 4 px
            if self.training and self.aux_heads and name in AUXILIARY:
                aux.append(self.get_submodule(AUXILIARY[name][0])(x))
        x = self.dropout(self.avgpool(x).flatten(1))  # 1024
        return Logits(self.fc(x), tuple(aux)) if aux else self.fc(x)
