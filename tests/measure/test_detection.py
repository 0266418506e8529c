"""Scores that tell data from other data, compared with scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score, roc_curve

from zoo.measure import detection


def drawn(seed, ties):
    draw = np.random.default_rng(seed)
    known, others = draw.normal(1, 1, 157), draw.normal(0, 2, 300)
    return (known.round(1), others.round(1)) if ties else (known, others)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_fpr95_are_scikit_learns(seed, ties):
    known, others = drawn(seed, ties)
    labels, scores = np.r_[np.ones(len(known)), np.zeros(len(others))], np.r_[known, others]
    pair = torch.tensor(known), torch.tensor(others)
    assert detection.auroc(*pair) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    false_rates, true_rates, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert detection.false_positive_rate(*pair) == pytest.approx(false_rates[true_rates >= 0.95].min(), abs=1e-12)


@pytest.mark.parametrize(
    ("known", "others", "auroc", "fpr"),
    [([1.0], [0.0], 1, 0), ([0.0], [1.0], 0, 1), ([1.0] * 3, [1.0] * 5, 0.5, 1), ([2.0] * 19 + [0.0], [1.0], 0.95, 0)],
)
def test_so_are_the_edges(known, others, auroc, fpr):
    assert detection.auroc(torch.tensor(known), torch.tensor(others)) == pytest.approx(auroc)
    assert detection.false_positive_rate(torch.tensor(known), torch.tensor(others)) == fpr


def test_scores_are_scipys():
    logits = 5 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    assert detection.energy(logits).numpy() == pytest.approx(logsumexp(logits.double().numpy(), 1))
    found = detection.confidence(logits, temperature=2.0).numpy()
    assert found == pytest.approx(softmax(logits.double().numpy() / 2, 1).max(1))
