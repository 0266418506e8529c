"""The metrics of a run by epoch."""

import statistics
from pathlib import Path

from zoo.paths import METRICS
from zoo.records.metrics_file import read_metrics

LARGEST = 1e30  # of a metric


def curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return a metric from metrics.csv as (epochs trained, value); for the training loss, the mean of each epoch."""
    file = folder / METRICS
    if not file.exists():
        return []
    points, since, steps, last = [], [], [], -1.0
    for row in read_metrics(file):
        if metric in row:
            since.append(min(max(row[metric], -LARGEST), LARGEST))  # no real metric is larger
            steps.append(max(1.0, row.get("step", last + 1) - last))  # that the row is a mean of
            last = row.get("step", last + 1)
        if "epoch" in row and since:
            points.append((int(row["epoch"]) + 1, statistics.fmean(since, steps)))
            since, steps = [], []
    return points
