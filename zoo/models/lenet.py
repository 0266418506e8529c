"""LeNet: convolutions with subsampling in between, and a small classifier on top.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, section II.B and
figure 2. Departures: the head is linear with softmax outside, where the paper has Euclidean RBF units; by default, as
is usual today, C3 is fully connected, pooling is max pooling and the activation is ReLU, and weights start in
±1/√fan-in, as in torch. `c3="table"`, `pooling="trainable"`, `activation="scaled_tanh"` restore the paper's version
(with its 60,000 weights before the head, initialised as in appendix A). Images of 28 px are padded by 2 to the paper's
32; other sizes only change the input width of C5.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.models.activations import Activation, make_activation, width_multiplier
from zoo.models.init import draw_in_unit_bounds, draw_uniform, fans
from zoo.ranges import Count, ImageSize, height_width, plain_size

# Table I of the paper: which of the six maps of S2 (rows) each of the sixteen maps of C3 (columns) is connected to.
C3_TABLE = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)


class TableConv2d(nn.Conv2d):
    """Convolution with the connections of a table only; no other weights exist."""

    inputs: Tensor
    outputs: Tensor

    def __init__(self, table: tuple[str, ...], kernel_size: int, repeats: int = 1) -> None:
        columns = [column for column in zip(*table, strict=True) for _ in range(repeats)]
        super().__init__(len(table), len(columns), kernel_size)
        pairs = [(i, o) for o, column in enumerate(columns) for i, cell in enumerate(column) if cell == "X"]
        inputs, outputs = (torch.tensor(ends) for ends in zip(*pairs, strict=True))
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("outputs", outputs, persistent=False)
        self.weight = nn.Parameter(self.weight.detach()[outputs, inputs])  # (connections, k, k)

    def dense(self, weight: Tensor) -> Tensor:
        """Return the dense kernel (outputs, inputs, k, k) for weights (connections, k, k), with zeros elsewhere."""
        shape = self.out_channels, self.in_channels, *self.kernel_size
        return weight.new_zeros(shape).index_put((self.outputs, self.inputs), weight)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.dense(self.weight), self.bias)


class TrainablePool2d(nn.Module):
    """Average 2×2 windows, apply a learnt scale and bias per map, and an activation (S2 and S4 of the paper)."""

    def __init__(self, num_maps: int, activation: Activation) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_maps))
        self.bias = nn.Parameter(torch.zeros(num_maps))
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(x, 2)
        return self.act(x * self.weight[:, None, None] + self.bias[:, None, None])


class LeNet5(nn.Module):
    """Classify images (N, in_channels, H, W) of `image_size` px into logits (N, num_classes).

    Raises ValueError for images under 16 px, which are too small for S4.
    """

    head_names = ("classifier.5",)

    def __init__(
        self,
        in_channels: Count = 1,
        num_classes: Count = 10,
        image_size: ImageSize = 32,
        c3: Literal["full", "table"] = "full",
        pooling: Literal["max", "average", "trainable"] = "max",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        padding = 2 if height_width(image_size) == (28, 28) else 0
        self.map_size = _size_after_features(image_size, padding)
        per = width_multiplier(activation)

        def pool(num_maps: int) -> nn.Module:
            if pooling == "trainable":
                return TrainablePool2d(num_maps, activation)
            return nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)

        self.features = nn.Sequential(
            nn.Conv2d(in_channels, per * 6, 5, padding=padding),  # C1: 6 × 28 × 28
            make_activation(activation),
            pool(6),  # S2: 6 × 14 × 14
            nn.Conv2d(6, per * 16, 5) if c3 == "full" else TableConv2d(C3_TABLE, 5, per),  # C3: 16 × 10 × 10
            make_activation(activation),
            pool(16),  # S4: 16 × 5 × 5
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * math.prod(self.map_size), per * 120),  # C5, a convolution over the whole of S4
            make_activation(activation),
            nn.Linear(120, per * 84),  # F6
            make_activation(activation),
            nn.Linear(84, num_classes),
        )
        draw_as_in_1998(self) if activation == "scaled_tanh" else draw_in_unit_bounds(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class LeNet5Caffe(nn.Module):
    """Classify images into logits with 20-50-500-10 maps and units; compression papers call this net LeNet-5.

    Jia et al., "Caffe", 2014, examples/mnist/lenet.prototxt: no activation after the convolutions, ReLU after ip1.
    Takes (N, in_channels, H, W), returns (N, num_classes); ValueError for images under 16 px. Weights
    start uniform with variance 1 / fan-in, called "xavier" in Caffe.
    """

    head_names = ("ip2",)

    def __init__(self, in_channels: Count = 1, num_classes: Count = 10, image_size: ImageSize = 28) -> None:
        super().__init__()
        self.map_size = _size_after_features(image_size, 0)
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.ip1 = nn.Linear(50 * math.prod(self.map_size), 500)
        self.ip2 = nn.Linear(500, num_classes)
        for layer in (self.conv1, self.conv2, self.ip1, self.ip2):
            draw_uniform(layer, (3 / fans(layer, layer.weight)[0]) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x))  # 20 × 12 × 12
        x = self.pool(self.conv2(x))  # 50 × 4 × 4
        x = torch.relu(self.ip1(x.flatten(1)))  # 500
        return self.ip2(x)


class LeNet300(nn.Module):
    """Classify images into logits with two hidden layers of 300 and 100 units and no convolution (paper, III.C.4).

    Weights start in ±1/√fan-in; with the paper's `scaled_tanh`, as in its appendix A.
    """

    head_names = ("layers.5",)

    def __init__(
        self,
        in_channels: Count = 1,
        num_classes: Count = 10,
        image_size: ImageSize = 28,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        per, self.map_size = width_multiplier(activation), height_width(image_size)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * math.prod(self.map_size), per * 300),
            make_activation(activation),
            nn.Linear(300, per * 100),
            make_activation(activation),
            nn.Linear(100, num_classes),
        )
        draw_as_in_1998(self) if activation == "scaled_tanh" else draw_in_unit_bounds(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def draw_as_in_1998(net: nn.Module) -> None:
    """Draw weights uniformly in ±2.4 / fan-in of each unit (paper, appendix A), and set biases to 0."""
    for module in net.modules():
        if isinstance(module, TableConv2d):
            draw_uniform(module, 2.4)
            siblings = (module.outputs[:, None] == module.outputs).sum(1)  # connections to the same map
            fan_in = siblings * module.weight[0].numel()
            module.weight.data /= fan_in[:, None, None]
        elif isinstance(module, nn.Conv2d | nn.Linear):
            draw_uniform(module, 2.4 / fans(module, module.weight)[0])


def _size_after_features(image_size: ImageSize, padding: int) -> tuple[int, int]:
    """Return height and width in px of the maps after two rounds of a 5×5 convolution and 2×2 pooling."""
    height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in height_width(image_size))
    if min(height, width) < 1:
        got = plain_size(image_size)
        raise ValueError(f"image_size={got} is too small for two 5×5 convolutions; use at least 16 px")
    return height, width
