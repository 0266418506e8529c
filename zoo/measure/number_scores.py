"""Metrics of numbers that a net predicts: MAE, RMSE and R2, as scikit-learn computes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.files import without_nan
from zoo.measure.accuracy import is_right

MOST_POINTS = 1000  # of a scatter plot
Scale = Mapping[str, Sequence[float]]  # `mean` and `std` of each number (C,) in training, by which outputs are scaled


def in_units(outputs: Tensor, scale: Scale) -> Tensor:
    """Return a net's outputs (N, C) in the units of the labels, float64: times std, plus mean, of each number."""
    mean, std = (torch.tensor(scale[key], dtype=torch.float64, device=outputs.device) for key in ("mean", "std"))
    return outputs.double() * std + mean


def errors(predicted: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return MAE, RMSE and R2 of each number (C,), of predictions and labels (N, C) in the units of the labels.

    They are scikit-learn's: R2 of labels that are all the same is 1 if all are predicted exactly, and otherwise 0; that
    of fewer than two samples is NaN. NaN predictions make all three NaN.
    """
    labels = labels.double()
    off = predicted.double() - labels
    squares, spread = off.square().sum(0), (labels - labels.mean(0)).square().sum(0)
    is_constant = (labels == labels[:1]).all(0)
    r2 = torch.where(is_constant & ~squares.isnan(), (squares == 0).double(), 1 - squares / spread)
    r2 = r2 if len(labels) > 1 else torch.full_like(r2, torch.nan)
    return {"mae": off.abs().mean(0), "rmse": off.square().mean(0).sqrt(), "r2": r2}


def scores(outputs: Tensor, labels: Tensor, scale: Scale) -> dict[str, Tensor]:
    """Return MAE, RMSE and R2 of outputs (N, C) for labels (N, C), as means over the numbers, and `loss`.

    The loss is the mean squared error in standard deviations of each number.
    """
    predicted = in_units(outputs, scale)
    off = (predicted - labels.double()) / torch.tensor(scale["std"], dtype=torch.float64)
    return {"loss": off.square().mean(), **{name: one.mean() for name, one in errors(predicted, labels).items()}}


def share_right(outputs: Tensor, labels: Tensor, scale: Scale | None) -> float:
    """Return the accuracy of outputs (N, C) or, for numbers, R2, the share of the variance that they explain.

    R2 below 0, of numbers that are worse than the mean, and NaN count as 0.
    """
    if scale is not None:
        return float(scores(outputs, labels, scale)["r2"].nan_to_num(0.0).clamp_min(0))
    return float(is_right(outputs, labels).double().mean())


def evaluate_numbers(outputs: Tensor, labels: Tensor, names: Sequence[str], scale: Scale) -> dict[str, Any]:
    """Evaluate a net's outputs (N, C) for labels (N, C).

    The metrics are those of `scores`; `classes` has the errors of each number by name, and `points` up to 1,000 pairs
    of label and prediction of each, evenly spread. `num_nan` samples have NaN outputs, which make the metrics NaN.
    """
    predicted = in_units(outputs, scale)
    of_each = errors(predicted, labels)
    rows = zip(names, *(values.tolist() for values in of_each.values()), strict=True)
    pairs = torch.stack([labels.double(), predicted], 2)[:: -(-len(labels) // MOST_POINTS)]
    return {
        "num_samples": len(labels),
        "num_nan": int(outputs.isnan().any(1).sum()),
        **{name: without_nan(float(value)) for name, value in scores(outputs, labels, scale).items()},
        "classes": {name: dict(zip(of_each, without_nan(figures), strict=True)) for name, *figures in rows},
        "points": {name: without_nan(pairs[:, i].tolist()) for i, name in enumerate(names)},
    }
