"""LeNet: convolutions that share weights, subsampling between them, and a small classifier on top.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, section II.B and
figure 2. Departures: the head is linear with softmax outside, where the paper has Euclidean RBF units; by default C3 is
fully connected, pooling is a plain maximum and the activation is ReLU, as everyone trains it since. `c3="table"`,
`pooling="trainable"` and `activation="tanh"` bring the paper's back (60,000 weights before the head, as it says).
Images of 28 px are padded by 2 to the paper's 32; other sizes only change the width of C5's input.
"""

from typing import Literal

import torch
from torch import Tensor, nn

# Table I of the paper: which of the six maps of S2 (rows) each of the sixteen maps of C3 (columns) sees.
C3_TABLE = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)


class ScaledTanh(nn.Module):
    """Squash with 1.7159 tanh(2x/3), whose gain is about 1 and whose f(±1) = ±1 (appendix A of the paper)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class TableConv2d(nn.Conv2d):
    """Convolve along the connections of a table only: the other weights are not parameters, they do not exist."""

    inputs: Tensor
    outputs: Tensor

    def __init__(self, table: tuple[str, ...], kernel_size: int) -> None:
        super().__init__(len(table), len(table[0]), kernel_size)
        pairs = [(i, o) for o in range(len(table[0])) for i in range(len(table)) if table[i][o] == "X"]
        inputs, outputs = torch.tensor(pairs).T
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("outputs", outputs, persistent=False)
        self.weight = nn.Parameter(self.weight.detach()[outputs, inputs])  # (connections, k, k)

    def forward(self, x: Tensor) -> Tensor:
        shape = self.out_channels, self.in_channels, *self.kernel_size
        dense = self.weight.new_zeros(shape).index_put((self.outputs, self.inputs), self.weight)
        return self._conv_forward(x, dense, self.bias)


class TrainablePool2d(nn.Module):
    """Average 2×2 windows, then scale and shift each map by two trained numbers (S2 and S4 of the paper)."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_maps))
        self.bias = nn.Parameter(torch.zeros(num_maps))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(x, 2)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class LeNet5(nn.Module):
    """Classify images (N, in_channels, image_size, image_size) into logits (N, num_classes).

    Raises ValueError for images under 16 px, of which nothing is left after S4.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 32,
        c3: Literal["full", "table"] = "full",
        pooling: Literal["max", "average", "trainable"] = "max",
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        padding = 2 if image_size == 28 else 0
        side = _side_after_features(image_size, padding)
        act = {"relu": nn.ReLU, "tanh": ScaledTanh}[activation]

        def pool(num_maps: int) -> nn.Module:
            return {"max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2), "trainable": TrainablePool2d(num_maps)}[pooling]

        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=padding),  # C1: 6 × 28 × 28
            act(),
            pool(6),  # S2: 6 × 14 × 14
            nn.Conv2d(6, 16, 5) if c3 == "full" else TableConv2d(C3_TABLE, 5),  # C3: 16 × 10 × 10
            act(),
            pool(16),  # S4: 16 × 5 × 5
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),  # C5, a convolution over the whole of S4
            act(),
            nn.Linear(120, 84),  # F6
            act(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class LeNet5Caffe(nn.Module):
    """Classify images into logits with 20-50-500-10 maps and units, the net that compression papers call LeNet-5.

    Jia et al., "Caffe", 2014, examples/mnist/lenet.prototxt: no activation after the convolutions, ReLU after ip1.
    Takes (N, in_channels, image_size, image_size), gives (N, num_classes); ValueError for images under 16 px.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> None:
        super().__init__()
        side = _side_after_features(image_size, 0)
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.ip1 = nn.Linear(50 * side * side, 500)
        self.ip2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x))  # 20 × 12 × 12
        x = self.pool(self.conv2(x))  # 50 × 4 × 4
        x = torch.relu(self.ip1(x.flatten(1)))  # 500
        return self.ip2(x)


class LeNet300(nn.Module):
    """Classify images into logits with two hidden layers of 300 and 100 units and no convolution (paper, III.C.4)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_channels * image_size * image_size, 300),
            nn.ReLU(),
            nn.Linear(300, 100),
            nn.ReLU(),
            nn.Linear(100, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _side_after_features(image_size: int, padding: int) -> int:
    """Give the side in px of the maps after two rounds of a 5×5 convolution and 2×2 pooling."""
    side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
    if side < 1:
        raise ValueError(f"image_size={image_size} leaves nothing after two 5×5 convolutions; 16 px and more will do")
    return side
