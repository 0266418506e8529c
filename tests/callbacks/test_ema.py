from types import SimpleNamespace

import torch
from torch import nn

from zoo.callbacks.ema import WeightEMA


def test_the_average_is_the_recurrence_of_its_definition_and_validation_sees_it():
    net = nn.BatchNorm1d(2)
    module = SimpleNamespace(net=net, device=torch.device("cpu"))
    ema = WeightEMA(decay=0.9)
    ema.on_train_start(SimpleNamespace(), module)
    expected = net.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            net.weight.copy_(torch.randn(2))
        ema.on_train_batch_end(SimpleNamespace(global_step=step, accumulate_grad_batches=1), module, None, None, 0)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net.weight.detach()
    live = net.weight.detach().clone()
    ema.on_validation_start(SimpleNamespace(), module)
    torch.testing.assert_close(net.weight.detach(), expected)
    ema.on_validation_end(SimpleNamespace(), module)
    assert torch.equal(net.weight.detach(), live)
