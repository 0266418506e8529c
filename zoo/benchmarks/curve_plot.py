"""Validation curves over minutes of training: what is kept of a run, and their picture."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.benchmarks.run_tables import DIGITS, kept_runs
from zoo.compare.learning_curve import curve
from zoo.compare.main_metric import main_metric
from zoo.records.schema import MOST_IN_CURVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from zoo.report.point_labels import Label

RUNS_ON: dict[str, Callable[[dict[str, Any]], bool]] = {  # by page in docs/: the runs whose curves it shows
    "defaults": lambda result: result["data"] == DIGITS,
    "ten_minutes": lambda result: result["name"].startswith("ten_minutes_"),
}
FAMILIES = {  # by the start of a net's name: the family and its colour
    "lenet": ("LeNet", "#4a4a4a"),
    "alexnet": ("AlexNet", "#c77f12"),
    "vgg": ("VGG", "#2a9d5c"),
    "resnet": ("ResNet", "#0b6bcb"),
    "vit": ("ViT", "#d1495b"),
}
OTHERS = ("GoogLeNet, Inception and others", "#8e5bb5")
NUM_COLUMNS = 3
MOST_TOGETHER = 8  # curves in one panel; of more, each family has its own
MINUTES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
TEXT_SIZE = 9  # pt


def minutes_curve(folder: Path, result: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the main metric on the validation set as (minutes of training, value), one pair per validated epoch.

    Of more than 200, every second, third and so on is returned, and the last. Empty for a run without a metrics.csv.
    Minutes are those of training steps, as in the result; four digits of them are kept, and five of values.
    """
    ends = list(itertools.accumulate(result["epoch_seconds"]))
    values = dict(curve(folder, f"val/{main_metric([result['test']])}"))  # the last of each epoch
    known = [(epoch, value) for epoch, value in values.items() if epoch <= len(ends) and math.isfinite(value)]
    stride = -(-len(known) // MOST_IN_CURVE)
    kept = known[::-1][:: max(1, stride)][::-1]
    return [(float(f"{ends[epoch - 1] / 60:.4g}"), float(f"{value:.5g}")) for epoch, value in kept]


def results_on(page: str) -> list[dict[str, Any]]:
    """Return one result per run that a page shows: the first of those with a curve, if there is one."""
    runs = kept_runs(RUNS_ON[page]).values()
    return [next((result for result in results if result.get("curve")), results[0]) for results in runs]


def picture_of_curves(page: str) -> str:
    """Return the Markdown that shows the picture of a page; empty if no curve was kept of its runs."""
    results = results_on(page)
    missing = [f"`{result['net']}`" for result in results if not result.get("curve")]
    if len(missing) == len(results):
        return ""
    lacking = f" No curve was kept of {', '.join(missing)}." if missing else ""
    about = (
        "Validation accuracy of the best epoch so far; the scale of errors is logarithmic. Minutes are those of "
        f"training steps, without validation.{lacking}"
    )
    return f"![Validation accuracy over minutes of training, one line per net]({page}.svg)\n\n{about}"


def draw_page(page: str, path: Path) -> bool:
    """Draw the curves that were kept of the runs on a page; return False, and draw nothing, if there are none."""
    results = [result for result in results_on(page) if result.get("curve")]
    if results:
        draw_curves(results, path)
    return bool(results)


def family_of(net: str) -> tuple[str, str]:
    """Return the family of a net by its name, and the colour of the family."""
    return next((family for start, family in FAMILIES.items() if net.startswith(start)), OTHERS)


def draw_curves(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the validation accuracy of the best epoch so far over minutes of training, one line per result.

    Errors have a logarithmic scale, so that 98 and 99 % are as far apart as 80 and 90 %. Of many results, each family
    of nets has a panel, in which the others are pale. The results have a `curve`.
    """
    from zoo.compare.comparison_plots import as_svg
    from zoo.compare.curve_plots import as_accuracy
    from zoo.files import replacing
    from zoo.report.point_labels import label_points

    figure, panels = _panels(results)
    for axes in panels.values():
        axes.set(xscale="log", yscale="log")
    labels = {
        axes: [label for result in results if (label := _draw_curve(axes, result, family))]
        for family, axes in panels.items()
    }
    as_accuracy(next(iter(panels.values())))  # the others share its scale
    for family, axes in panels.items():
        _format(axes, family)
    figure.supxlabel("minutes of training", fontsize=10)
    figure.supylabel("validation accuracy, best epoch so far, %", fontsize=10)
    label_points(labels, TEXT_SIZE)
    with replacing(path) as file:
        file.write(as_svg(figure))


def _panels(results: Sequence[dict[str, Any]]) -> "tuple[Figure, dict[str, Axes]]":
    """Return a figure with a panel for each family of nets, by its name, or for all of them, by no name."""
    from matplotlib.figure import Figure

    if len(results) <= MOST_TOGETHER:
        figure = Figure(figsize=(7, 4.6), layout="constrained")
        return figure, {"": figure.subplots()}
    present = {family_of(result["net"]) for result in results}
    names = [family[0] for family in (*FAMILIES.values(), OTHERS) if family in present]
    rows = -(-len(names) // NUM_COLUMNS)
    figure = Figure(figsize=(9, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, NUM_COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    return figure, dict(zip(names, grid.flat, strict=False))


def _draw_curve(axes: "Axes", result: dict[str, Any], family: str) -> "Label | None":
    """Draw a line that ends with a point, and return the label for it; of other families, draw a pale line."""
    from matplotlib.collections import LineCollection

    from zoo import escape
    from zoo.compare.curve_plots import error_of
    from zoo.report.point_labels import Label

    own, colour = family_of(result["net"])
    minutes, values = zip(*result["curve"], strict=True)
    errors = [error_of(value, result) for value in itertools.accumulate(values, max)]
    if family not in ("", own):
        axes.add_collection(LineCollection([[*zip(minutes, errors, strict=True)]], colors="0.88", zorder=1))
        return None
    axes.plot(minutes, errors, color=colour, linewidth=1.4, alpha=0.8, solid_joinstyle="round")
    axes.plot(minutes[-1], errors[-1], color=colour, marker="o", markersize=4)
    return Label(minutes[-1], errors[-1], escape.label(result["net"]), colour)


def _format(axes: "Axes", title: str) -> None:
    """Set scales, ticks and title of a panel."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.margins(x=0.08, y=0.08)
    axes.xaxis.set_major_locator(FixedLocator(MINUTES[:: 2 if title else 1]))  # small panels have room for half of them
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
