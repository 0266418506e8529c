"""Whether one run is better than another, or only luckier with these test images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo.compare.runs import Finished
from zoo.errors import BadInput
from zoo.paths import PREDICTIONS
from zoo.records.predictions_file import read_predictions


@dataclass(frozen=True)
class Paired:
    """A run held against the best one on the same test samples, or the reason why it cannot be."""

    run: Finished
    only_best: int = 0  # samples that the best run alone has right
    only_this: int = 0
    p: float = math.nan
    p_holm: float = math.nan
    reason: str = ""


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the exact two-sided p-value that two nets are equally good, which disagree on so many samples (1947).

    It is the probability of counts at least as unequal, were every disagreement a fair coin's; 1 where there is none.
    """
    from scipy.stats import binomtest

    num = only_one + only_other
    return float(binomtest(only_one, num).pvalue) if num else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are, so that all together err as seldom as one (Holm, 1979)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def best_of(runs: Sequence[Finished]) -> Finished:
    """Return the run of the highest test accuracy, of equal ones the smallest."""
    return max(runs, key=lambda run: (run.accuracy, -run.result["params"]))


def against_best(runs: Sequence[Finished]) -> list[Paired]:
    """Hold every other run against the best one, in their order."""
    best = best_of(runs)
    others = [run for run in runs if run is not best]
    try:
        right, test_set = _hits(best)
    except ValueError as error:
        return [Paired(run, reason=f"the best has {error}") for run in others]
    pairs = []
    for run in others:
        try:
            also, its_set = _hits(run)
            if its_set != test_set:
                raise ValueError("another split" if its_set[0] != test_set[0] else "another test set")
        except ValueError as error:
            pairs.append(Paired(run, reason=str(error)))
            continue
        counts = int((right & ~also).sum()), int((also & ~right).sum())
        pairs.append(Paired(run, *counts, mcnemar(*counts)))
    adjusted = iter(holm([pair.p for pair in pairs if not pair.reason]))
    return [pair if pair.reason else replace(pair, p_holm=next(adjusted)) for pair in pairs]


def _hits(run: Finished) -> tuple[np.ndarray, tuple[str | None, int]]:
    """Return which test samples a run has right, and what tells the test set; ValueError says why that is not known."""
    try:
        found = read_predictions(run.folder / PREDICTIONS)
    except FileNotFoundError as error:
        raise ValueError("no predictions") from error
    except BadInput as error:
        raise ValueError("damaged predictions") from error
    return found.right, (found.split_hash, len(found.right))
