"""Correct predictions, and accuracy lost in percentage points."""

from torch import Tensor

TOP = 5  # for top-5 accuracy, which is always 1 with five classes or fewer


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each sample (N,) whether its label has the largest logit (N, C) and none of its logits is NaN."""
    return (logits.argmax(1) == labels) & ~has_nan(logits)


def has_nan(logits: Tensor) -> Tensor:
    """Return for each sample (N,) whether one of its logits (N, C) is NaN, which argmax would return as the largest."""
    return logits.isnan().any(1)


def points_lost(before: float, after: float) -> float:
    """Return the drop in accuracy in percentage points, without rounding errors: 0.5 from 0.915 to 0.91."""
    return round(100 * (before - after), 9)
