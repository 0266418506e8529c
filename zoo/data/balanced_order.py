"""An epoch in which every class is equally frequent, whatever the number of its samples."""

import torch
from torch import Tensor

from zoo.data.batch_rng import BatchRng


class BalancedOrder:
    """Draw as many samples as there are labels (N,), the same number of each class, up to one.

    The samples of a class are repeated equally often, up to one; of a class with too many, others are left out each
    time. Labels are on the device of the random numbers.
    """

    def __init__(self, labels: Tensor) -> None:
        counts = labels.bincount()
        self.labels = labels
        self.classes = counts.nonzero().flatten()
        self.counts = counts[self.classes]
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, draws: BatchRng) -> Tensor:
        """Return the numbers of the samples (N,) in random order; never waits for the device."""
        num, num_classes = len(self.labels), len(self.classes)
        shuffled = draws.permutation(num)
        by_class = shuffled[self.labels[shuffled].argsort(stable=True)]  # in random order within each class
        slots = torch.arange(num, device=self.labels.device)
        row = draws.permutation(num_classes)[slots % num_classes]
        chosen = by_class[self.starts[row] + slots // num_classes % self.counts[row]]
        return chosen[draws.permutation(num)]
