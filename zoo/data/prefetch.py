"""Move what comes next while what is there is used."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def ahead(batches: Iterable[tuple[Tensor, Any]], device: torch.device) -> Iterator[tuple[Tensor, Any]]:
    """Move each batch's images to a CUDA device on a stream beside, one batch before it is wanted.

    That runs beside other work only for images in pinned memory. Any other device gets each batch as it comes.
    """
    if device.type != "cuda":
        for images, rest in batches:
            yield images.to(device), rest
        return
    stream = torch.cuda.Stream(device)
    waiting: tuple[Tensor, Any] | None = None
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
