"""How the answers of two nets to the same samples differ, and how sure a fraction is.

Wilson, "Probable inference, the law of succession, and statistical inference", 1927; McNemar, "Note on the sampling
error of the difference between correlated proportions or percentages", 1947.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from torch import Tensor

SIGNIFICANT = 0.05  # the p below which a difference is called one
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard deviations of a 95 % interval


def wilson_interval(num_hits: int, num_samples: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction, without continuity correction; all of 0 to 1 of no samples."""
    if not num_samples:
        return 0.0, 1.0
    share, spread = num_hits / num_samples, Z * Z / num_samples
    centre = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / num_samples + (Z / (2 * num_samples)) ** 2) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def compare_predictions(labels: Tensor, first: Tensor, other: Tensor) -> dict[str, Any]:
    """Count how the answers (N,) of another net differ from those of the first; labels are (N,), no answer is -1.

    `agreement` is the fraction of samples with equal answers; `only_first` and `only_other` count the samples that one
    of the nets alone has right, and `both_wrong` those with two different wrong answers.
    """
    right, also = first == labels, other == labels
    return {
        "agreement": float((first == other).double().mean()),
        "only_first": int((right & ~also).sum()),
        "only_other": int((also & ~right).sum()),
        "both_wrong": int((~right & ~also & (first != other)).sum()),
    }


def mcnemar(only_first: int, only_other: int) -> float:
    """Return the exact two-sided p of McNemar's test, from the samples that only one of two nets has right.

    It is the probability of counts at least as unequal if each disagreement were a coin flip; 1 without disagreements.
    """
    from scipy.stats import binomtest

    num = only_first + only_other
    return float(binomtest(only_first, num).pvalue) if num else 1.0


def most_changed(labels: Tensor, first: Tensor, other: Tensor, num_classes: int) -> int | None:
    """Return the class whose recall changed most, from the answers (N,) of a net to those of another; None for noise.

    Only classes count whose change is significant: McNemar's exact p of their samples is below 0.05 divided by the
    number of classes that have samples (Bonferroni's correction), which excludes ties and changes of a few samples.
    """
    before, after = (recalls(labels, one, num_classes) for one in (first, other))
    least = SIGNIFICANT / max(1, len(labels.unique()))

    def p_of(i: int) -> float:
        found = compare_predictions(*(one[labels == i] for one in (labels, first, other)))
        return mcnemar(found["only_first"], found["only_other"])

    return next((i for i in by_change(before, after) if p_of(i) < least), None)


def recalls(labels: Tensor, answers: Tensor, num_classes: int) -> list[tuple[int, int]]:
    """Return for each class the number of samples with the right answer, and of all its samples."""
    hits = labels[answers == labels].bincount(minlength=num_classes).tolist()
    return list(zip(hits, labels.bincount(minlength=num_classes).tolist(), strict=True))


def by_change(before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]]) -> list[int]:
    """Return the classes that have samples, by the change of their recall: the largest loss or gain first.

    Of equal changes, losses come first.
    """
    changes = {i: (after[i][0] - before[i][0]) / num for i, (_, num) in enumerate(before) if num}  # of the same samples
    return sorted(changes, key=lambda i: (-abs(changes[i]), changes[i]))
