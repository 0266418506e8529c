"""VGG: a deep stack of 3×3 convolutions and 2×2 pooling.

Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014, table 1, columns A, B,
D and E; with torchvision's parameter names. Departures: batch norm is optional, and weights are initialised as He et
al., 2015, where the paper first trained column A. With `stem=small`, by default for images up to 64 px, the head has
512 units, and pooling rounds sizes up, so that 28 px images pass all five.
"""

from typing import Literal

from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation, width_multiplier
from zoo.models.init import initialise
from zoo.models.stem import Stem, stem_for
from zoo.ranges import BelowOne, Count, ImageSize

SMALL_IMAGE_PX = 64
LEAST_LARGE_PX = 32

# Maps of each convolution, by stage; each stage ends with 2×2 pooling.
TABLE = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),  # A
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),  # B
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),  # D
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),  # E
}


class VGG(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px into logits (N, num_classes)."""

    head_names = ("classifier.6",)

    def __init__(
        self,
        depth: Literal[11, 13, 16, 19],
        batch_norm: bool = False,
        in_channels: Count = 3,
        num_classes: Count = 1000,
        image_size: ImageSize = 224,
        dropout: BelowOne = 0.5,
        activation: Activation = "relu",
        stem: Stem = "auto",
    ) -> None:
        super().__init__()
        per = width_multiplier(activation)
        self.form = stem_for(stem, image_size, SMALL_IMAGE_PX, LEAST_LARGE_PX)
        small = self.form == "small"
        side, units = (1, 512) if small else (7, 4096)
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in TABLE[depth]:
            for maps in stage:
                layers.append(nn.Conv2d(channels, per * maps, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(per * maps))
                layers.append(make_activation(activation))
                channels = maps
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=small))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(channels * side * side, per * units),
            make_activation(activation),
            nn.Dropout(dropout),
            nn.Linear(units, per * units),
            make_activation(activation),
            nn.Dropout(dropout),
            nn.Linear(units, num_classes),
        )
        initialise(self, "he")

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # 512 × 7 × 7 at 224 px, 512 × 1 × 1 at 28 and 32 px
        x = self.avgpool(x).flatten(1)  # 25088
        return self.classifier(x)
