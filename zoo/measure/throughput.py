"""Find the fastest batch size of a device by trying."""

import gc
import time
from collections.abc import Callable

import torch

from zoo import memory
from zoo.measure.device import synchronize

ENOUGH = 1.05  # minimum speed-up, in samples per second, from doubling the batch
TOO_FULL = 0.8  # of the memory; above this, a run, which needs more than a trial, might not fit
LEAST_SECONDS = 0.2  # minimum time for timing a size


def fastest_batch_size(step: Callable[[int], object], largest: int, device: torch.device, smallest: int = 16) -> int:
    """Return the smallest of the sizes `smallest`, twice that, and so on up to `largest` that is about the fastest.

    `step(n)` trains on n samples. Sizes are tried until two in a row are not faster per sample, or until one runs out
    of memory. If even the smallest does not fit, it is halved until one fits; if 1 does not fit, the last error is
    raised.
    """
    rates: dict[int, float] = {}
    size = min(smallest, largest)
    while size <= largest:
        try:
            rates[size] = _samples_per_second(step, size, device)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error) or (size == 1 and not rates):
                raise
            if rates:
                break
            largest = size = size // 2
            continue
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
        earlier = [rate for n, rate in rates.items() if n < size // 2]
        if earlier and max(rates[size], rates[size // 2]) < ENOUGH * max(earlier):
            break
        size *= 2
    best = max(rates.values())
    return min(n for n, rate in rates.items() if rate * ENOUGH >= best)


def _samples_per_second(step: Callable[[int], object], size: int, device: torch.device) -> float:
    """Time steps of a batch size after a warm-up step; raise torch.OutOfMemoryError if they fill the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step(size)
    synchronize(device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        if torch.cuda.max_memory_reserved(device) > TOO_FULL * total:
            raise torch.OutOfMemoryError(f"{size} samples fill the device")
    num, start = 0, time.perf_counter()
    while num < 3 or time.perf_counter() - start < LEAST_SECONDS:
        step(size)
        num += 1
        synchronize(device)
    return num * size / (time.perf_counter() - start)
