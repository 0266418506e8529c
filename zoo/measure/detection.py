"""How well a score tells samples of the data that a net was trained on from others."""

import math

import torch
from torch import Tensor

TRUE_RATE = 0.95
ROUNDING = 1e-6  # of a number of samples, which floats may put just above a whole one


def auroc(known: Tensor, others: Tensor) -> float:
    """Return the probability that the score of a known sample is above that of another one; equal ones count half.

    Scores are (N,) and (M,). This is the area under the ROC curve (Mann, Whitney, 1947).
    """
    ranked = others.sort().values
    below, not_above = torch.searchsorted(ranked, known), torch.searchsorted(ranked, known, right=True)
    return float((below + not_above).double().mean() / (2 * len(others)))


def false_positive_rate(known: Tensor, others: Tensor, true_rate: float = TRUE_RATE) -> float:
    """Return the fraction of others whose score reaches the highest threshold that `true_rate` of the known reach."""
    num = math.ceil(true_rate * len(known) - ROUNDING)
    threshold = known.sort(descending=True).values[num - 1]
    return float((others >= threshold).double().mean())


def energy(logits: Tensor) -> Tensor:
    """Return the negative free energy (N,) of logits (N, C), which is higher for known samples (Liu et al., 2020)."""
    return logits.double().logsumexp(1)


def confidence(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the largest probability (N,) of logits (N, C) (Hendrycks, Gimpel, 2017)."""
    return (logits.double() / temperature).softmax(1).amax(1)
