"""Sensitivity: what a layer's pruning or sharing costs by itself, and how far all may go that cost no more each."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from zoo.compress.pruning import magnitude, prune
from zoo.compress.sharing import share

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
BITS = (6, 5, 4, 3, 2, 1)
Curve = list[tuple[float, float]]  # (level, accuracy), from the mildest level on


@torch.no_grad()
def scan(
    weights: Mapping[str, Tensor],
    accuracy: Callable[[], float],
    levels: Sequence[float],
    change: Callable[[Tensor, float], None],
) -> dict[str, Curve]:
    """Measure the net's accuracy with one weight at a time changed to each level; all weights are left as they were."""
    curves: dict[str, Curve] = {}
    for name, weight in weights.items():
        kept, curves[name] = weight.clone(), []
        for level in levels:
            change(weight, level)
            curves[name].append((level, accuracy()))
            weight.copy_(kept)
    return curves


def prune_one(weight: Tensor, sparsity: float) -> None:
    """Prune a weight by size, in place."""
    prune({"": weight}, {"": magnitude(weight)}, {"": sparsity})


def share_one(weight: Tensor, bits: float) -> None:
    """Share a weight's values, in place."""
    share(weight, int(bits))


def farthest(curve: Curve, least: float, mildest: float) -> float:
    """Give the last level of a curve before its accuracy falls below `least`; `mildest` where all are below."""
    reached = mildest
    for level, accuracy in curve:
        if accuracy < least:
            break
        reached = level
    return reached
