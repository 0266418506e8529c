"""Calibration of a classifier: the temperature of its logits, and figures of how far its confidence can be trusted.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017; for coverage, El-Yaniv, Wiener, "On the
foundations of noise-free selective classification", 2010.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.records.metadata import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE

NUM_BINS = 15
NUM_RESAMPLES = 1000  # of the bootstrap
LEVEL = 0.95  # of its interval
MOST_RISK = 0.01  # the fraction of wrong answers up to which coverage is counted
NUM_COVERAGES = 100  # points of the curve of risk against coverage
MOST_STEPS, PRECISION = 100, 1e-12  # of Newton's method; halving the interval alone would need fewer than 60


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """Return the temperature T that minimises the negative log-likelihood of softmax(logits / T).

    Logits (N, C) are of validation data, labels (N,) int64; samples with logits that are not finite are left out. The
    loss is convex in 1 / T, so Newton's method within a shrinking interval finds its one minimum. Returns None if that
    is not between 0.05 and 20, for example if all predictions are correct, or if there are no samples.
    """
    logits, labels = _finite(logits, labels)
    low, high = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    if not len(labels) or _slope(logits, labels, low)[0] >= 0 or _slope(logits, labels, high)[0] <= 0:
        return None
    scale = 1.0
    for _ in range(MOST_STEPS):
        slope, curvature = _slope(logits, labels, scale)
        low, high = (low, scale) if slope > 0 else (scale, high)
        before, scale = scale, scale - slope / curvature if curvature > 0 else high
        if not low < scale < high:
            scale = (low + high) / 2
        if abs(scale - before) <= PRECISION * scale:
            break
    return min(max(1 / scale, LOWEST_TEMPERATURE), HIGHEST_TEMPERATURE)


def _slope(logits: Tensor, labels: Tensor, scale: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean loss of scale * logits by the scale."""
    shares = (scale * logits).softmax(1)
    expected = (shares * logits).sum(1)
    true = logits.gather(1, labels[:, None])[:, 0]
    curvature = (shares * (logits - expected[:, None]).square()).sum(1)
    return float((expected - true).mean()), float(curvature.mean())


def _finite(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    known = logits.isfinite().all(1)
    return logits[known].double(), labels[known]


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any] | None:
    """Return the figures of softmax(logits), as fractions of 1, for logits (N, C) and labels (N,).

    `error` is the expected calibration error over 15 bins with equally many samples, and `error_interval` its 95 %
    bootstrap interval; `nll` the mean negative log-likelihood; `brier` the mean over samples of the squared distance
    between probabilities and the label's one-hot vector, from 0 to 2. `coverage_at_1_percent_error` is the largest
    fraction of samples that a threshold on confidence can answer so that at most 1 % of these answers are wrong;
    `risk` has the fraction of wrong answers among the most confident 1 %, 2 %, ..., 100 %. `bins` has the mean
    confidence, the accuracy and the number of samples of each bin. Samples with logits that are not finite are left
    out; returns None if there are no others.
    """
    logits, labels = _finite(logits, labels)
    if not len(labels):
        return None
    shares, (confidence, predicted) = logits.softmax(1), answers(logits)
    right, true = (predicted == labels).double(), shares.gather(1, labels[:, None])[:, 0]
    which = equal_bins(confidence)
    bins = which.unique().tolist()
    return {
        "error": calibration_error(confidence, right),
        "error_interval": error_interval(confidence, right, which),
        "nll": float(nn.functional.cross_entropy(logits, labels)),
        "brier": float((shares.square().sum(1) - 2 * true + 1).mean()),  # of (shares - one-hot) squared
        "coverage_at_1_percent_error": coverage(confidence, right),
        "risk": risks(confidence, right),
        "bins": [
            {
                "confidence": float(confidence[which == i].mean()),
                "accuracy": float(right[which == i].mean()),
                "num_samples": int((which == i).sum()),
            }
            for i in bins
        ],
    }


def answers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence (N,) of softmax(logits), and the predicted class (N,), for logits (N, C).

    In float64, since calibration errors are as small as the steps of half precision near 1, and confidences that round
    to 1 would share a bin. Confidence is NaN if a logit is.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    return confidence, predicted


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Return the expected calibration error of samples (N,), in bins of equal size: the one in all tables and plots.

    `confidence` is that of `answers`, as predictions.safetensors has it, and `right` is 1 or 0; both in float64.
    """
    return expected_error(confidence, right, equal_bins(confidence))


def equal_bins(confidence: Tensor, num: int = NUM_BINS) -> Tensor:
    """Return the bin (N,) of each confidence (N,); between `num` quantiles, so that all bins have about equal size.

    Equal confidences share a bin, so there may be fewer bins, and the order of the samples does not matter.
    """
    edges = confidence.quantile(torch.linspace(0, 1, num + 1, dtype=confidence.dtype))
    return torch.searchsorted(edges[1:-1].contiguous(), confidence)


def expected_error(confidence: Tensor, right: Tensor, which: Tensor) -> float:
    """Return the mean over samples of the gap between confidence and accuracy in their bin."""
    return float(torch.bincount(which, confidence - right).abs().sum() / len(which))


def error_interval(confidence: Tensor, right: Tensor, which: Tensor, seed: int = 0) -> list[float]:
    """Return the 95 % percentile interval of the calibration error over resampled samples, in the same bins."""
    return _interval(_resampled_errors(confidence, right, which, seed))


def change_interval(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], seed: int = 0) -> list[float]:
    """Return the 95 % percentile interval of the change of the calibration error between two nets.

    Each has the confidence and the right answers of the same samples (N,), which are resampled together.
    """
    errors = [_resampled_errors(*one, equal_bins(one[0]), seed) for one in (before, after)]
    return _interval(errors[1] - errors[0])


def _resampled_errors(confidence: Tensor, right: Tensor, which: Tensor, seed: int) -> Tensor:
    num, gaps = len(which), confidence - right
    draw = torch.Generator().manual_seed(seed)
    errors = torch.empty(NUM_RESAMPLES, dtype=torch.float64)
    for i in range(NUM_RESAMPLES):
        chosen = torch.randint(num, (num,), generator=draw)
        errors[i] = torch.bincount(which[chosen], gaps[chosen]).abs().sum() / num
    return errors


def _interval(resampled: Tensor) -> list[float]:
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    return [float(end) for end in resampled.quantile(tails)]


def coverage(confidence: Tensor, right: Tensor, most_risk: float = MOST_RISK) -> float:
    """Return the largest fraction of samples above a threshold of confidence of which at most `most_risk` are wrong."""
    ranked, order = confidence.sort(descending=True)
    num = torch.arange(1, len(ranked) + 1)
    is_threshold = torch.cat([ranked[:-1] > ranked[1:], torch.tensor([True])])  # equal ones are answered together
    allowed = is_threshold & ((1 - right[order]).cumsum(0) <= most_risk * num)
    return int((num * allowed).max()) / len(ranked)


def risks(confidence: Tensor, right: Tensor) -> list[float]:
    """Return the fraction of wrong answers among the most confident 1 %, 2 %, ..., 100 % of samples."""
    order = confidence.argsort(descending=True, stable=True)
    wrong = (1 - right[order]).cumsum(0)
    nums = [-(-i * len(order) // NUM_COVERAGES) for i in range(1, NUM_COVERAGES + 1)]
    return [float(wrong[num - 1] / num) for num in nums]
