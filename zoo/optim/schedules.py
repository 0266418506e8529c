"""Learning-rate schedules in closed form, stepped per batch, each after a linear warm-up.

Each takes the number of optimizer steps and returns a function from a step (0 … total_steps - 1) to a factor on the
optimizer's learning rate. `warmup` is a fraction of the steps.
"""

import math
from collections.abc import Callable, Sequence

from zoo.ranges import BelowOne, Positive, Share

Factor = Callable[[int], float]


def constant(total_steps: int, *, warmup: BelowOne = 0.0) -> Factor:
    """Keep the learning rate constant."""
    return _after_warmup(total_steps, warmup, lambda progress: 1.0)


def cosine(total_steps: int, *, warmup: BelowOne = 0.0, final: Share = 0.0) -> Factor:
    """Decay along half a cosine to the fraction `final` (Loshchilov and Hutter, "SGDR", 2016, without restarts)."""
    return _after_warmup(total_steps, warmup, lambda progress: final + (1 - final) * _half_cosine(progress))


def linear(total_steps: int, *, warmup: BelowOne = 0.0, hold: BelowOne = 0.0, final: Share = 0.0) -> Factor:
    """Keep the learning rate for the fraction `hold` of the steps after warm-up, then fall linearly to `final`.

    Without `hold`, as in Bergsma et al., "Straight to zero", 2025; with it, a trapezoid, as in Hägele
    et al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024.
    """

    def shape(progress: float) -> float:
        return 1 - (1 - final) * min(max(0.0, progress - hold) / (1 - hold), 1.0)

    return _after_warmup(total_steps, warmup, shape)


def step(
    total_steps: int, *, warmup: BelowOne = 0.0, milestones: Sequence[Share] = (0.5, 0.75), gamma: Positive = 0.1
) -> Factor:
    """Multiply by `gamma` at each milestone, a fraction of all steps including warm-up (He et al., 2015, 4.2)."""
    warmup_steps = round(warmup * total_steps)

    def factor(i: int) -> float:
        if i < warmup_steps:
            return (i + 1) / warmup_steps
        return gamma ** sum(i >= round(milestone * total_steps) for milestone in milestones)

    return factor


def one_cycle(total_steps: int, *, warmup: BelowOne = 0.3, start: Share = 0.04, final: Share = 4e-6) -> Factor:
    """Rise from `start` to 1 and fall to `final`, both along half a cosine (Smith and Topin, 2017).

    The same curve as torch's OneCycleLR with div_factor = 1/start, but the momentum is not changed, while torch cycles
    it by default.
    """
    peak = warmup * total_steps - 1
    end = total_steps - 1

    def factor(i: int) -> float:
        if i < peak:
            return start + (1 - start) * (1 - _half_cosine(i / peak))
        return final + (1 - final) * _half_cosine((i - peak) / max(1.0, end - peak))

    return factor


def _half_cosine(progress: float) -> float:
    """Return a value that falls from 1 to 0 as progress goes from 0 to 1, and stays at 0."""
    return (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def _after_warmup(total_steps: int, warmup: float, shape: Callable[[float], float]) -> Factor:
    warmup_steps = round(warmup * total_steps)

    def factor(i: int) -> float:
        if i < warmup_steps:
            return (i + 1) / warmup_steps
        return shape((i - warmup_steps) / max(1, total_steps - warmup_steps))

    return factor
