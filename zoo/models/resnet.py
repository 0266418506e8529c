"""ResNet: each block adds a correction to its input, so that gradients reach every depth unharmed.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015: table 1 for ImageNet, section 4.2 for CIFAR.
Departures: the bottleneck has its stride on the 3×3 convolution ("v1.5", as torchvision, whose parameter names these
are). Images up to 64 px get a 3×3 stem of stride 1 without pooling, as section 4.2 has it; larger ones the 7×7 stem.
"""

from typing import Literal

import torch
from torch import Tensor, nn

SMALL_IMAGE_PX = 64


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class PadShortcut(nn.Module):
    """Match shapes without parameters: skip pixels by the stride and append zero maps (option A, section 3.3)."""

    def __init__(self, stride: int, num_new_maps: int) -> None:
        super().__init__()
        self.stride, self.num_new_maps = stride, num_new_maps

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.num_new_maps))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1×1 to narrow, 3×3, and 1×1 to widen fourfold (figure 5, right)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Classify images (N, in_channels, image_size, image_size) into logits (N, num_classes).

    `depths` and `widths` are the number of blocks and their (inner) maps, one entry a stage; each stage but the first
    halves the image. `shortcut` is what carries x past a change of shape: a 1×1 projection (option B) or zero padding
    (option A). Raises ValueError where the two lists differ in length.
    """

    def __init__(
        self,
        block: Literal["basic", "bottleneck"],
        depths: list[int],
        widths: list[int],
        in_channels: int = 3,
        num_classes: int = 1000,
        image_size: int = 224,
        shortcut: Literal["projection", "pad"] = "projection",
    ) -> None:
        super().__init__()
        if len(depths) != len(widths):
            raise ValueError(f"depths={depths} and widths={widths} must have one entry a stage each")
        self.block, self.shortcut = BLOCKS[block], shortcut
        self.channels = widths[0]
        if image_size > SMALL_IMAGE_PX:
            self.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = conv3x3(in_channels, widths[0])
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.stages = [f"layer{i}" for i in range(1, len(depths) + 1)]
        for i, (name, depth, width) in enumerate(zip(self.stages, depths, widths, strict=True)):
            self.add_module(name, self._stage(depth, width, stride=1 if i == 0 else 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, num_classes)
        self._initialise()

    def _stage(self, depth: int, width: int, stride: int) -> nn.Sequential:
        blocks: list[nn.Module] = []
        for i in range(depth):
            stride = stride if i == 0 else 1
            blocks.append(self.block(self.channels, width, stride, self._downsample(width, stride)))
            self.channels = width * self.block.expansion
        return nn.Sequential(*blocks)

    def _downsample(self, width: int, stride: int) -> nn.Module | None:
        out_channels = width * self.block.expansion
        if stride == 1 and out_channels == self.channels:
            return None
        if self.shortcut == "pad":
            return PadShortcut(stride, out_channels - self.channels)
        return nn.Sequential(conv1x1(self.channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def _initialise(self) -> None:
        """Draw convolutions as He et al., "Delving deep into rectifiers", 2015, by fan-out; norms start as identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # 64 × 56 × 56 at 224 px, 64 × 32 × 32 at 32 px
        for name in self.stages:
            x = self.get_submodule(name)(x)  # 256 × 56, 512 × 28, 1024 × 14, 2048 × 7 px with bottlenecks at 224 px
        x = torch.flatten(self.avgpool(x), 1)  # 2048
        return self.fc(x)
