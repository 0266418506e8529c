"""The memory and operations of a file's net are counted on the meta device, without using any."""

import pytest
import torch
from torch import nn

from zoo.measure import bounds
from zoo.measure.bounds import Bounded, check_activations


class Chain(nn.Module):
    """Add 1 to an image several times, and keep every result until the end, or only the last."""

    def __init__(self, num: int, held: bool) -> None:
        super().__init__()
        self.num, self.held = num, held

    def forward(self, x):
        results = [x]
        for _ in range(self.num):
            results = [*(results if self.held else []), results[-1] + 1]
        return sum(results[1:])


def image(num=1, size=1024):
    return [torch.empty(num, 1, size, size, device="meta")]


def test_what_is_freed_makes_room_and_what_is_held_at_once_is_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "MAX_BYTES", 16 * 2**20)  # four results of 4 MiB
    check_activations(Chain(50, held=False), image())
    with pytest.raises(ValueError, match="at once"):
        check_activations(Chain(50, held=True), image())


@pytest.mark.parametrize("num_samples", [1, 8])
def test_limits_are_those_of_one_sample(monkeypatch, num_samples):
    monkeypatch.setattr(bounds, "MAX_NUMBERS", 2**20)
    check_activations(nn.ReLU(), image(num_samples), num_samples)
    with pytest.raises(ValueError, match="numbers"):
        check_activations(nn.ReLU(), image(num_samples + 1), num_samples)


def test_a_transposed_weight_is_no_result():
    """The first linear layer of VGG-16 has 102,760,448 weights."""
    with torch.device("meta"):
        check_activations(nn.Linear(25_088, 4096), [torch.empty(1, 25_088)])


@pytest.mark.parametrize(
    ("net", "flops"),
    [
        (nn.Conv2d(1, 6, 5), 2 * 117_600),  # C1 of LeNet-5 has 122,304 connections, of which 4,704 are biases
        (nn.MaxPool2d(2), 256 * 4),  # windows of four
        (nn.ReLU(), 0),
    ],
)
def test_operations_are_those_of_products_and_windows(net, flops):
    with torch.no_grad(), Bounded() as counted:
        net.to("meta")(torch.empty(1, 1, 32, 32, device="meta"))
    assert counted.num_flops == flops


def test_what_reads_much_is_bounded_though_it_gives_little():
    class Sums(nn.Module):
        def forward(self, x):
            return sum(x.expand(2**10, 1, 1024, 1024).sum() for _ in range(10))

    with pytest.raises(ValueError, match="read and produce"):
        check_activations(Sums(), image())
