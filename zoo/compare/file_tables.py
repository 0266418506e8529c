"""The tables of a comparison of files, from the figures that zoo.inference.compare_files measures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.compare.comparison_tables import Table, number
from zoo.errors import counted
from zoo.measure.agreement import by_change
from zoo.report.robustness_tables import corrupted_images

Row = Mapping[str, Any]  # the figures of one file
MOST_CLASSES = 3  # of each file, in the table of the most changed ones
PERCENT, POINTS, FACTOR = "percent", "points", "factor"
MISSING = "–"


@dataclass(frozen=True)
class Metric:
    """A figure of each file: where it is, its name, how it is written, and whether more (1) or less (-1) is better."""

    label: str
    of: Callable[[Row], float | None]
    form: Callable[[float], str]
    better: int = 0
    change: str = ""  # from the first file: in points, or as a factor

    def written(self, row: Row) -> str:
        value = self.of(row)
        return MISSING if value is None else self.form(value)

    def changed(self, row: Row, first: Row) -> tuple[str, int]:
        """Return the change from the first file in words, and 1 if it is for the better, -1 if for the worse, or 0."""
        after, before = self.of(row), self.of(first)
        if after is None or before is None or not self.change:
            return "", 0
        verdict = self.better * ((after > before) - (after < before))
        if self.change == POINTS:
            text = f"{100 * (after - before):+.2f}"
            return text, verdict if float(text) else 0
        if self.change == FACTOR:
            if not before or not after:
                return "", 0
            return (f"{before / after:.3g}× less" if after < before else f"{after / before:.3g}× more"), verdict
        return f"{after - before:+.4f}", verdict


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _within(*keys: str) -> Callable[[Row], Any]:
    """Return a function that looks up nested keys, or returns None if one is missing."""

    def find(row: Row) -> Any:
        found: Any = row
        for key in keys:
            found = (found or {}).get(key)
        return found

    return find


def worst_recall(row: Row) -> float | None:
    """Return the lowest recall of a class that has samples."""
    return min(
        (one["recall"] for one in row["evaluation"]["classes"].values() if one["recall"] is not None), default=None
    )


def deletion(which: str, row: Row) -> float | None:
    """Return the lowest mean deletion score over methods: of a file's `own` maps, of those `of_first`, or `random`."""
    scores = (row.get("explanations") or {}).get(which)
    if not scores:
        return None
    return float(scores["deletion"] if which == "random" else min(one["deletion"] for one in scores.values()))


def _digits(num: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{num}f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


ACCURACY = Metric("accuracy", _within("evaluation", "accuracy"), _percent, 1, POINTS)
WORST = Metric("worst recall", worst_recall, _percent, 1, POINTS)
CORRUPTED = Metric("corrupted", _within("corruptions", "mean_accuracy"), _percent, 1, POINTS)
AGREEMENT = Metric("agreement", _within("against_first", "agreement"), _percent)
LOST = Metric("lost", _within("against_first", "only_first"), _whole)
WON = Metric("won", _within("against_first", "only_other"), _whole)
P = Metric("p, Holm", _within("against_first", "p_holm"), lambda p: f"{p:.2g}")
ERROR = Metric("ECE", _within("evaluation", "calibration", "error"), _percent, -1, POINTS)
NLL = Metric("NLL", _within("evaluation", "calibration", "nll"), _digits(4), -1, "difference")
BRIER = Metric("Brier", _within("evaluation", "calibration", "brier"), _digits(4), -1, "difference")
COVERAGE = Metric(
    "at 1 % error", _within("evaluation", "calibration", "coverage_at_1_percent_error"), _percent, 1, POINTS
)
OWN = Metric("own maps", lambda row: deletion("own", row), _digits(3))
OF_FIRST = Metric("first's maps", lambda row: deletion("of_first", row), _digits(3))
RANDOM = Metric("random", lambda row: deletion("random", row), _digits(3))
BYTES = Metric("bytes", _within("size_bytes"), _whole, -1, FACTOR)
LATENCY = Metric("ms", _within("latency_ms"), number, -1, FACTOR)
HEADLINES = (ACCURACY, CORRUPTED, WORST, ERROR, NLL, BRIER, COVERAGE, BYTES, LATENCY)
COSTS = "Robustness, size and time"
ABOUT = {
    "Answers": "Intervals of 95 % are Wilson's. Agreement is the share of answers equal to the first file's. Lost "
    "images only the first has right, won ones only this file. p is McNemar's exact test on these, adjusted for the "
    "number of files by Holm's method; it does not include the variation between trainings.",
    "Probabilities": "ECE is the expected calibration error in bins of equal size, with its 95 % bootstrap interval. "
    "'At 1 % error' is the share of images, the most confident, that can be answered with 1 % of wrong answers.",
    COSTS: "Corrupted is the mean accuracy on {images}, over 15 corruptions at 5 severities. Worst is the lowest "
    "recall of a class. ms is the time of one image on {device} with {threads}, measured of all files in turn; int8 "
    "that torch only simulates has none.",
    "Explanations": "Deletion: the mean probability of the class while the pixels that a map calls important are "
    "removed, on {num:,} images that all files answer correctly, for the better of the methods. Lower is better, and "
    "a map that means something is below random orders of pixels. Files without gradients have no maps of their own.",
    "Most changed classes": "Recalls in % with Wilson's 95 % interval; the largest changes of each file.",
}


def _table(title: str, rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]], **facts: Any) -> Table:
    cells = [(row["name"], *(write(row) for write in columns.values())) for row in rows]
    return Table(title, ABOUT[title].format(**facts), ("file", *columns), cells, ("file", "class"))


