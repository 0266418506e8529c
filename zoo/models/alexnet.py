"""AlexNet: large convolutions with ReLU, overlapping pooling and dropout; the ImageNet winner of 2012.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012, section 3
(`year=2012`: its two towers as grouped convolutions, local response normalisation, initial weights as in section 5),
and Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (`year=2014`: one tower, no
normalisation; as torchvision's `alexnet`, with its parameter names and initial weights). Departures: the first
convolution pads 224 px by 2, because the paper's sizes only fit 227 px. With `stem=small`, by default for images up to
64 px, the first convolution is 3×3 with stride 1 and the head has 1,024 units, since the original would reduce them to
nothing.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation, width_multiplier
from zoo.models.init import draw_in_unit_bounds
from zoo.models.stem import Stem, stem_for
from zoo.ranges import BelowOne, Count, ImageSize

SMALL_IMAGE_PX = 64
LEAST_LARGE_PX, LEAST_SMALL_PX = 63, 15
HALVES = (torch.bfloat16, torch.float16)


class Row(NamedTuple):
    """One convolution: maps, kernel size, stride, padding, groups; whether normalisation and pooling follow."""

    maps: int
    kernel: int
    stride: int
    padding: int
    groups: int
    normalised: bool
    pooled: bool


TABLES = {
    2012: (
        Row(96, 11, 4, 2, 1, True, True),  # 96 × 27 × 27
        Row(256, 5, 1, 2, 2, True, True),  # 256 × 13 × 13
        Row(384, 3, 1, 1, 1, False, False),
        Row(384, 3, 1, 1, 2, False, False),
        Row(256, 3, 1, 1, 2, False, True),  # 256 × 6 × 6
    ),
    2014: (
        Row(64, 11, 4, 2, 1, False, True),  # 64 × 27 × 27
        Row(192, 5, 1, 2, 1, False, True),  # 192 × 13 × 13
        Row(384, 3, 1, 1, 1, False, False),
        Row(256, 3, 1, 1, 1, False, False),
        Row(256, 3, 1, 1, 1, False, True),  # 256 × 6 × 6
    ),
}


class ResponseNorm(nn.LocalResponseNorm):
    """Local response norm in at least fp32: squares overflow in fp16, and CPUs lack the pooling in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype) if x.dtype in HALVES else super().forward(x)


class AlexNet(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px into logits (N, num_classes)."""

    head_names = ("classifier.6",)

    def __init__(
        self,
        in_channels: Count = 3,
        num_classes: Count = 1000,
        image_size: ImageSize = 224,
        year: Literal[2012, 2014] = 2014,
        dropout: BelowOne = 0.5,
        activation: Activation = "relu",
        stem: Stem = "auto",
    ) -> None:
        super().__init__()
        per = width_multiplier(activation)
        self.form = stem_for(stem, image_size, SMALL_IMAGE_PX, LEAST_LARGE_PX, LEAST_SMALL_PX)
        small = self.form == "small"
        side, units = (2, 1024) if small else (6, 4096)
        layers, channels = list[nn.Module](), in_channels
        for i, row in enumerate(TABLES[year]):
            kernel, stride, padding = (3, 1, 1) if small and i == 0 else row[1:4]
            conv = nn.Conv2d(channels, per * row.maps, kernel, stride, padding, groups=row.groups)
            layers += [conv, make_activation(activation)]
            if row.normalised:  # torch divides alpha by the 5 maps summed; the paper's 1e-4 is not divided
                layers.append(ResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
            if row.pooled:
                layers.append(nn.MaxPool2d(3, stride=2))
            channels = row.maps
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(channels * side * side, per * units),
            make_activation(activation),
            nn.Dropout(dropout),
            nn.Linear(units, per * units),
            make_activation(activation),
            nn.Linear(units, num_classes),
        )
        if year == 2012:
            self._initialise()
        else:
            draw_in_unit_bounds(self)

    def _initialise(self) -> None:
        """Draw weights with std 0.01; biases of convolutions 2, 4, 5 and hidden layers are 1, so ReLUs fire."""
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for i, layer in enumerate(layers):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 1.0 if i in (1, 3, 4, 5, 6) else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # 256 × 6 × 6 at 224 px, 256 × 2 × 2 at 28 px
        x = self.avgpool(x).flatten(1)  # 9216
        return self.classifier(x)
