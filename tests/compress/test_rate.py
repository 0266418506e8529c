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
    error = integers.scale_nonzeros(0.95)
    assert integers.integers()["a"].count_nonzero() == 1522
    assert error == pytest.approx(math.log(1602 / 1522))
    assert float(integers.least) == pytest.approx(0.6, abs=0.01)
    integers.scale_nonzeros(1602 / 1522 * 1.05)
    assert integers.integers()["a"].count_nonzero() == 1682
    assert integers.integers()["a"].abs().unique().tolist() == [0, 1, 2]
    assert torch.equal(integers.integers()["a"][1001:], -integers.integers()["a"][:1001])
    integers.scale_nonzeros(9)
    assert integers.integers()["a"].count_nonzero() == pytest.approx(1921, abs=1)  # from 0.1 on, and not below
    integers.scale_nonzeros(0.01)
    assert integers.integers()["a"].count_nonzero() == pytest.approx(1201, abs=1)  # from 1 on, and not above


@pytest.mark.parametrize(("num_steps", "least"), [(200, 0.7), (400, 0.7), (600, 0.8), (1000, 0.9), (2000, 0.9)])
def test_the_size_of_the_weights_of_a_regression_is_held(num_steps, least):
    """Every 20 steps, as by default: in short runs, weights that have become small have no time to grow again."""
    torch.manual_seed(1)
    true = torch.randn(30, 100) * (torch.rand(30, 100) < 0.2)
    net, x = nn.Linear(100, 30, bias=False), torch.randn(512, 100)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    begin, end, ratios = num_steps // 20, round(0.6 * num_steps), []
    control, target = PriceControl((end - begin) // 20), 2500.0
    integers, price = IntegerWeights(dict(net.named_parameters()), 1.0), 0.0
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + math.cos(math.pi * step / num_steps))
        if step >= begin and ((step - begin) % 20 == 0 or step == num_steps - 1):
            bits = float(integers.count_bits())
            if step < end:
                price = control.towards_bits(bits, target)
            else:
                price = control.after_error(integers.scale_nonzeros(target / bits))
                ratios.append(float(integers.count_bits()) / target)
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), x @ true.T).backward()
        if step >= begin:
            integers.before_step({"weight": net.weight.grad}, price / 3000, 1e-3)
        optimizer.step()
        if step >= begin:
            integers.after_step()
    assert least < ratios[-1] < 1.04
    assert price < 20  # or weights would have become small for nothing


def test_a_price_falls_when_too_much_accuracy_is_lost():
    control = PriceControl(100)
    first = control.price
    assert control.towards_drop(0.1, 0.5) > first
    for _ in range(3):
        lower = control.towards_drop(2.0, 0.5)
    assert lower < first
