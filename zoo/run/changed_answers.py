"""How compression changed a net's answers to the test images, from saved predictions where possible."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo import distributed
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.checkpoint.temperature import temperature_of
from zoo.data.module import ResidentData
from zoo.errors import BadInput
from zoo.measure.agreement import compare_predictions, mcnemar, most_changed, recalls
from zoo.measure.calibration import answers, calibration_error, change_interval
from zoo.measure.evaluation import predictions
from zoo.paths import PREDICTIONS, PRODUCT
from zoo.records.predictions_file import Predictions, read_predictions
from zoo.run.directory import Run
from zoo.tasks.base import Task


def changed_answers(run: Run, task: Task, data: ResidentData, accuracy: float | None) -> dict[str, Any] | None:
    """Compare the predictions of a run's test with those of the net in `init_from`, and return plain data, or None.

    `agreement` is the fraction of equal answers, and `p` that of McNemar's exact test of the accuracies. `class` has
    the most changed recall of those with a significant change, as `most_changed` defines it, and `recall` its values
    before and after; without such a class there are neither. `calibration_error` has the expected calibration errors,
    and `calibration_change` the 95 % interval of their difference. The predictions next to the file of `init_from` are
    used if they are of the same images, and not in half precision as those of earlier versions; otherwise one process
    tests that net again, on as many batches as the run was tested on. None for sequences and numbers, if the run saved
    no predictions of its product, whose `accuracy` this is, and if the net of `init_from` had other classes.
    """
    if not run.cfg.init_from or task.kind != "images" or task.num_outputs or accuracy is None:
        return None
    with contextlib.suppress(BadInput, OSError):
        after = read_predictions(run.folder / PREDICTIONS)
        if after.labels is None or abs(float(after.right.mean()) - accuracy) > 0.5 / len(after.right):
            return None
        before = _saved(Path(run.cfg.init_from), after) or _predicted(run, task, data)
        if before is not None:
            return compared(before, after, data.load().classes)
    return None


def _saved(file: Path, after: Predictions) -> Predictions | None:
    """Return the predictions next to the product of a run, if they are of the same images as `after`."""
    if file.name != PRODUCT or not (saved := file.with_name(PREDICTIONS)).is_file():
        return None
    found = read_predictions(saved)
    is_same = found.split_hash == after.split_hash and np.array_equal(found.labels, after.labels)  # type: ignore[arg-type]
    return found if is_same and found.confidence.dtype == after.confidence.dtype else None  # type: ignore[union-attr]


def _predicted(run: Run, task: Task, data: ResidentData) -> Predictions | None:
    """Test the net of `init_from` on the run's test batches; None for other classes, and in several processes."""
    product = read_product(run.cfg.init_from)
    if distributed.world_size() > 1 or product.facts["data"].get("classes") != list(data.load().classes):
        return None
    batches = data.limited_batches("test", task.device, run.cfg.trainer.limit_test_batches)
    net = load_model(product).to(task.device).eval()
    logits, labels = map(torch.cat, zip(*predictions(net, batches), strict=True))
    confidence, predicted = answers(logits / temperature_of(product.facts))
    arrays = (one.numpy() for one in (labels, predicted, confidence))
    return Predictions.of_images(product.facts["data"]["split_hash"], *arrays)


def compared(before: Predictions, after: Predictions, classes: list[str]) -> dict[str, Any] | None:
    """Return the figures of two nets' predictions on the same images, or None if the images differ."""
    if not np.array_equal(before.labels, after.labels):  # type: ignore[arg-type]
        return None
    labels = torch.as_tensor(after.labels).long()
    first, other = (torch.where(_known(one), torch.as_tensor(one.predicted).long(), -1) for one in (before, after))
    found = compare_predictions(labels, first, other)
    figures: dict[str, Any] = {"agreement": found["agreement"], "p": mcnemar(found["only_first"], found["only_other"])}
    if (most := most_changed(labels, first, other, len(classes))) is not None:
        counts = [recalls(labels, one, len(classes))[most] for one in (first, other)]
        figures |= {"class": classes[most], "recall": [hits / num for hits, num in counts]}
    old, new = _calibrated(before), _calibrated(after)
    figures["calibration_error"] = [calibration_error(*one) if len(one[0]) else 0.0 for one in (old, new)]
    if len(old[0]) == len(new[0]) > 0:
        figures["calibration_change"] = change_interval(old, new)
    return figures


def _known(found: Predictions) -> Tensor:
    return ~torch.as_tensor(found.confidence).isnan()


def _calibrated(found: Predictions) -> tuple[Tensor, Tensor]:
    """Return the confidence, and whether it is right, of the images that have a prediction, in float64."""
    known = _known(found)
    return torch.as_tensor(found.confidence)[known].double(), torch.as_tensor(found.right)[known].double()
