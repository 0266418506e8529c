"""Nets with faults that no setting can produce, for `model._target_=faults.X`."""

from itertools import pairwise

import torch
from torch import nn

from zoo.models.activations import make_activation
from zoo.models.init import draw_in_unit_bounds
from zoo.models.lenet import LeNet5


class Deep(nn.Module):
    """Twenty linear layers of 32 units in sequence."""

    head_names = ("layers.39",)

    def __init__(self, in_channels: int, num_classes: int, image_size: int, activation: str) -> None:
        super().__init__()
        widths = [in_channels * image_size * image_size, *[32] * 19, num_classes]
        self.layers = nn.Sequential(nn.Flatten())
        for one, next_one in pairwise(widths):
            self.layers.extend([nn.Linear(one, next_one), make_activation(activation)])
        del self.layers[-1]
        draw_in_unit_bounds(self)

    def forward(self, x):
        return self.layers(x)


class FirstFrozen(LeNet5):
    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.features[0].requires_grad_(False)


class OneMore(LeNet5):
    def __init__(self, num_classes: int, **settings) -> None:
        super().__init__(num_classes=num_classes + 1, **settings)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class WrongBackward(LeNet5):
    def forward(self, x):
        return self.classifier(Doubled.apply(self.features(x)))
