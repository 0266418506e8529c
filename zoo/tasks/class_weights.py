"""Weights and prior probabilities of classes, from the numbers of their training samples."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from zoo.errors import BadInput, choices
from zoo.ranges import NotNegative

ClassWeights = Literal["balanced", "effective"] | dict[str, NotNegative]
BETA = 0.999  # of Cui et al.: a class of many more than 1 / (1 - BETA) samples counts as one of that many


def class_weights(how: ClassWeights, counts: Mapping[str, int]) -> Tensor:
    """Return the weight of each class (C,), given its number of training samples by name.

    - balanced: inversely proportional to the number, as in scikit-learn.
    - effective: inversely proportional to the effective number of samples, (1 - β^n) / (1 - β) (Cui et al.,
      "Class-balanced loss", 2019).
    - a mapping: the weights of these classes; all others have 1.

    The first two are scaled so that the mean over training samples is 1. Raises BadInput for an unknown class.
    """
    num = torch.tensor(list(counts.values()), dtype=torch.float64)
    if isinstance(how, Mapping):
        given = {str(name): weight for name, weight in how.items()}
        if unknown := [name for name in given if name not in counts]:
            raise BadInput(f"task.class_weights: there is no class '{unknown[0]}'; {choices(unknown[0], counts)}")
        return torch.tensor([given.get(name, 1.0) for name in counts])
    weights = 1 / num if how == "balanced" else (1 - BETA) / (1 - BETA**num)
    return (weights * num.sum() / (weights * num).sum()).float()


def log_prior(counts: Mapping[str, int]) -> Tensor:
    """Return the logarithm of each class's share of the training samples (C,)."""
    num = torch.tensor(list(counts.values()), dtype=torch.float64)
    return (num / num.sum()).log().float()
