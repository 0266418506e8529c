"""Validation curves over minutes of training: what is kept of a run, and their picture."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.benchmarks.run_tables import DIGITS, kept_runs
from zoo.compare.learning_curve import curve
from zoo.compare.main_metric import main_metric
from zoo.records.schema import MOST_IN_CURVE

RUNS_ON: dict[str, Callable[[dict[str, Any]], bool]] = {  # by page in docs/: the runs whose curves it shows
    "defaults": lambda result: result["data"] == DIGITS,
    "ten_minutes": lambda result: result["name"].startswith("ten_minutes_"),
}
FAMILIES = {  # by the start of a net's name: the family and its colour
    "lenet": ("LeNet", "#4a4a4a"),
    "alexnet": ("AlexNet", "#c77f12"),
    "vgg": ("VGG", "#2a9d5c"),
    "resnet": ("ResNet", "#0b6bcb"),
    "googlenet": ("Inception", "#8e5bb5"),
    "inception": ("Inception", "#8e5bb5"),
    "vit": ("ViT", "#d1495b"),
}
OTHER = ("others", "#8a8a8a")
ERRORS = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # where the axis has a tick
MINUTES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
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
    return next((family for start, family in FAMILIES.items() if net.startswith(start)), OTHER)


def draw_curves(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the validation accuracy of the best epoch so far over minutes of training, one line per result.

    Errors have a logarithmic scale, so that 98 and 99 % are as far apart as 80 and 90 %. The results have a `curve`.
    """
    from matplotlib.figure import Figure

    from zoo.compare.comparison_plots import as_svg
    from zoo.files import replacing
    from zoo.report.point_labels import label_points

    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axes = figure.subplots()
    labels = [_draw_curve(axes, result) for result in results]
    _format(axes)
    label_points({axes: labels}, TEXT_SIZE)
    with replacing(path) as file:
        file.write(as_svg(figure))


def _draw_curve(axes: Any, result: dict[str, Any]) -> Any:
    """Draw a line that ends with a point, and return the label for it."""
    from zoo import escape
    from zoo.report.point_labels import Label

    colour = family_of(result["net"])[1]
    half_an_image = 0.5 / max(1, result["num_samples"].get("val", 0))  # where no error was made
    minutes, values = zip(*result["curve"], strict=True)
    errors = [max(1 - value, half_an_image) for value in itertools.accumulate(values, max)]
    axes.plot(minutes, errors, color=colour, linewidth=1.4, alpha=0.8, solid_joinstyle="round")
    axes.plot(minutes[-1], errors[-1], color=colour, marker="o", markersize=4)
    return Label(minutes[-1], errors[-1], escape.label(result["net"]), colour)


def _format(axes: Any) -> None:
    """Set scales, ticks and names of the axes."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set(
        xscale="log", yscale="log", xlabel="minutes of training", ylabel="validation accuracy, best epoch so far, %"
    )
    axes.margins(x=0.08, y=0.08)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(FixedLocator(MINUTES))
    axes.yaxis.set_major_locator(FixedLocator(ERRORS))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_major_formatter(lambda error, _: f"{100 * (1 - error):.4g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
