"""Latency of a net for one sample."""

import copy
import statistics
import time

import torch
from torch import Tensor, nn

WARM_UP = 5  # untimed calls
LEAST_CALLS, MOST_CALLS = 5, 100
ENOUGH_SECONDS = 0.3


def latency_ms(net: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> float:
    """Return the median time in ms of a call of the net in eval mode, uncompiled, with inputs of these shapes.

    The values of the inputs do not matter, so they may be on the meta device. A copy of the net is called, with
    synchronisation after each call.
    """
    net = copy.deepcopy(net).to(device).eval()
    number = next(net.parameters()).dtype
    filled = [torch.ones_like(x, device=device, dtype=number if x.is_floating_point() else x.dtype) for x in inputs]
    seconds: list[float] = []
    with torch.inference_mode():
        for call in range(WARM_UP + MOST_CALLS):
            start = time.perf_counter()
            net(*filled)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if call >= WARM_UP:
                seconds.append(time.perf_counter() - start)
            if len(seconds) >= LEAST_CALLS and sum(seconds) > ENOUGH_SECONDS:
                break
    return 1000 * statistics.median(seconds)
