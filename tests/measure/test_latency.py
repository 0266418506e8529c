import time

import pytest
import torch
from torch import nn

from zoo.measure.latency import latency_ms


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
