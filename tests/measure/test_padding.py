import itertools

import pytest
import torch
from torch import nn

from zoo.measure.padding import output_size, padding_kind, same_padding


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_output_sizes_are_torchs(ceil_mode):
    for size, kernel, stride, padding, dilation in itertools.product(
        (7, 8, 13), (1, 2, 3, 5), (1, 2, 3), (0, 1), (1, 2)
    ):
        if dilation * (kernel - 1) + 1 > size + 2 * padding or padding > kernel // 2:
            continue
        pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
        expected = pool(torch.zeros(1, 1, size, size)).shape[-1]
        assert output_size(size, kernel, stride, padding, dilation, ceil_mode) == expected


def test_alexnets_first_layer_is_the_classic_example():
    """CS231n: (227 - 11 + 0) / 4 + 1 = 55; with the paper's 224 px it is not an integer."""
    assert output_size(227, 11, 4) == 55
    assert (224 - 11) % 4 != 0


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"), [(5, 3, 1, (1, 1)), (6, 3, 2, (0, 1)), (7, 2, 2, (0, 1))]
)
def test_same_padding_is_tensorflows(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def test_same_padding_keeps_what_torch_calls_same():
    for size, kernel, dilation in itertools.product((5, 8), (1, 2, 3, 5), (1, 2)):
        before, after = same_padding(size, kernel, 1, dilation)
        conv = nn.Conv2d(1, 1, kernel, dilation=dilation, padding="same")
        assert conv._reversed_padding_repeated_twice[:2] == [before, after]


def test_kinds_have_their_names():
    assert padding_kind(32, 5) == "valid"
    assert padding_kind(28, 5, padding=2) == "same"
    assert padding_kind(224, 7, stride=2, padding=3) == "same"
    assert padding_kind(224, 2, stride=2) == "same"
    assert padding_kind(224, 11, stride=4, padding=2) == "padded"
    assert padding_kind(112, 3, stride=2, ceil_mode=True) == "same"  # 112 → 56, as in GoogLeNet's table 1
