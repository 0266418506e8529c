"""Plots of a comparison: accuracy against cost."""

import io
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo import escape
from zoo.compare.comparison_tables import timed_together
from zoo.compare.main_metric import ERRORS, factor_of, unit_of
from zoo.compare.runs import Comparison, Group
from zoo.report.point_labels import Label, label_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*<>"  # of formats
MOST_LETTERS = 50  # of a name in a legend
INCHES_PER_LETTER = 0.085
MOST_DRAWN = 10  # number of distinct colours
MOST_NAMED, MOST_AT_POINT = 12, 24  # groups whose names are written at their points, and letters of such a name
LABEL_SIZE = 8  # pt
MOST_NUMBERED = 20  # points in a panel; of more, only those on the front have their number
FENCE = 3  # quartile ranges around the middle half of the values
FRONT, DOMINATED = "#0b6bcb", "0.72"
Points = Sequence[tuple[float, float]]


def front(points: Points) -> list[int]:
    """Return the indices of the Pareto front of points (cost, value): lower cost and higher value are better."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, found = float("-inf"), []
    for i in order:
        if points[i][1] > best:
            best = points[i][1]
            found.append(i)
    return found


def draw_costs(comparison: Comparison) -> "Figure":
    """Draw the test metric of all groups against bytes, MACs and latency, where measured, with Pareto fronts.

    Groups that another beats in both are grey; latencies that cannot be compared have no front. Few groups with short
    names have them at their points, others ranks.
    """
    from matplotlib.figure import Figure

    groups = comparison.groups
    is_together = timed_together(comparison)
    latency = "latency, ms" if is_together else "latency, ms, measured at different times"
    known = _known_costs(groups, latency)
    sign, factor = -1 if comparison.metric in ERRORS else 1, factor_of(comparison.metric)
    ys = [factor * statistics.fmean(run.result["test"][comparison.metric] for run in group.runs) for group in groups]
    figure = Figure(figsize=(1 + 4 * len(known), 4.4), layout="constrained")
    is_named = len(groups) <= MOST_NAMED and all(len(group.label) <= MOST_AT_POINT for group in groups)
    words = [escape.label(group.label) if is_named else str(rank + 1) for rank, group in enumerate(groups)]
    labels: dict[Axes, list[Label]] = {}
    fronts: set[int] = set()
    for axes, (what, xs) in zip(figure.subplots(1, len(known), squeeze=False)[0], known.items(), strict=True):
        ranks = [rank for rank, x in enumerate(xs) if x]
        has_front = what != latency or is_together
        best = [ranks[i] for i in front([(xs[rank], sign * ys[rank]) for rank in ranks])] if has_front else []
        labels[axes] = _draw_points(axes, {rank: (xs[rank], ys[rank]) for rank in ranks}, best, near(ys), words)
        fronts |= set(best)
        _of_costs(axes, what, [xs[rank] for rank in ranks], comparison.metric_name + unit_of(comparison.metric))
    if is_named:
        label_points(labels, LABEL_SIZE)
        return figure
    for axes, of_axes in labels.items():
        for x, y, text, colour in of_axes:
            axes.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=LABEL_SIZE, color=colour)
    for rank in sorted(fronts)[:MOST_DRAWN]:
        figure.axes[0].scatter([], [], color=FRONT, label=numbered(rank, groups[rank]))
    add_legend(figure)
    return figure


def _known_costs(groups: Sequence[Group], latency: str) -> dict[str, list[Any]]:
    """Return what groups cost, by what it is, where any is known; None and 0 are not drawn."""
    costs: dict[str, list[Any]] = {
        "bytes of the product file": [group.size_bytes for group in groups],
        "multiply-accumulates": [group.mean("macs") for group in groups],
        latency: [group.mean("latency_ms") for group in groups],
    }
    costs = {what: [x and max(x, 0) for x in xs] for what, xs in costs.items()}
    known = {what: xs for what, xs in costs.items() if any(xs)}
    return known or {"parameters": [max(1, group.runs[0].result["params"]) for group in groups]}


def near(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of a plot beyond which a value would squeeze all others: three quartile ranges (Tukey, 1977).

    There are none with fewer than four values, and if half of them are equal.
    """
    first, _, third = statistics.quantiles(values, n=4, method="inclusive") if len(values) >= 4 else (0.0, 0.0, 0.0)
    reach = FENCE * (third - first) or math.inf
    return first - reach, third + reach


