import time

import pytest
import torch
from torch import nn

from zoo.errors import BadInput
from zoo.measure.device import device_for
from zoo.measure.latency import in_turn_ms, latency_ms


class Sleeper(nn.Module):
    """Take 2 ms per call, and 0.1 s for the first few."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, x):
        self.calls.append((x.device.type, x.dtype, self.training, torch.is_grad_enabled()))
        time.sleep(0.1 if len(self.calls) <= 3 else 0.002)
        return x


def test_it_is_the_time_of_one_call_once_warm():
    net = Sleeper()
    found = latency_ms(net, (torch.empty(1, 3, device="meta"),), torch.device("cpu"))
    assert found == pytest.approx(2, abs=1.5)
    assert net.training
    assert not net.calls  # a copy was called


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_inputs_have_the_nets_precision(precision):
    net = nn.Linear(4, 4).to(precision)
    assert latency_ms(net, (torch.empty(1, 4, device="meta"),), torch.device("cpu")) > 0


def test_several_calls_are_made_in_turn_without_gradients():
    made = []
    found = in_turn_ms([lambda i=i: made.append((i, torch.is_grad_enabled())) for i in range(3)], seconds=0.0)
    assert len(found) == 3
    assert made == [(i, False) for _ in range(15) for i in range(3)]  # five turns to warm up, and ten that are timed
    assert in_turn_ms([]) == []


def test_a_device_that_is_not_there_is_refused_in_a_sentence():
    assert device_for("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match="accelerator=mps is not available here"):
        device_for("mps")
