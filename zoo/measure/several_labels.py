"""Metrics of several labels per sample: average precision, F1, and thresholds chosen for it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.files import without_nan
from zoo.measure.accuracy import has_nan, is_right

EVEN = 0.5  # the probability that decides without a chosen threshold


def average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each label's average precision (C,), NaN without positive samples: Σ (Rₙ - Rₙ₋₁) Pₙ, as scikit-learn's.

    Logits are (N, C), labels (N, C) of 0 and 1. Samples of equal logits share one threshold.
    """
    return torch.stack([_average_precision(*pair) for pair in zip(logits.unbind(1), labels.unbind(1), strict=True)])


def _average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    _, hits, num = _by_threshold(logits, labels)
    gained = hits.diff(prepend=hits.new_zeros(1))
    return (gained * hits / num).sum() / labels.sum()


def _by_threshold(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the different logits, descending, and how many positive and how many samples have at least as much."""
    ordered, order = logits.double().sort(descending=True)
    hits = labels[order].double().cumsum(0)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    num = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=logits.device)
    return ordered[last], hits[last], num[last]


def best_thresholds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each label (C,) the probability above which it is predicted, for the highest F1 on these samples.

    It is halfway between two samples' probabilities, and the highest of those that are equally good. Labels without
    positive samples get 0.5.
    """
    found = []
    for column, is_true in zip(logits[~has_nan(logits)].unbind(1), labels[~has_nan(logits)].unbind(1), strict=True):
        if not is_true.any():
            found.append(EVEN)
            continue
        values, hits, num = _by_threshold(column, is_true)
        best = int((2 * hits / (num + is_true.sum())).argmax())
        above, below = values[best].sigmoid(), values[best + 1].sigmoid() if best + 1 < len(values) else 0.0
        found.append(float((above + below) / 2))
    return torch.tensor(found, dtype=torch.float64)


def predicted(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Return which labels (N, C) are predicted: those with a probability above their threshold (C,); none for NaN."""
    return logits.double().sigmoid() > thresholds.to(logits.device)


def counts(logits: Tensor, labels: Tensor, thresholds: Tensor) -> Tensor:
    """Return the hits, the positive samples and the predictions of each label (3, C)."""
    chosen = predicted(logits, thresholds) & ~has_nan(logits)[:, None]
    return torch.stack([(chosen & (labels > 0)).sum(0), (labels > 0).sum(0), chosen.sum(0)]).double()


def scores(logits: Tensor, labels: Tensor, thresholds: Tensor) -> dict[str, Tensor]:
    """Return mAP, the mean average precision of labels that have positive samples, and micro and macro F1.

    They are scikit-learn's. A label without positive samples and predictions has an F1 of 0 in the mean.
    """
    known = ~has_nan(logits)
    precision = average_precision(logits[known], labels[known])
    hits, true, chosen = counts(logits, labels, thresholds)
    either = true + chosen
    return {
        "map": precision[~precision.isnan()].mean(),
        "micro_f1": 2 * hits.sum() / either.sum(),
        "macro_f1": (2 * hits / either.clamp_min(1)).mean(),
    }


def evaluate_labels(logits: Tensor, labels: Tensor, classes: Sequence[str], thresholds: Tensor) -> dict[str, Any]:
    """Evaluate predictions of several labels: logits (N, C) float, labels (N, C) of 0 and 1, thresholds (C,).

    `accuracy` is the share of samples of which all labels are right at a probability of 0.5, and `loss` the mean binary
    cross-entropy of a label. Samples with NaN logits are counted in `num_nan`; none of their labels is predicted.
    """
    precision = average_precision(logits[~has_nan(logits)], labels[~has_nan(logits)])
    loss = nn.functional.binary_cross_entropy_with_logits(logits.double(), labels.double())
    of_labels = zip(precision.tolist(), *counts(logits, labels, thresholds).tolist(), thresholds.tolist(), strict=True)
    return {
        "num_samples": len(labels),
        "num_nan": int(has_nan(logits).sum()),
        **{name: without_nan(float(value)) for name, value in scores(logits, labels, thresholds).items()},
        "accuracy": int(is_right(logits, labels).sum()) / len(labels),
        "loss": without_nan(float(loss)),
        "classes": {name: _of_label(*figures) for name, figures in zip(classes, of_labels, strict=True)},
    }


def _of_label(precision: float, hits: float, true: float, chosen: float, threshold: float) -> Mapping[str, Any]:
    return {
        "num_samples": int(true),
        "average_precision": without_nan(precision),
        "f1": 2 * hits / (true + chosen) if true + chosen else None,
        "recall": hits / true if true else None,
        "precision": hits / chosen if chosen else None,
        "threshold": threshold,
    }
