"""ResNet: each block adds a residual to its input, so that gradients reach all layers of a deep net.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015: table 1 for ImageNet, section 4.2 for CIFAR.
With `preactivation`, He et al., "Identity mappings in deep residual networks", 2016 ("v2"). Departures: the bottleneck
has its stride on the 3×3 convolution ("v1.5", as in torchvision, with its parameter names); `stride_on="1x1"` follows
the paper. With `stem=small`, by default for images up to 64 px, the stem is 3×3 with stride 1 and without pooling, as
in section 4.2; otherwise it is the 7×7 stem of table 1. Convolutions are initialised as He et al., 2015, by fan-out;
the head in ±1/√fan-in.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation
from zoo.models.init import draw_in_unit_bounds
from zoo.models.stem import Stem, stem_for
from zoo.models.stochastic_depth import StochasticDepth, decay_linearly
from zoo.ranges import BelowOne, Count, ImageSize, NotEmpty

SMALL_IMAGE_PX = 64


def convolve(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


class PadShortcut(nn.Module):
    """Match shapes without parameters: subsample by the stride and append zero maps (option A, section 3.3)."""

    def __init__(self, stride: int, num_new_maps: int) -> None:
        super().__init__()
        self.stride, self.num_new_maps = stride, num_new_maps

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, 0, self.num_new_maps))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, strides: tuple[int, int], downsample: nn.Module | None, act: Activation
    ) -> None:
        super().__init__()
        self.conv1 = convolve(in_channels, width, 3, strides[0] * strides[1])
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = make_activation(act)
        self.conv2 = convolve(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.survive = StochasticDepth()
        self.relu2 = make_activation(act)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.survive(self.bn2(self.conv2(x)))
        return self.relu2(x + shortcut)


class Bottleneck(nn.Module):
    """1×1 to reduce, 3×3, and 1×1 to expand by four (figure 5, right); `strides` are those of the first two."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, strides: tuple[int, int], downsample: nn.Module | None, act: Activation
    ) -> None:
        super().__init__()
        self.conv1 = convolve(in_channels, width, 1, strides[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = make_activation(act)
        self.conv2 = convolve(width, width, 3, strides[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = make_activation(act)
        self.conv3 = convolve(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.survive = StochasticDepth()
        self.relu3 = make_activation(act)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.survive(self.bn3(self.conv3(x)))
        return self.relu3(x + shortcut)


class PreActivation(nn.Module):
    """Convolutions of a block, each preceded by norm and activation, with nothing after the sum (2016, figure 1b).

    A shortcut that changes the shape starts after the first activation. The first block of the net has no activation
    there: the stem ends with one, shared by both paths (2016, appendix).
    """

    def __init__(self, block: BasicBlock | Bottleneck, first: bool, act: Activation) -> None:
        super().__init__()
        convs = [m for name, m in block.named_children() if name.startswith("conv") and isinstance(m, nn.Conv2d)]
        self.convs = nn.ModuleList(convs)
        self.before = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c.in_channels), make_activation(act)) for c in convs)
        if first:
            self.before[0] = nn.Identity()
        self.survive = StochasticDepth()
        self.downsample = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.before[0](x)
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.convs[0](y)
        for before, conv in zip(self.before[1:], self.convs[1:], strict=True):
            y = conv(before(y))
        return self.survive(y) + shortcut


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px into logits (N, num_classes).

    `depths` and `widths` are the number of blocks and their (inner) maps, one entry per stage; each stage but the first
    halves the image. `shortcut` sets how shapes are matched: by a 1×1 projection (option B) or zero padding (option A).
    `stochastic_depth` is the probability of dropping the last block's branch in training. Raises ValueError if the two
    lists differ in length, and for maxout, which is not possible after a sum.
    """

    head_names = ("fc",)

    def __init__(
        self,
        block: Literal["basic", "bottleneck"],
        depths: Annotated[list[Count], NotEmpty()],
        widths: list[Count],
        in_channels: Count = 3,
        num_classes: Count = 1000,
        image_size: ImageSize = 224,
        shortcut: Literal["projection", "pad"] = "projection",
        preactivation: bool = False,
        stride_on: Literal["1x1", "3x3"] = "3x3",
        activation: Activation = "relu",
        stochastic_depth: BelowOne = 0.0,
        stem: Stem = "auto",
    ) -> None:
        super().__init__()
        if len(depths) != len(widths):
            raise ValueError(f"depths={depths} and widths={widths} must each have one entry per stage")
        if activation == "maxout":
            raise ValueError("activation=maxout would halve the maps after a residual sum; use another")
        self.block, self.shortcut, self.stride_on = BLOCKS[block], shortcut, stride_on
        self.preactivation, self.activation, self.channels = preactivation, activation, widths[0]
        self.form = stem_for(stem, image_size, SMALL_IMAGE_PX)
        small = self.form == "small"
        self.conv1 = convolve(in_channels, widths[0], 3) if small else convolve(in_channels, widths[0], 7, 2)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = make_activation(activation)
        self.stages = [f"layer{i}" for i in range(1, len(depths) + 1)]
        for name, depth, width in zip(self.stages, depths, widths, strict=True):
            self.add_module(name, self._stage(depth, width, first=name == "layer1"))
        if preactivation:
            self.last = nn.Sequential(nn.BatchNorm2d(self.channels), make_activation(activation))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        draw_in_unit_bounds(self.fc)
        decay_linearly(self, stochastic_depth)

    def _stage(self, depth: int, width: int, first: bool) -> nn.Sequential:
        blocks: list[nn.Module] = []
        for i in range(depth):
            stride = 1 if first or i else 2
            strides = (stride, 1) if self.stride_on == "1x1" else (1, stride)
            block = self.block(self.channels, width, strides, self._downsample(width, stride), self.activation)
            blocks.append(PreActivation(block, first and i == 0, self.activation) if self.preactivation else block)
            self.channels = width * self.block.expansion
        return nn.Sequential(*blocks)

    def _downsample(self, width: int, stride: int) -> nn.Module | None:
        out_channels = width * self.block.expansion
        if stride == 1 and out_channels == self.channels:
            return None
        if self.shortcut == "pad":
            return PadShortcut(stride, out_channels - self.channels)
        projection = convolve(self.channels, out_channels, 1, stride)
        return projection if self.preactivation else nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # 64 × 56 × 56 at 224 px, 64 × 32 × 32 at 32 px
        for name in self.stages:
            x = self.get_submodule(name)(x)  # 256 × 56, 512 × 28, 1024 × 14, 2048 × 7 px with bottlenecks at 224 px
        if self.preactivation:
            x = self.last(x)
        x = torch.flatten(self.avgpool(x), 1)  # 2048
        return self.fc(x)
