"""The metric that runs are ranked by and shown with: accuracy, or that of their task."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.measure.accuracy import accuracy_in

NAMES = {"wer": "WER", "map": "mAP", "mae": "MAE"}
ERRORS = ("wer", "mae")  # of which less is better
IN_UNITS = ("mae",)  # no shares, to be shown in per cent
Test = Mapping[str, Any]  # metrics by name, None for NaN


def main_metric(tests: Sequence[Test]) -> str:
    """Return the metric to show of runs: WER, mAP or MAE if all of them have it, otherwise accuracy."""
    return next((name for name in NAMES if all(test.get(name) is not None for test in tests)), "accuracy")


def score_of(test: Test) -> float:
    """Return the number by which a run is ranked, of which more is better: mAP, less error or accuracy."""
    if test.get("map") is not None:
        return float(test["map"])
    if "mae" in test:
        return -math.inf if test["mae"] is None else -float(test["mae"])
    return accuracy_in(test)


def factor_of(metric: str) -> int:
    """Return by what a metric is multiplied to be shown: per cent of shares."""
    return 1 if metric.endswith("loss") or metric in IN_UNITS else 100


def unit_of(metric: str) -> str:
    """Return what follows the name of a metric on an axis."""
    return "" if factor_of(metric) == 1 else ", %"


def mean_and_spread(results: Sequence[dict[str, Any]], split: str, metric: str = "accuracy") -> str:
    """Format the mean of a metric, in per cent if it is a share, with the sample standard deviation of several runs."""
    found = [result[split][metric] for result in results if metric in result[split]]
    if not found or None in found:
        return "–"
    values = [factor_of(metric) * value for value in found]
    form = ".4g" if metric in IN_UNITS else ".2f"
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{'' if metric in IN_UNITS else ' %'}{spread}"
