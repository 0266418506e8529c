"""NaN logits never count as correct, wherever accuracy is computed, and are counted."""

import functools
import logging

import pytest
import sklearn.metrics
import torch
from torch import nn

from zoo import files
from zoo.measure import evaluation
from zoo.measure.accuracy import is_right
from zoo.models.decoding import beam_search, greedy
from zoo.optim.schedules import constant
from zoo.report import plots, tables
from zoo.tasks.classification import ImageClassification
from zoo.tasks.metrics import ClassificationMeter
from zoo.tasks.transduction import TransductionMeter

NAN = float("nan")
# The labels are the class that torch's argmax returns for NaN, so each of the four would count as correct.
LOGITS = torch.tensor([[NAN, NAN, NAN], [9.0, NAN, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 7.0]])
LABELS = torch.tensor([0, 1, 0, 2])
SIX = torch.cat([LOGITS, torch.full((4, 3), -9.0)], 1)  # classes; with five or fewer there is no top-5 accuracy


def test_nan_is_what_torch_takes_for_the_largest():
    assert LOGITS.argmax(1).tolist() == LABELS.tolist()
    assert is_right(LOGITS, LABELS).tolist() == [False, False, True, True]


def test_the_meter_counts_them_as_wrong_and_how_many_there_are():
    meter = ClassificationMeter()
    meter.update(SIX, LABELS, nn.functional.cross_entropy(LOGITS, LABELS, reduction="none"))
    found = meter.compute()
    assert (float(found["accuracy"]), float(found["top5"])) == (0.5, 0.5)
    assert (meter.num_samples, meter.num_nan) == (4, 2)


def test_train_accuracy_and_the_log_tell_of_them(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("zoo"), "propagate", True)
    net = nn.Identity()
    task = ImageClassification(net, functools.partial(torch.optim.SGD, lr=0.1), constant)
    task.training_step((LOGITS, LABELS), 0)
    assert (int(task.train_hits), int(task.train_total)) == (2, 4)
    task.measure((LOGITS, LABELS))
    assert float(task.measured("test")["num_samples"]) == 4
    assert "2 of 4 test samples" in caplog.text


def test_an_evaluation_is_that_of_the_others_with_these_as_mistakes():
    assert evaluation.evaluate(SIX, LABELS, list("abcdef"))["top5"] == 0.5
    found = evaluation.evaluate(LOGITS, LABELS, ["a", "b", "c"])
    assert (found["accuracy"], found["num_samples"], found["num_nan"]) == (0.5, 4, 2)
    assert found["confusion_matrix"] == sklearn.metrics.confusion_matrix([0, 2], [0, 2], labels=range(3)).tolist()
    assert [row["recall"] for row in found["classes"].values()] == [0.5, 0.0, 1.0]
    assert found["loss"] is None  # JSON has no NaN
    title = plots.draw_confusion(found["confusion_matrix"], ["a", "b", "c"], 2).axes[0].get_title()
    assert "50.00%" in title
    tables.show_evaluation(found)


class Writer(nn.Module):
    """Generate 3, 4 and the end, but NaN instead of the end for the second of two sources."""

    def begin(self, source):
        return (torch.arange(len(source)), torch.zeros(len(source)))

    def step(self, tokens, state):
        row, place = state
        logits = torch.zeros(len(tokens), 6)
        logits[torch.arange(len(tokens)), torch.tensor([3, 4, 2, 2])[place.long().clamp_max(3)]] = 9.0
        logits[(row == 1) & (place == 2)] = NAN
        return logits, (row, place + 1)


def test_what_is_written_with_nan_is_never_right():
    """torch treats NaN as the largest, so the second source's word would end at the right place by luck."""
    source, references = torch.ones(2, 3, dtype=torch.long), torch.tensor([[[3, 4]], [[3, 4]]])
    beams = beam_search(Writer(), source, 2, 4)[0][:, 0]
    for written in (greedy(Writer(), source, 4), beams):
        meter = TransductionMeter()
        meter.update(torch.tensor(1.0), torch.tensor(1), torch.tensor(1), written, references)
        assert float(meter.compute()["wer"]) == 0.5
        assert (meter.num_samples, meter.num_nan) == (2, 1)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_results_hold_nothing_that_json_has_not(value):
    found = files.without_nan({"test": {"loss": value, "accuracy": 0.5}, "epoch_seconds": [value, 1.0], "name": "x"})
    assert found == {"test": {"loss": None, "accuracy": 0.5}, "epoch_seconds": [None, 1.0], "name": "x"}
