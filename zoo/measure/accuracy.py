"""Correct predictions, their shares by class, and accuracy lost in percentage points."""

from collections.abc import Mapping

from torch import Tensor

ONE_CLASS = 0.95  # of the images of other classes, and of all, that are given the same class
TOP = 5  # for top-5 accuracy, which is always 1 with five classes or fewer


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return for each sample (N,) whether its label has the largest logit (N, C) and none of its logits is NaN.

    If labels are (N, C), of 0 and 1, whether all of them, and no others, have a probability above one half.
    """
    if labels.ndim == 2:
        return ((logits > 0) == (labels > 0)).all(1) & ~has_nan(logits)
    return (logits.argmax(1) == labels) & ~has_nan(logits)


def has_nan(logits: Tensor) -> Tensor:
    """Return for each sample (N,) whether one of its logits (N, C) is NaN, which argmax would return as the largest."""
    return logits.isnan().any(1)


def accuracy_in(metrics: Mapping[str, Tensor | float], prefix: str = "") -> float:
    """Return the accuracy among metrics or, where labels are numbers, R2: what a limit on lost points is for."""
    key = f"{prefix}accuracy"
    return float(metrics[key if key in metrics else f"{prefix}r2"])


def points_lost(before: float, after: float) -> float:
    """Return the drop in accuracy in percentage points, without rounding errors: 0.5 from 0.915 to 0.91."""
    return round(100 * (before - after), 9)


def balanced_scores(hits: Tensor, true: Tensor, predicted: Tensor) -> dict[str, Tensor]:
    """Return balanced accuracy and macro F1, given for each class (C,) the hits, the samples and the predictions.

    They are scikit-learn's: the mean recall of classes that have samples, and the mean F1 of classes that have samples
    or are predicted, 2 · hits / (samples + predictions). NaN without samples.
    """
    hits, either = hits.double(), true + predicted
    recall, f1 = hits / true, 2 * hits / either
    return {"balanced_accuracy": recall[true > 0].mean(), "macro_f1": f1[either > 0].mean()}


def one_answer(hits: Tensor, true: Tensor, predicted: Tensor) -> tuple[int, int] | None:
    """Return the class that is predicted for nearly all samples, and for how many of them; None if there is none.

    The arguments are the hits, samples and predictions of each class (C,). Nearly all means at least 95 % of samples,
    and of those of other classes, so that right predictions do not count where nearly all data are of one class.
    """
    top = int(predicted.argmax())
    num, others = int(predicted[top]), int(true.sum() - true[top])
    is_one = others > 0 and int(num - hits[top]) >= ONE_CLASS * others and num >= ONE_CLASS * int(true.sum())
    return (top, num) if is_one else None
