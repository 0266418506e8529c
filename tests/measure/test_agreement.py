"""Agreement and changed recalls as scikit-learn counts them, and Wilson's interval as SciPy computes it."""

import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, recall_score

from zoo.measure.agreement import by_change, compare_predictions, recalls, wilson_interval

DRAW = torch.Generator().manual_seed(0)
LABELS, FIRST, OTHER = torch.randint(4, (3, 500), generator=DRAW)


@pytest.mark.parametrize(("hits", "num"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 50), (985, 1000), (9239, 10000)])
def test_the_interval_is_scipys(hits, num):
    expected = binomtest(hits, num).proportion_ci(method="wilson")
    assert wilson_interval(hits, num) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_no_samples_nothing_is_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_answers_are_compared_as_scikit_learn_counts():
    found = compare_predictions(LABELS, FIRST, OTHER)
    assert found["agreement"] == pytest.approx(accuracy_score(FIRST, OTHER))
    points = accuracy_score(LABELS, OTHER, normalize=False) - accuracy_score(LABELS, FIRST, normalize=False)
    assert found["only_other"] - found["only_first"] == points
    differ = sum(found[key] for key in ("only_first", "only_other", "both_wrong"))
    assert differ == round(len(LABELS) * (1 - found["agreement"]))


def test_a_missing_answer_is_wrong_and_agrees_with_another_missing_one():
    labels = torch.tensor([0, 1, 2, 0])
    found = compare_predictions(labels, torch.tensor([0, 1, -1, -1]), torch.tensor([-1, 1, -1, 0]))
    assert found == {"agreement": 0.5, "only_first": 1, "only_other": 1, "both_wrong": 0}
    assert recalls(labels, torch.tensor([0, 1, -1, -1]), 3) == [(1, 2), (1, 1), (0, 1)]


def test_recalls_are_scikit_learns_and_are_ordered_by_their_change():
    pairs = [recalls(LABELS, answers, 5) for answers in (FIRST, OTHER)]
    shares = [recall_score(LABELS, answers, labels=range(4), average=None) for answers in (FIRST, OTHER)]
    for of_answers, expected in zip(pairs, shares, strict=True):
        assert [hits / num for hits, num in of_answers[:4]] == pytest.approx(list(expected))
    order = by_change(*pairs)
    assert sorted(order) == [0, 1, 2, 3]  # the fifth class has no samples
    changes = [abs(shares[1][i] - shares[0][i]) for i in order]
    assert changes == sorted(changes, reverse=True)
    assert by_change([(5, 10), (5, 10)], [(6, 10), (4, 10)]) == [1, 0]  # a loss before an equal gain
