"""Losses of logits and labels, and penalties and limits on weights."""

from collections.abc import Iterable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from zoo.errors import BadInput

LossName = Literal["cross_entropy", "hinge", "squared_hinge"]


class Loss(Protocol):
    """A loss of logits (N, C) and labels: classes (N,) or soft labels (N, C); `weight` (C,) weighs the classes."""

    def __call__(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor: ...


def loss_function(name: LossName, label_smoothing: float = 0.0) -> Loss:
    """Return the mean loss of logits (N, C) and labels: classes (N,), or for cross-entropy also soft labels (N, C).

    The hinge losses are those of the multiclass SVM with a margin of 1 (Weston and Watkins, 1999): the mean over all
    classes of max(0, 1 - logit of the true class + logit of the other), or of its square. Raises ValueError if they are
    used with label smoothing, which is for cross-entropy only. With weights of classes, the sum over samples is divided
    by their number, not by the sum of their weights, so that batches count equally.
    """
    if name == "cross_entropy":

        def cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
            logits = widened(logits)
            if weight is None:
                return nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            weight = weight.to(logits.dtype)
            total = nn.functional.cross_entropy(
                logits, labels, weight, reduction="sum", label_smoothing=label_smoothing
            )
            return total / len(labels)

        return cross_entropy
    if label_smoothing:
        raise ValueError(f"label_smoothing={label_smoothing} is only for loss=cross_entropy, not for loss={name}")
    power = 2 if name == "squared_hinge" else 1

    def hinge(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        if labels.is_floating_point():
            raise BadInput(f"task.loss={name} needs one class per image, but data.mix has two; use only one of them")
        logits = widened(logits)
        weight = None if weight is None else weight.to(logits.dtype)
        return nn.functional.multi_margin_loss(logits, labels, p=power, weight=weight)

    return hinge


def widened(logits: Tensor) -> Tensor:
    """Return logits in fp32 if they have lower precision, as mixed precision does for losses."""
    return logits if logits.dtype == torch.float64 else logits.float()


def weight_penalty(weights: Iterable[Tensor], l1: float, l2: float) -> Tensor | float:
    """Return l1 · Σ|w| + l2/2 · Σw² over all weights, to add to a loss; the caller excludes biases and norms.

    Under plain SGD, `l2` is what torch calls weight_decay; under Adam it is not (Loshchilov and Hutter, 2017).
    """
    total: Tensor | float = 0.0
    weights = list(weights)
    if l1:
        total = total + l1 * torch.stack(torch._foreach_norm(weights, 1)).sum()
    if l2:
        total = total + l2 / 2 * torch.stack(torch._foreach_norm(weights, 2)).square().sum()
    return total


@torch.no_grad()
def limit_norms(weights: Iterable[Tensor], max_norm: float) -> None:
    """Scale each unit's incoming weights (those of one output) to an L2 norm of at most `max_norm`.

    Srivastava et al., "Dropout", 2014, section 5.1; call it after each optimizer step.
    """
    for weight in weights:
        weight.renorm_(2, 0, max_norm)
