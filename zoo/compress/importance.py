"""The importance of channels: a mean over all layers that a channel touches, relative to the others pruned with it.

Magnitude: squared weights. Batch norm: the size of its scales (Liu et al., "Network slimming", 2017). Taylor: the
first-order change of the loss (Molchanov et al., 2019). LAMP: squared weights over the sum of those not smaller (Lee et
al., 2020), useful with scope `global`.
"""

import copy
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.compress.dependencies import Importance
from zoo.errors import BadInput

NUM_SAMPLES = 512  # for Taylor's gradients
ImportanceName = Literal["magnitude", "batch_norm", "taylor", "lamp"]


def scorer(net: nn.Module, importance: ImportanceName) -> Importance:
    """Return torch-pruning's function of that name; raise BadInput if the net lacks what it needs."""
    from torch_pruning import importance as known

    if importance == "taylor":
        return known.GroupTaylorImportance()
    if importance == "lamp":
        return known.LAMPImportance()
    magnitude = known.GroupMagnitudeImportance()
    if importance == "magnitude":
        return magnitude
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        raise BadInput(f"importance=batch_norm: {type(net).__name__} has no batch norms here; use magnitude")
    scale = known.BNScaleImportance()

    def by_scale(group: Any) -> Tensor | None:
        score = scale(group)
        return magnitude(group) if score is None else score  # heads have no norm

    return by_scale


def with_gradients(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """Copy the net with the gradients of its loss, summed over all heads, on some training samples."""
    net, num = copy.deepcopy(net).train(), 0
    for parameter in net.parameters():
        parameter.requires_grad_()
    for images, labels in batches:
        output = net(images)
        heads = (output[0], *output[1]) if isinstance(output, tuple) else (output,)
        if not labels.is_floating_point() and labels.max() >= heads[0].shape[1]:
            raise BadInput("importance=taylor needs a net that classifies these data; use magnitude")
        losses = [nn.functional.cross_entropy(head, labels, reduction="sum") for head in heads]
        torch.stack(losses).sum().backward()
        num += len(images)
        if num >= NUM_SAMPLES:
            break
    return net