def _draw_points(
    axes: "Axes",
    points: Mapping[int, tuple[float, float]],
    best: Sequence[int],
    limits: tuple[float, float],
    words: Sequence[str],
) -> list[Label]:
    """Draw points by rank and the front of the best; those beyond the limits are at the edge.

    Return what to write next to them: their words, by rank, and the value of those beyond the limits.
    """
    low, high = limits
    _draw_front(axes, [(points[rank][0], min(max(points[rank][1], low), high)) for rank in best])
    labels = []
    for rank, (x, y) in points.items():
        is_best, arrow = rank in best, "↓" if y < low else "↑" if y > high else ""
        look: dict[str, Any] = {"color": FRONT, "s": 36, "zorder": 3} if is_best else {"color": DOMINATED, "s": 16}
        place = x, min(max(y, low), high)
        axes.scatter(*place, **look)
        if is_best or arrow or len(points) <= MOST_NUMBERED:
            text = f"{words[rank]} {arrow} {y:.3g}" if arrow else words[rank]
            labels.append(Label(*place, text, "black" if is_best else "0.45"))
    return labels


def _draw_front(axes: "Axes", points: Points) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axes.plot(xs, ys, color=FRONT, linewidth=2, alpha=0.6, drawstyle="steps-post", zorder=2)


def draw_exports(comparison: Comparison) -> "Figure":
    """Draw the test metric of all exported files against bytes and latencies, with Pareto fronts."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    wer = comparison.metric == "wer"
    found = [
        (rank, cell)
        for rank, group in enumerate(comparison.groups)
        for run in group.runs
        for cell in run.exports
        if not cell["reason"]
    ]
    formats = list(dict.fromkeys(cell["format"] for _, cell in found))
    of = "of a step " if wer else ""
    costs: dict[str, Callable[[dict[str, Any]], float]] = {
        "bytes": lambda cell: cell["size_bytes"],
        f"ms {of}for a batch of 1": lambda cell: cell["latency_ms"]["1"]["p50"],
        f"ms {of}for a batch of 64": lambda cell: cell["latency_ms"]["64"]["p50"],
    }
    figure = Figure(figsize=(13, 4.9), layout="constrained")
    for axes, (what, cost) in zip(figure.subplots(1, 3), costs.items(), strict=True):
        xs = [cost(cell) for _, cell in found]
        best = front([(x, cell["accuracy"]) for x, (_, cell) in zip(xs, found, strict=True)])
        ys = [100 * (1 - cell["accuracy"] if wer else cell["accuracy"]) for _, cell in found]
        _draw_front(axes, [(xs[i], ys[i]) for i in best])
        for i, (x, y, (rank, cell)) in enumerate(zip(xs, ys, found, strict=True)):
            colour, marker = (
                f"C{rank}" if rank < MOST_DRAWN else "0.8",
                MARKERS[formats.index(cell["format"]) % len(MARKERS)],
            )
            axes.scatter(x, y, color=colour, marker=marker, zorder=3, alpha=0.9 if i in best else 0.3)
        _of_costs(axes, what, xs, "R2, %" if comparison.metric == "mae" else f"{comparison.metric_name}, %")
    for rank in dict.fromkeys(rank for rank, _ in found if rank < MOST_DRAWN):
        figure.axes[0].scatter([], [], color=f"C{rank}", label=numbered(rank, comparison.groups[rank]))
    for name, marker in zip(formats, itertools.cycle(MARKERS), strict=False):
        figure.axes[0].add_line(Line2D([], [], color="0.3", marker=marker, linestyle="", label=escape.label(name)))
    add_legend(figure)
    return figure


def _of_costs(axes: "Axes", what: str, xs: Sequence[float], metric: str) -> None:
    """Format the axes of a panel of the test metric against a cost."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", xlabel=what)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(xs) < 100 * min(xs) else (1,)))
    axes.xaxis.set_major_formatter(lambda x, _: EngFormatter(sep="")(x) if x >= 1000 else f"{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())  # matplotlib's default labels would overlap
    axes.set_title(f"test {metric}", loc="left")
    axes.margins(0.12)
    tidy(axes)


def numbered(rank: int, group: Group) -> str:
    return escape.label(f"{rank + 1}  {escape.shortened_in_middle(group.label, MOST_LETTERS)}")


def tidy(axes: "Axes") -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: "Figure") -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    inches = 0.5 + INCHES_PER_LETTER * max(map(len, labels), default=1)
    ncols = max(1, min(4, len(labels), int(figure.get_figwidth() / inches)))
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)


def as_svg(figure: "Figure") -> bytes:
    """Return a figure as SVG, deterministically."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "zoo"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
