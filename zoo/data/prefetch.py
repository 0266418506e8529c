"""Copy the next batch to the device while the current one is used."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def prefetch_to_device(batches: Iterable[tuple[Any, Any]], device: torch.device) -> Iterator[tuple[Any, Any]]:
    """Copy images, a tensor or whole pictures, to a CUDA device on a separate stream, one batch ahead.

    The copy overlaps with other work only for images in pinned memory. On other devices, batches are copied on demand.
    """
    if device.type != "cuda":
        for images, rest in batches:
            yield images.to(device), rest
        return
    stream = torch.cuda.Stream(device)
    waiting: tuple[Any, Any] | None = None
    for images, rest in batches:
        with torch.cuda.stream(stream):
            moved = images.to(device, non_blocking=True)
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream(device).wait_stream(stream)
        moved.record_stream(torch.cuda.current_stream(device))
        waiting = (moved, rest)
    if waiting is not None:
        yield waiting
