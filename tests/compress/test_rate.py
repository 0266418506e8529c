import copy
import math

import pytest
import torch
from torch import nn

from zoo.compress.price_control import PriceControl
from zoo.compress.rate import IntegerWeights, RateModel
from zoo.packed.codec import encode


def of_rows_and_columns(step, *shape):
    """Draw weights whose spread depends on the output and on the input, as in trained nets."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = shape[0], shape[1:]
    spread = torch.rand(rows, *[1] * len(columns), generator=generator) * torch.rand(columns, generator=generator)
    return (torch.randn(shape, generator=generator) * spread / step).round()


@pytest.mark.parametrize("step", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(300, 784), (500, 800), (256, 128, 3, 3)])
def test_the_bits_are_those_that_the_packed_file_takes(shape, step):
    integers = of_rows_and_columns(step, *shape)
    code, _ = encode([integers * 0.01])
    assert float(RateModel.of(integers).bits(integers).sum()) / 8 == pytest.approx(len(code), rel=0.05)


def test_a_slope_is_the_difference_to_the_next_larger_integer():
    integers = of_rows_and_columns(0.3, 60, 70)
    model = RateModel.of(integers)
    scaled = integers.sign() * (integers.abs() + 0.4) + (integers == 0) * 0.4
    low = scaled.abs().floor()
    expected = (model.bits(low + 1) - model.bits(low)).clamp_min(0.5) * scaled.sign()
    few = low < 15
    torch.testing.assert_close(model.slope(scaled)[few], expected[few])


def test_gradients_are_those_of_a_rounding_passed_straight_through():
    torch.manual_seed(0)
    net, x = nn.Linear(7, 5, bias=False), torch.randn(11, 7)
    reference = copy.deepcopy(net)
    integers = IntegerWeights(dict(net.named_parameters()), 0.8)
    integers.count_bits()
    price, lr, model = 0.01, 0.1, integers.models["weight"]
    net(x).square().mean().backward()
    integers.before_step({"weight": net.weight.grad}, price, 1e-3)
    # The same by autograd, with the bits as a piecewise linear function of the latents.
    log_step = integers.steps()["weight"].log().requires_grad_()
    scaled = reference.weight / log_step.exp()
    straight = scaled + (scaled.round() - scaled).detach()
    loss = (nn.functional.linear(x, straight * log_step.exp())).square().mean()
    bits = (model.slope(scaled.detach()) * scaled).sum()
    of_weight, of_step = torch.autograd.grad(loss + price * bits, [reference.weight, log_step])
    torch.testing.assert_close(net.weight.grad, of_weight)
    torch.testing.assert_close(integers._of_steps[0], of_step)
    torch.testing.assert_close(net.weight, reference.weight)  # the optimizer sees the latents
    before = integers.steps()["weight"]
    torch.optim.SGD(net.parameters(), lr).step()
    integers.after_step()
    torch.testing.assert_close(integers.latents["weight"], reference.weight - lr * of_weight)
    assert torch.equal((net.weight / integers.steps()["weight"]).round(), integers.integers()["weight"])
    assert float(integers._logs[0] - log_step.detach()) == pytest.approx(-1e-3 * float(of_step.sign()), abs=5e-3)
    assert before.bfloat16().float() == before


class Plant:
    """Bits that follow the price slowly, as those of a net do: towards a power of it, by a share per count."""

    def __init__(self, share):
        self.bits, self.share = 2e6, share

    def after(self, price):
        self.bits += self.share * (min(2e6, 2e6 * (price / 0.001) ** -0.7) - self.bits)
        return self.bits


@pytest.mark.parametrize(("num", "share"), [(12, 0.3), (60, 0.05), (200, 0.05), (2000, 0.01)])
@pytest.mark.parametrize("target", [1e5, 4e5])
def test_bits_are_led_to_the_target(num, share, target):
    control, plant = PriceControl(num), Plant(share)
    for _ in range(num + 1):
        bits = plant.after(control.towards_bits(plant.bits, target))
    assert bits == pytest.approx(target, rel=0.2)
    for _ in range(num):
        bits = plant.after(control.after_error(math.log(bits / target)))
    assert bits == pytest.approx(target, rel=0.1)


def test_nonzeros_become_as_many_as_are_wanted_by_the_least_magnitude_of_one():
    magnitudes = torch.linspace(0, 2.5, 1001)  # of latents over a step of 1
    latents = {"a": magnitudes.repeat(2) * torch.tensor([1.0, -1.0]).repeat_interleave(1001)}
    integers = IntegerWeights(latents, 1 / float(latents["a"].std(correction=0)))
    assert integers.steps()["a"] == 1
    assert integers.integers()["a"].count_nonzero() == 1602  # from 0.5 on
    shift = integers.scale_nonzeros(0.95)
    assert integers.integers()["a"].count_nonzero() == 1522
    assert 0.5 + 0.2 * shift == pytest.approx(0.6, abs=0.01)
    integers.scale_nonzeros(1602 / 1522 * 1.05)
    assert integers.integers()["a"].count_nonzero() == 1682
    assert integers.integers()["a"].abs().unique().tolist() == [0, 1, 2]
    assert torch.equal(integers.integers()["a"][1001:], -integers.integers()["a"][:1001])
    assert integers.scale_nonzeros(9) == pytest.approx(-1)  # no further than this
    assert integers.integers()["a"].count_nonzero() == pytest.approx(1761, abs=1)  # from 0.3 on


def test_a_price_falls_when_too_much_accuracy_is_lost():
    control = PriceControl(100)
    first = control.price
    assert control.towards_drop(0.1, 0.5) > first
    for _ in range(3):
        lower = control.towards_drop(2.0, 0.5)
    assert lower < first
