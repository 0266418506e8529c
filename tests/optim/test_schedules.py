"""Closed forms compared with torch's schedulers."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, OneCycleLR, PolynomialLR, SequentialLR

from zoo.optim.schedules import constant, cosine, linear, one_cycle, step


def torch_curve(make, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    curve = []
    for _ in range(steps):
        curve.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return curve


def test_cosine_is_torchs():
    theirs = torch_curve(lambda o: CosineAnnealingLR(o, 50, eta_min=0.1), 50)
    ours = cosine(50, final=0.1)
    assert [ours(i) for i in range(50)] == pytest.approx(theirs, abs=1e-9)


def test_linear_is_torchs():
    theirs = torch_curve(lambda o: PolynomialLR(o, 50, power=1), 51)
    assert [linear(50)(i) for i in range(51)] == pytest.approx(theirs, abs=1e-9)


def test_linear_after_a_while_is_torchs():
    def held(optimizer):
        parts = [ConstantLR(optimizer, 1.0), LinearLR(optimizer, 1.0, end_factor=0.1, total_iters=20)]
        return SequentialLR(optimizer, parts, milestones=[30])

    ours = linear(60, warmup=1 / 6, hold=0.6, final=0.1)  # 10 steps of warm-up, 30 at the full rate, 20 that fall
    assert [ours(10 + i) for i in range(51)] == pytest.approx(torch_curve(held, 51), abs=1e-9)


@pytest.mark.parametrize("steps", [10, 100, 333])
def test_one_cycle_is_torchs(steps):
    theirs = torch_curve(lambda o: OneCycleLR(o, 1.0, total_steps=steps, cycle_momentum=False), steps - 1)
    ours = one_cycle(steps)
    assert [ours(i) for i in range(steps - 1)] == pytest.approx(theirs, abs=1e-9)


def test_step_falls_tenfold_at_half_and_three_quarters():
    curve = [step(100)(i) for i in (0, 49, 50, 74, 75, 99)]
    assert curve == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("schedule", [constant, cosine, linear, step])
def test_warm_up_rises_linearly_to_the_full_rate(schedule):
    factor = schedule(100, warmup=0.1)
    assert [factor(i) for i in range(10)] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factor(10) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", [constant, cosine, linear, step, one_cycle])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_shortest_runs_have_finite_rates(schedule, steps):
    for warmup in (0.0, 0.05, 0.3, 1.0):
        factor = schedule(steps, warmup=warmup)
        for i in range(steps + 1):  # LambdaLR evaluates once more after the last step
            assert math.isfinite(factor(i))
            assert 0 <= factor(i) <= 1 + 1e-9
