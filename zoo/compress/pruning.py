"""Prune single weights: those with the lowest scores become zero; the zeros are the mask, so none is stored."""

import fnmatch
import math
from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from zoo.errors import BadInput, choices

Score = Literal["magnitude", "lamp", "movement", "taylor"]
Setting = TypeVar("Setting")


def prunable(net: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights that may be pruned or shared: trained, with at least two dimensions, so no biases or norms."""
    return {name: p for name, p in net.named_parameters() if p.ndim > 1 and p.requires_grad}


def by_layer(setting: Setting | Mapping[str, Setting], weights: Mapping[str, Tensor], where: str) -> dict[str, Setting]:
    """Return the setting of each weight: the one for all, or that of the first pattern matching the layer's name.

    Layers that match no pattern are left out. Raises BadInput for a pattern that matches no layer.
    """
    if not isinstance(setting, Mapping):
        return dict.fromkeys(weights, setting)
    layers = {name: name.removesuffix(".weight") for name in weights}
    for pattern in setting:
        if not fnmatch.filter(layers.values(), pattern):
            raise BadInput(f"{where}: no layer of this net is named '{pattern}'; {choices(pattern, layers.values())}")
    found = {}
    for name, layer in layers.items():
        if matching := [value for pattern, value in setting.items() if fnmatch.fnmatch(layer, pattern)]:
            found[name] = matching[0]
    return found


def cubic(progress: float) -> float:
    """Return the share of the final sparsity after a share of the steps (Zhu and Gupta, 2017)."""
    return 1 - (1 - progress) ** 3


def magnitude(weight: Tensor) -> Tensor:
    """Score a weight by its size."""
    return weight.abs()


def lamp(weight: Tensor) -> Tensor:
    """Score a weight by its square over the sum of those in its layer that are not smaller (Lee et al., "LAMP", 2021).

    Pruning all layers together by this score leaves some weights in each of them.
    """
    squares, order = weight.flatten().double().square().sort()
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / not_smaller.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """Score a weight by how fast a step moves it away from zero; summed over steps (Sanh et al., 2020)."""
    return (-weight * gradient).nan_to_num(0, 0, 0)  # NaN in steps that 16-mixed skips


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Score a weight by the squared first-order change of the loss without it (Molchanov et al., 2019).

    Summed over steps.
    """
    return (weight * gradient).square().nan_to_num(0, 0, 0)


@torch.no_grad()
def prune(weights: Mapping[str, Tensor], scores: Mapping[str, Tensor], sparsity: float | Mapping[str, float]) -> None:
    """Set the weights with the lowest scores to zero, in place, until round(sparsity · n) of n are zero.

    A number is the share of all weights together; a mapping has that of each. A zero stays zero, whatever its score,
    and if more are already zero, none is added. Does not synchronise with the device.
    """
    if not isinstance(sparsity, Mapping):
        flat = torch.cat([weight.flatten() for weight in weights.values()])
        _prune_one(flat, torch.cat([scores[name].flatten() for name in weights]), sparsity)
        parts = flat.split([weight.numel() for weight in weights.values()])
        for weight, part in zip(weights.values(), parts, strict=True):
            weight.copy_(part.view(weight.shape))
        return
    for name, share in sparsity.items():
        _prune_one(weights[name], scores[name], share)


def _prune_one(weight: Tensor, score: Tensor, sparsity: float) -> None:
    score = score.masked_fill(weight == 0, -math.inf).flatten()
    kept = torch.zeros_like(score, dtype=torch.bool)
    kept[score.topk(len(score) - round(sparsity * len(score)), sorted=False).indices] = True
    weight.masked_fill_(~kept.view(weight.shape), 0)


@torch.no_grad()
def regrow(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Drop the smallest share of each layer's survivors, and grow as many zeros with the largest gradients.

    Evci et al., "Rigging the lottery", 2020. Grown weights start at zero and are returned as one mask per weight, which
    the current step must not prune: it moves them, and from then on they are not zero.
    """
    grown = {}
    for name, weight in weights.items():
        flat, gradient = weight.flatten().clone(), gradients[name].flatten().abs()
        num = int(share * int(flat.count_nonzero()))
        smallest = flat.abs().masked_fill(flat == 0, math.inf).topk(num, largest=False).indices
        flat[smallest] = 0
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[gradient.masked_fill(flat != 0, -1.0).topk(num).indices] = True
        weight.copy_(flat.view(weight.shape))
        grown[name] = chosen.view(weight.shape)
    return grown


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """Return the share of zeros among all weights."""
    total = sum(weight.numel() for weight in weights.values())
    return 1 - sum(int(weight.count_nonzero()) for weight in weights.values()) / max(1, total)
