"""Layer statistics compared with NumPy and closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from zoo.measure import health


def test_a_histogram_counts_as_numpys():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    low, high, number, total, squares, *counts = health.histogram(values).tolist()
    expected, edges = np.histogram(values.double().numpy(), health.NUM_BINS)
    assert (low, high, number) == pytest.approx((edges[0], edges[-1], 5000))
    assert (total, squares) == pytest.approx(
        (float(values.double().sum()), float(values.double().square().sum())), rel=1e-4
    )
    assert np.abs(np.array(counts) - expected).sum() <= 4  # values on an edge up to rounding
    assert sum(counts) == 5000


@pytest.mark.parametrize(("shape", "tolerance"), [((6, 1, 5, 5), 1e-5), ((300, 400), 0.01)], ids=["exact", "power"])
def test_the_largest_singular_value_is_numpys(shape, tolerance):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.norm(weight.flatten(1).double().numpy(), 2)
    assert float(health.largest_singular_value(weight)) == pytest.approx(expected, rel=tolerance)


def test_gradient_noise_finds_the_variance_and_the_mean_that_samples_were_drawn_with():
    draw = torch.Generator().manual_seed(0)
    mean, deviation, num = torch.full((50,), 0.2), 0.5, 8
    sums = np.zeros(2)
    for _ in range(400):
        pieces = [[(mean + deviation * torch.randn(num, 50, generator=draw)).mean(0)] for _ in range(4)]
        sums += np.array([float(x) for x in health.gradient_noise(pieces, num)])
    noise, signal = sums / 400
    assert noise == pytest.approx(50 * deviation**2, rel=0.05)
    assert signal == pytest.approx(50 * 0.2**2, rel=0.05)


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), torch.relu], ids=["module", "in place", "function"])
def test_units_that_never_fire_are_counted(relu):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.act = relu

        def forward(self, x):
            return self.act(self.conv(x))

    net = Net()
    nn.init.constant_(net.conv.bias, 10)
    net.conv.bias.data[1] = -10  # weights in ±1/3 and noise cannot make it positive
    images = torch.rand(8, 1, 6, 6)
    with health.LayerWatch(net) as watch:
        output = net(images)
    assert watch.fired["conv"].tolist() == [True, False, True, True]
    assert float(watch.figures()["dead_units/conv"]) == 0.25
    assert not net.conv._forward_hooks
    torch.testing.assert_close(output, net(images))


@pytest.mark.parametrize(("act", "beyond"), [(nn.Tanh(), 2.0923), (nn.Sigmoid(), 4.1846)])
def test_an_activation_is_saturated_where_its_slope_is_below_6_per_cent(act, beyond):
    """At artanh(0.97) = 2.0923 the slope is 1 - 0.97², and twice as far out for a sigmoid."""
    net = nn.Sequential(nn.Linear(1, 1), act)
    nn.init.ones_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    inputs = torch.tensor([[0.0], [beyond - 0.01], [beyond + 0.01], [-beyond - 0.01]])
    with health.LayerWatch(net) as watch, torch.no_grad():
        net(inputs)
    assert float(watch.saturated["0"]) == 0.5


def test_signal_is_the_share_of_an_output_that_the_input_decides():
    net = nn.Linear(1, 1)
    nn.init.ones_(net.weight)
    nn.init.constant_(net.bias, 3)
    with health.LayerWatch(nn.Sequential(net)) as watch:
        net(torch.tensor([[-1.0], [1.0]]))  # 2 and 4: deviation 1, root mean square √10
    assert float(watch.figures()["signal/0"]) == pytest.approx(10**-0.5)


def test_the_update_ratio_is_of_norms():
    before, after = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])], [torch.tensor([3.0, 0.3]), torch.tensor([[4.4]])]
    assert float(health.update_ratio(before, after)) == pytest.approx(0.5 / 5)
