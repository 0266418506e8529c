"""Latency of nets."""

import copy
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.measure.device import synchronize

WARM_UP = 5  # untimed calls
LEAST_CALLS, MOST_CALLS = 5, 100
ENOUGH_SECONDS = 0.3
LEAST_ROUNDS = 10
CPU = torch.device("cpu")
Runtime = Literal["eager", "compiled"]


def latency_ms(net: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> float:
    """Return the median time in ms of a call of the net in eval mode, uncompiled, with inputs of these shapes.

    The values of the inputs do not matter, so they may be on the meta device. A copy of the net is called, with
    synchronisation after each call.
    """
    net = copy.deepcopy(net).to(device).eval()
    values = filled(net, inputs, device)
    seconds: list[float] = []
    with torch.inference_mode():
        for call in range(WARM_UP + MOST_CALLS):
            start = time.perf_counter()
            net(*values)
            synchronize(device)
            if call >= WARM_UP:
                seconds.append(time.perf_counter() - start)
            if len(seconds) >= LEAST_CALLS and sum(seconds) > ENOUGH_SECONDS:
                break
    return 1000 * statistics.median(seconds)


def latencies_ms(
    nets: Sequence[nn.Module],
    inputs: tuple[Tensor, ...],
    runtime: Runtime = "eager",
    seconds: float = 3.0,
    device: torch.device = CPU,
) -> list[float]:
    """Return the time in ms of a call of each net in eval mode, with inputs of these shapes.

    Copies of the nets are called in turn, as by `in_turn_ms`. `compiled` is torch.compile in its default mode.
    """
    copies = [copy.deepcopy(net).to(device).eval() for net in nets]
    if runtime == "compiled":
        torch.compiler.reset()  # it would compile only eight versions of a net
        for net in copies:
            net.compile(dynamic=False)
    found = in_turn_ms([functools.partial(net, *filled(net, inputs, device)) for net in copies], device, seconds)
    if runtime == "compiled":
        torch.compiler.reset()
    return found


def in_turn_ms(calls: Sequence[Callable[[], object]], device: torch.device = CPU, seconds: float = 3.0) -> list[float]:
    """Return the time in ms of each of several calls, without gradients.

    They are made in turn, at least 10 times each and until `seconds` have passed, so that other work on the machine
    slows all of them. The time is the lower quartile, which such work changes less than the median.
    """
    taken: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for turn in range(WARM_UP + MOST_CALLS):
            for call, times in zip(calls, taken, strict=True):
                start = time.perf_counter()
                call()
                synchronize(device)
                if turn >= WARM_UP:
                    times.append(time.perf_counter() - start)
            if turn >= WARM_UP + LEAST_ROUNDS - 1 and sum(map(sum, taken)) > seconds:
                break
    return [1000 * statistics.quantiles(times, n=4)[0] for times in taken]


def filled(net: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> list[Tensor]:
    """Return ones on a device of the shapes of `inputs`, in the precision of the net."""
    number = next(net.parameters()).dtype
    return [torch.ones_like(x, device=device, dtype=number if x.is_floating_point() else x.dtype) for x in inputs]
