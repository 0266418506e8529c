"""An epoch's order for pictures that are best read nearly in the order in which they are stored."""

import torch
from torch import Tensor

from zoo.data.batch_rng import BatchRng


class ShuffleBuffer:
    """Draw the order that shards in random order and a shuffle buffer of `size` samples give, without a buffer.

    `shards` (N,) has the number of each sample's shard, equal numbers being neighbours. Each sample is less than `size`
    places away from its own in the shuffled shards. As all of an epoch is known in advance, it resumes exactly.
    """

    def __init__(self, shards: Tensor, size: int) -> None:
        self.shards, self.size = shards, size
        self.num_shards = int(shards.max()) + 1

    def draw(self, draws: BatchRng) -> Tensor:
        """Return the numbers of the samples (N,)."""
        num = len(self.shards)
        in_order = draws.permutation(self.num_shards)[self.shards].argsort(stable=True)
        later = draws.permutation(num).double() * (self.size / num)  # from 0 to below `size`
        return in_order[(torch.arange(num, device=self.shards.device) + later).argsort(stable=True)]
