"""Sensitivity: the cost of compressing each layer alone, how far all can go, and which must stay in floats."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.compress.pruning import magnitude, prune
from zoo.compress.sharing import share
from zoo.measure.accuracy import accuracy_in, points_lost

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
BITS = (6, 5, 4, 3, 2, 1)
log = logging.getLogger("zoo")
Curve = list[tuple[float, float]]  # (level, accuracy), starting at the mildest level


@torch.no_grad()
def sensitivity_scan(
    weights: Mapping[str, Tensor],
    accuracy: Callable[[], float],
    levels: Sequence[float],
    change: Callable[[Tensor, float], None],
) -> dict[str, Curve]:
    """Measure the net's accuracy with one weight at a time changed to each level; all weights are restored."""
    curves: dict[str, Curve] = {}
    for name, weight in weights.items():
        kept, curves[name] = weight.clone(), []
        for level in levels:
            change(weight, level)
            curves[name].append((level, accuracy()))
            weight.copy_(kept)
    return curves


@dataclass(frozen=True)
class Scan:
    """The result of a scan: the layers that must stay in floats, and the cost of each layer alone, in points."""

    float_layers: list[str]
    costs: dict[str, float]


def stay_in_floats(
    layers: Sequence[str], measure: Callable[[Sequence[str]], Mapping[str, float]], max_drop: float
) -> Scan:
    """Choose layers to keep in floats so that the net with the others in int8 loses at most `max_drop` points.

    `measure` returns accuracy and loss with some layers in floats. Only if all in int8 lose too much, each layer is
    measured as the only one in int8, and layers are kept in floats one by one, the most costly first.
    """
    before = accuracy_in(measure(layers))

    def cost(found: Mapping[str, float]) -> float:
        return points_lost(before, accuracy_in(found))

    lost = cost(measure([]))
    log.info("With all layers in int8, %.2f points of validation accuracy are lost.", lost)
    if lost <= max_drop:
        return Scan([], {})
    alone = {}
    for layer in layers:
        alone[layer] = measure([other for other in layers if other != layer])
        log.info("%s alone loses %.2f.", layer, cost(alone[layer]))
    order = sorted(layers, key=lambda layer: (accuracy_in(alone[layer]), -alone[layer]["loss"]))
    costs = {layer: cost(found) for layer, found in alone.items()}
    for num in range(1, len(order)):
        lost = cost(measure(order[:num]))
        log.info("With %s in floats, %.2f points are lost.", ", ".join(order[:num]), lost)
        if lost <= max_drop:
            return Scan(order[:num], costs)
    return Scan(order, costs)


def prune_one(weight: Tensor, sparsity: float) -> None:
    """Prune a weight by magnitude, in place."""
    prune({"": weight}, {"": magnitude(weight)}, {"": sparsity})


def share_one(weight: Tensor, bits: float) -> None:
    """Share a weight's values, in place."""
    share(weight, int(bits))


def strongest_level(curve: Curve, least: float, mildest: float) -> float:
    """Return the last level of a curve before its accuracy falls below `least`, or `mildest` if all are below."""
    reached = mildest
    for level, accuracy in curve:
        if accuracy < least:
            break
        reached = level
    return reached
