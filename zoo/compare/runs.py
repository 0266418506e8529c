"""Runs as they are compared: read from their folders, and put together where they differ in seed or fold only."""

import csv
import statistics
from pathlib import Path

REPEATS = ("seed", "data.seed", "data.fold")  # settings in which runs of the same thing may differ
PLACES = ("name", "runs", "data_root", "resume")  # settings that change no number


def curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Give a metric of a run's metrics.csv as (epochs trained, value); of a loss while training, the epoch's mean."""
    file = folder / "metrics.csv"
    if not file.exists():
        return []
    points, since = [], []
    with open(file, newline="") as lines:
        for row in csv.DictReader(lines):
            if row.get(metric):
                since.append(float(row[metric]))
            if row.get("epoch") and since:
                points.append((int(float(row["epoch"])) + 1, statistics.fmean(since)))
                since = []
    return points
