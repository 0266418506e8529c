"""Evaluation of a classifier's predictions: accuracy, calibration and confusion matrix."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.files import without_nan
from zoo.measure.accuracy import TOP, balanced_scores, has_nan, is_right
from zoo.measure.calibration import calibration
from zoo.measure.number_scores import Scale, share_right


@torch.inference_mode()
def predictions(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return each batch's logits (N, C) in fp32 and labels (N,), on the CPU, for batches of images and labels."""
    return [(net(images).float().cpu(), labels.cpu()) for images, labels in batches]


def accuracy(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], scale: Scale | None = None) -> float:
    """Return the fraction of images that a net classifies correctly, for batches of images and labels.

    If the labels are numbers, of this scale, it is R2, as `share_right` has it.
    """
    outputs, labels = zip(*predictions(net, batches), strict=True)
    return share_right(torch.cat(outputs), torch.cat(labels), scale)


def evaluate(logits: Tensor, labels: Tensor, classes: Sequence[str], temperature: float = 1.0) -> dict[str, Any]:
    """Evaluate predictions: logits (N, C) float, labels (N,) int64.

    `top5` is included only for more than five classes. Samples with NaN logits are counted in `num_nan`, are never
    correct, and are not in the matrix. The confusion matrix has one row per true class and one column per predicted
    class. Recall of a class without samples and precision of a class never predicted are None.

    `calibration` has the temperature and the figures of zoo.measure.calibration for softmax(logits / temperature), and
    `calibration_error` is its `error`; with a temperature other than 1, `uncalibrated` has the figures without it.
    `loss` is that of the logits as they are, as in training. Samples with logits that are not finite are not in
    `calibration`.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    num_classes = len(classes)
    known = ~has_nan(logits)
    matrix = multiclass_confusion_matrix(logits[known].argmax(1), labels[known], num_classes)
    hits, true, predicted = matrix.diag(), labels.bincount(minlength=num_classes), matrix.sum(0)
    figures = calibration(logits / temperature, labels)
    return {
        "num_samples": len(labels),
        "num_nan": int((~known).sum()),
        "accuracy": int(is_right(logits, labels).sum()) / len(labels),
        **({"top5": _top5(logits, labels, known)} if num_classes > TOP else {}),
        **{name: without_nan(float(score)) for name, score in balanced_scores(hits, true, predicted).items()},
        "loss": without_nan(float(nn.functional.cross_entropy(logits.double(), labels))),
        "calibration_error": figures and figures["error"],
        "calibration": figures and {"temperature": temperature, **figures},
        **({"uncalibrated": calibration(logits, labels)} if temperature != 1 else {}),
        "classes": dict(zip(classes, _of_classes(hits, true, predicted), strict=True)),
        "confusion_matrix": matrix.tolist(),
    }


def _of_classes(hits: Tensor, true: Tensor, predicted: Tensor) -> Iterator[dict[str, Any]]:
    for right, num, answers in zip(hits.tolist(), true.tolist(), predicted.tolist(), strict=True):
        recall, precision = (right / total if total else None for total in (num, answers))
        yield {"num_samples": num, "recall": recall, "precision": precision}


def _top5(logits: Tensor, labels: Tensor, known: Tensor) -> float:
    hits = (logits.topk(TOP, 1).indices == labels[:, None]).any(1) & known
    return float(hits.float().mean())
