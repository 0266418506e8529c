"""Memory of a CPU that is used again, since the first use of new memory takes longer than to normalise a batch."""

import weakref
from collections import deque
from typing import Any

import torch
from torch import Tensor

LARGE = 32 << 20  # bytes, from which on glibc's malloc takes new memory from the system each time
MOST_UNUSED = 2  # blocks to keep


class ReusedMemory:
    """Allocate float32 tensors; large ones, on a CPU, in the memory of earlier ones that nothing refers to any more."""

    def __init__(self) -> None:
        self._unused: deque[Any] = deque(maxlen=MOST_UNUSED)  # arrays; any thread may append one, in a single step

    def empty_like(self, images: Tensor) -> Tensor:
        """Return a float32 tensor with the shape, memory layout and device of `images`; its values are undefined."""
        num = images.numel()
        if images.device.type != "cpu" or 4 * num < LARGE:
            return torch.empty_like(images, dtype=torch.float32)
        block = self._block(num)
        view = memoryview(block)  # kept by the tensor's memory, which all views of the tensor keep
        weakref.finalize(view, self._take_back, block)
        strides = torch.empty_like(images, device="meta").stride()
        return torch.frombuffer(view, dtype=torch.float32).as_strided(images.shape, strides)

    def _block(self, num: int) -> Any:
        """Return an array of this size, an unused one if there is one."""
        for _ in range(len(self._unused)):
            block = self._unused.popleft()
            if len(block) == num:
                return block
            self._unused.append(block)
        return torch.empty(num).numpy()

    def _take_back(self, block: Any) -> None:
        self._unused.append(block)
