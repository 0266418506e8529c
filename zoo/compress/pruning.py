"""Prune single weights: those that score lowest become zero, and no mask is kept, since the zeros are the mask."""

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
    """Return the weights that may be pruned or shared: trained, of two dimensions and more, so no bias and no norm."""
    return {name: p for name, p in net.named_parameters() if p.ndim > 1 and p.requires_grad}


def by_layer(setting: Setting | Mapping[str, Setting], weights: Mapping[str, Tensor], where: str) -> dict[str, Setting]:
    """Return each weight its setting: the one for all, or that of the first pattern that its layer's name matches.

    A layer that no pattern matches is in no answer. BadInput for a pattern without a layer.
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
    """Score a weight by its square over those of its layer that are not smaller (Lee et al., "LAMP", 2021).

    What it prunes of all layers together leaves each of them something.
    """
    squares, order = weight.flatten().double().square().sort()
    not_smaller = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / not_smaller.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """Score a weight by how fast a step leads it away from zero; added up over steps (Sanh et al., 2020)."""
    return (-weight * gradient).nan_to_num(0, 0, 0)  # of a step that 16-mixed will leave out


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Score a weight by the square of what the loss would change without it, to first order (Molchanov et al., 2019).

    Added up over steps.
    """
    return (weight * gradient).square().nan_to_num(0, 0, 0)


@torch.no_grad()
def prune(weights: Mapping[str, Tensor], scores: Mapping[str, Tensor], sparsity: float | Mapping[str, float]) -> None:
    """Set the lowest-scored weights to zero, in place: so many that round(sparsity · n) of n are.

    A number is the share of all weights together, a mapping that of each. A zero stays one, whatever its score, and
    where more are zero already, none is added. Nothing waits for the device.
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
    """Drop a share of each layer's survivors, the smallest, and choose as many zeros to grow, of the largest gradients.

    Evci et al., "Rigging the lottery", 2020. What is grown starts at zero, and is therefore given as a mask a weight,
    which the step in hand must spare: it moves them, and from then on they are not zero.
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
