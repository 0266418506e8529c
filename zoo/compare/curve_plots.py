"""The learning curves of a comparison, with bands over seeds, on logarithmic scales."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.compare.comparison_plots import MOST_DRAWN, Points, add_legend, near, numbered, tidy
from zoo.compare.learning_curve import curve
from zoo.compare.main_metric import ERRORS, factor_of, unit_of
from zoo.compare.runs import Comparison, Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS = (90, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # errors in per cent
Band = list[tuple[float, float, float]]


def band(curves: Sequence[Points]) -> Band:
    """Return (epoch, mean, spread) at the epochs that all curves have; the spread of a single curve is 0."""
    at: dict[float, list[float]] = defaultdict(list)
    for points in curves:
        for epoch, value in points:
            if math.isfinite(value):
                at[epoch].append(value)
    whole = sorted((epoch, values) for epoch, values in at.items() if len(values) == len(curves))
    return [(e, statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for e, v in whole]


def draw_curves(comparison: Comparison) -> "Figure":
    """Draw losses and the validation metric of the best groups by epoch, with a band of one standard deviation.

    Scales are logarithmic, of errors where the metric is an accuracy, and linear where a value is not positive. A dot
    is at the epoch whose weights were kept, and an arrow marks a curve that ends far from the others.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    groups = comparison.groups[:MOST_DRAWN]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    titles = {"train/loss": "training loss", "val/loss": "validation loss"}
    titles[f"val/{comparison.metric}"] = f"validation {comparison.metric_name}{unit_of(comparison.metric)}"
    for axes, (metric, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        is_accuracy = not metric.endswith("loss") and comparison.metric not in ERRORS
        bands = [_band_of(group, metric, is_accuracy) for group in groups]
        _scale(axes, bands, is_accuracy)
        for rank, (group, points) in enumerate(zip(groups, bands, strict=True)):
            _draw_band(axes, points, f"C{rank}", numbered(rank, group))
            kept = [group.runs[0].result["best_epoch"]] if len(group.runs) == 1 and metric.startswith("val/") else []
            dots = [(epoch, mean) for epoch, mean, _ in points if epoch in kept or len(points) == 1]
            axes.scatter([epoch for epoch, _ in dots], [mean for _, mean in dots], s=24, color=f"C{rank}", zorder=3)
        axes.set_title(title, loc="left")
        axes.set_xlabel("epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    add_legend(figure)
    return figure


def _band_of(group: Group, metric: str, is_accuracy: bool) -> Band:
    """Return the band of a group, in per cent of shares; of an accuracy, that of its error, at least half a sample."""
    scale, result = factor_of(metric.rpartition("/")[2]), group.runs[0].result

    def shown(value: float) -> float:
        return error_of(value, result) if is_accuracy else scale * value

    runs = [curve(run.folder, metric) for run in group.runs if run.result["epochs"]]
    return band([[(epoch, shown(value)) for epoch, value in points] for points in runs])


def error_of(accuracy: float, result: Mapping[str, Any]) -> float:
    """Return the error in per cent, for a logarithmic scale: at least that of half a validation sample."""
    return 100 * max(1 - accuracy, 0.5 / max(1, result["num_samples"].get("val", 0)))


def _scale(axes: "Axes", bands: Sequence[Band], is_accuracy: bool) -> None:
    """Set the scale and, of losses, limits that curves leave which end far from the others; these have an arrow."""
    drawn = {rank: points for rank, points in enumerate(bands) if points}
    is_log = all(mean > 0 for points in drawn.values() for _, mean, _ in points)
    axes.set_yscale("log" if is_log else "linear")
    if is_accuracy:
        as_accuracy(axes)
        return
    ends = {rank: math.log(points[-1][1]) if is_log else points[-1][1] for rank, points in drawn.items()}
    low, high = near(list(ends.values()))
    usual = [mean for rank, points in drawn.items() if low <= ends[rank] <= high for _, mean, _ in points]
    if not usual:
        return
    pad = 0.05 * (max(usual) - min(usual)) or 0.05
    bottom, top = (min(usual) / 1.1, max(usual) * 1.1) if is_log else (min(usual) - pad, max(usual) + pad)
    axes.set_ylim(bottom, top)
    for rank, end in ends.items():
        if not low <= end <= high:
            epoch, mean, _ = drawn[rank][-1]
            text, edge = f"{rank + 1} {'↓' if end < low else '↑'} {mean:.3g}", bottom if end < low else top
            axes.annotate(text, (epoch, edge), color=f"C{rank}", ha="right", va="bottom" if end < low else "top")
    if is_log:
        _write_out_ticks(axes)


def _draw_band(axes: "Axes", points: Band, colour: str, name: str) -> None:
    epochs, means, spreads = ([point[i] for point in points] for i in range(3))
    axes.plot(epochs, means, color=colour, label=name)
    if any(spreads):
        lower = [max(m - s, 0.1 * m) if m > 0 else m - s for m, s in zip(means, spreads, strict=True)]
        upper = [m + s for m, s in zip(means, spreads, strict=True)]
        axes.fill_between(epochs, lower, upper, color=colour, alpha=0.2, linewidth=0)


def as_accuracy(axes: "Axes") -> None:
    """Let the y axis, of errors in per cent on a logarithmic scale, show accuracies, the best on top."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.invert_yaxis()
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda error, _: f"{100 - error:.6g}")


def _write_out_ticks(axes: "Axes") -> None:
    """Write out the ticks of a logarithmic axis: 0.2, not 2e-1."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
