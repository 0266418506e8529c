"""Statistical significance of differences between runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.compare.runs import Finished
from zoo.errors import BadInput
from zoo.measure.agreement import mcnemar
from zoo.paths import PREDICTIONS
from zoo.records.predictions_file import read_predictions


@dataclass(frozen=True)
class Paired:
    """A run compared with the best one on the same test samples, or the reason why this is impossible."""

    run: Finished
    only_best: int = 0  # samples that only the best run classifies correctly
    only_this: int = 0
    p: float = math.nan
    p_holm: float = math.nan
    reason: str = ""


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons (Holm, 1979)."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = largest
    return adjusted


def best_of(runs: Sequence[Finished]) -> Finished:
    """Return the run with the highest test accuracy or mAP; the smallest net wins ties."""
    return max(runs, key=lambda run: (run.score, -run.result["params"]))


def against_best(runs: Sequence[Finished]) -> list[Paired]:
    """Compare every other run with the best one, in the given order."""
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
                raise ValueError("another test set")
        except ValueError as error:
            pairs.append(Paired(run, reason=str(error)))
            continue
        counts = int((right & ~also).sum()), int((also & ~right).sum())
        pairs.append(Paired(run, *counts, mcnemar(*counts)))
    adjusted = iter(holm([pair.p for pair in pairs if not pair.reason]))
    return [pair if pair.reason else replace(pair, p_holm=next(adjusted)) for pair in pairs]


def _hits(run: Finished) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Return which test samples a run has right, and an identifier of the test set; ValueError if unknown."""
    try:
        found = read_predictions(run.folder / PREDICTIONS)
    except FileNotFoundError as error:
        raise ValueError("no predictions") from error
    except BadInput as error:
        raise ValueError("damaged predictions") from error
    # Results of earlier versions have only the hash of the whole split.
    test_set = [run.result.get(key) for key in ("test_hash", "test_sample_hash", "test_content_hash")]
    return found.right, (test_set if test_set[0] else found.split_hash, len(found.right))
