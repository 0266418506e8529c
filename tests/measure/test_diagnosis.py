"""What the figures of a run are read as: the cause that is known decides what to try."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from zoo.measure.accuracy import one_answer
from zoo.measure.diagnosis import Course, called_one_class, read_run
from zoo.tasks.metrics import ClassificationMeter

GUESSING = Course(327, 0.003, [2.3, 2.3], train_accuracy=0.1, val_accuracy=0.1, chance=0.1, num_validation=500)
DEAD = {"dead_units": {"features.16": 0.98, "features.18": 0.5, "features.0": 0.1}}
STUCK = {"update_ratio": {"features.0": 1e-9}}


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ([DEAD], "optim.lr=0.0003"),
        ([STUCK], "optim.lr=0.03"),
        ([STUCK | DEAD], "optim.lr=0.03"),
        ([], "optim.lr=0.0003"),
    ],
)
def test_the_first_known_cause_decides_what_to_try_and_that_is_said_once(rows, first):
    found = read_run(rows, GUESSING)
    assert "Nothing was learnt in 327 steps" in found.problems[0]
    assert found.remedies[0] == first
    assert len(found.remedies) <= 2
    assert not any("Try" in one or "optim.lr" in one for one in found.problems)
    assert sum("optim.lr" in one for one in found.sentences) == 1


def test_without_a_problem_there_is_nothing_to_try():
    assert read_run([], Course(327, 0.003, [2.3, 0.1])).sentences == ["Nothing stands out."]


def test_a_class_that_nearly_all_images_are_given_is_told():
    found = read_run([DEAD], Course(9, 0.003, [2.3], one_answer=("seven", 495, 500)))
    assert found.problems[0] == "99.0% of the 500 validation images are called seven."
    assert called_one_class("7", 1000, 1000, "test") == "All 1,000 test images are called 7."


@pytest.mark.parametrize(
    ("labels", "answers", "expected"),
    [
        (np.arange(1000) % 10, np.full(1000, 7), (7, 1000)),
        (np.arange(1000) % 10, np.where(np.arange(1000) < 40, 3, 7), (7, 960)),
        (np.arange(1000) % 10, np.where(np.arange(1000) < 60, 3, 7), None),
        (np.arange(1000) < 10, np.zeros(1000), (0, 1000)),  # 99 % are of the class that all are called
        (np.arange(1000) < 10, np.arange(1000) < 5, None),  # as many, but it tells half of the others
        (np.zeros(1000), np.zeros(1000), None),  # there is no other class
    ],
)
def test_one_answer_is_that_to_nearly_all_images_of_other_classes_too(labels, answers, expected):
    matrix = torch.from_numpy(confusion_matrix(labels, answers, labels=range(10)))
    assert one_answer(matrix.diag(), matrix.sum(1), matrix.sum(0)) == expected


def test_the_meter_knows_the_one_answer_of_its_last_images_only():
    meter, labels = ClassificationMeter(), torch.arange(100) % 10
    for answers, expected in ((torch.full((100,), 4), (4, 100)), (labels, None)):
        meter.update(torch.nn.functional.one_hot(answers, 10).float(), labels, torch.zeros(100))
        meter.compute()
        assert meter.one_answer == expected
