"""Random number streams for the images of a batch."""

import math
import random

import torch
from torch import Generator, Tensor

APART = 0x5DEECE66D  # XORed into seeds, so that streams with the same seed differ


class BatchRng:
    """Draw random numbers for a batch split evenly across `world_size` processes, and return those of this process.

    Numbers are drawn for the whole batch, so that the augmentation of an image does not depend on the process count.
    Three streams start from one seed: `uniform` and `integers` on the images' device; those of `host`, on the CPU, to
    choose operations; and `pixels`, per process, because drawing it for the whole batch would be too much.
    """

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self._numbers, self._pixels = Generator(self.device), Generator(self.device)
        self.start(seed)

    def start(self, seed: int) -> None:
        """Restart all streams from a seed."""
        self.seed = seed
        self._numbers.manual_seed(seed)
        self._fresh = True

    @property
    def host(self) -> "BatchRng":
        """Return new streams on the CPU, at their start."""
        return BatchRng(self.seed ^ APART, "cpu", self.rank, self.world_size)

    def crops(self, rows: int, num: int) -> Tensor:
        """Return (rows, num) uniform numbers on the CPU, as `uniform`, from a stream used for nothing else."""
        return BatchRng(self.seed ^ 3 * APART, "cpu", self.rank, self.world_size).uniform(rows, num)

    def once(self) -> random.Random:
        """Return a host stream for values drawn once per batch, the same in every process."""
        return random.Random(self.seed)

    def uniform(self, rows: int, num: int) -> Tensor:
        """Return (rows, num) numbers from [0, 1), one column for each of this process's `num` images."""
        return self._own(torch.rand(rows, num * self.world_size, generator=self._numbers, device=self.device))

    def integers(self, end: int, rows: int, num: int) -> Tensor:
        """Return (rows, num) integers from 0 to end - 1, one column for each of this process's `num` images."""
        shape = (rows, num * self.world_size)
        return self._own(torch.randint(end, shape, generator=self._numbers, device=self.device))

    def pixels(self, shape: tuple[int, ...]) -> Tensor:
        """Return uint8 noise of any shape."""
        if self._fresh:
            self._pixels.manual_seed((self.seed ^ 2 * APART) + self.rank)
            self._fresh = False
        num = math.prod(shape)
        words = torch.empty(-(-num // 8), dtype=torch.int64, device=self.device)  # 8 px each
        words.random_(-(2**63), 2**63 - 1, generator=self._pixels)
        return words.view(torch.uint8)[:num].view(shape)

    def permutation(self, num: int) -> Tensor:
        """Return the numbers 0 to num - 1 in random order, the same in every process."""
        return torch.randperm(num, generator=self._numbers, device=self.device)

    def _own(self, numbers: Tensor) -> Tensor:
        return numbers.tensor_split(self.world_size, 1)[self.rank]
