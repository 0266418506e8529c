"""What counts as right, and what is lost of an accuracy."""

from torch import Tensor

TOP = 5  # classes, among the likeliest of which the right one always is where there are no more


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return of each sample whether its label has the largest of its logits (N, C), of which none may be NaN: (N,)."""
    return (logits.argmax(1) == labels) & ~has_nan(logits)


def has_nan(logits: Tensor) -> Tensor:
    """Return of each sample whether one of its logits (N, C) is NaN, which torch takes for the largest: (N,)."""
    return logits.isnan().any(1)


def points_lost(before: float, after: float) -> float:
    """Return by how many points, of 100, an accuracy fell, less what floats add: from 0.915 to 0.91 it is 0.5."""
    return round(100 * (before - after), 9)