def _interval(ends: Sequence[float] | None) -> str:
    return MISSING if ends is None else f"{100 * ends[0]:.2f}–{100 * ends[1]:.2f}"


def file_tables(figures: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a comparison, each with one row per file; the last has rows of classes."""
    rows = figures["files"]

    def written(*metrics: Metric) -> dict[str, Callable[[Row], str]]:
        return {metric.label: metric.written for metric in metrics}

    answers = {
        "accuracy": ACCURACY.written,
        "interval, %": lambda row: _interval(row["accuracy_interval"]),
        **written(AGREEMENT, LOST, WON, P),
    }
    error = _within("evaluation", "calibration", "error_interval")
    probabilities = {
        **written(ERROR),
        "interval, %": lambda row: _interval(error(row)),
        **written(NLL, BRIER, COVERAGE),
    }
    is_corrupted = all("corruptions" in row for row in rows)
    costs = written(*((CORRUPTED,) if is_corrupted else ()), WORST, BYTES, LATENCY)
    images = corrupted_images(rows[0].get("corruptions", {}))
    where = {"images": images, "device": figures["device"], "threads": counted(figures["threads"], "thread")}
    found = [
        _table("Answers", rows, answers),
        _table("Probabilities", rows, probabilities),
        _table(COSTS, rows, costs, **where),
    ]
    if all("explanations" in row for row in rows):
        num = rows[0]["explanations"]["num_images"]
        found.append(_table("Explanations", rows, written(OWN, OF_FIRST, RANDOM), num=num))
    return [*found, _changed_classes(figures)]


def changes_of(row: Row, first: Row) -> list[tuple[str, str, str, float]]:
    """Return by class its name, both recalls with intervals, and the change in points; the most changed first."""
    names = list(row["evaluation"]["classes"])
    counts = [_counts(one) for one in (first, row)]
    found = []
    for i in by_change(*counts):
        recall = [one["evaluation"]["classes"][names[i]]["recall"] for one in (first, row)]
        ends = [one["recall_intervals"][i] for one in (first, row)]
        words = (f"{100 * r:.1f} ({100 * e[0]:.1f}–{100 * e[1]:.1f})" for r, e in zip(recall, ends, strict=True))
        found.append((names[i], *words, 100 * (recall[1] - recall[0])))
    return found


def _counts(row: Row) -> list[tuple[int, int]]:
    """Return for each class the number of samples with the right answer, and of all its samples."""
    classes = row["evaluation"]["classes"].values()
    return [(round((one["recall"] or 0) * one["num_samples"]), one["num_samples"]) for one in classes]


def _changed_classes(figures: Mapping[str, Any]) -> Table:
    first, *others = figures["files"]
    cells = [
        (row["name"], name, f"{change:+.1f}", before, after)
        for row in others
        for name, before, after, change in changes_of(row, first)[:MOST_CLASSES]
    ]
    columns = ("file", "class", "change", "recall of first", "of this")
    title = "Most changed classes"
    return Table(title, ABOUT[title], columns, cells, ("file", "class"))
