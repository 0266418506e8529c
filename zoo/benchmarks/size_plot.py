"""The picture of accuracy against bytes and time, made from the results of runs and of benchmarks."""

import fnmatch
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.benchmarks.run_tables import IMAGES, compressed_runs, dense_runs, in_integers, kept_runs, packed_bytes
from zoo.paths import RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from zoo.report.point_labels import Label

TEXT_SIZE = 10  # pt
DENSE, BATCH_SIZE = "dense, 32 bits", 64
MARKERS = {  # of methods
    DENSE: "o",
    "int8": "^",
    "half of the channels pruned": "v",
    "pruned, int8": "<",
    "pruned, shared, coded": "s",
    "trained for the bytes of the file": "D",
}
METHODS = {"deep_compression": "pruned, shared, coded", "rate": "trained for the bytes of the file"}
FP32, INT8 = "fp32 compiled", "int8 compiled"
IN_PIPELINE = {  # in the benchmark of ResNet-20's pipeline
    "half of the channels pruned": f"prune_channels_resnet20/*: {FP32}",
    "pruned, int8": f"qat_int8_pruned_resnet20/*: {INT8}",
}
COLOURS = ("#0b6bcb", "#d1495b", "#2a9d5c", "#8e5bb5", "#c77f12", "#4a4a4a")


class Point(NamedTuple):
    """What a net costs after a method, and its test accuracy in per cent."""

    method: str
    bytes: float
    time: float | None  # for `BATCH_SIZE` images, relative to dense ResNet-20; None where it was not measured
    accuracy: float  # the mean of seeds
    spread: float  # their standard deviation


def points_of_nets() -> dict[str, list[Point]]:
    """Return the points of each net that has been compressed; images only."""
    nets: dict[str, list[Point]] = defaultdict(list)
    figures = {name: _figures(name) for name in ("forms", "pipeline")}

    def add(results: list[dict[str, Any]], method: str, size: float) -> None:
        accuracies = [100 * result["test"]["accuracy"] for result in results]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        net = results[0]["net"]
        nets[net].append(Point(method, size, _time(figures, net, method), statistics.mean(accuracies), spread))

    for results in compressed_runs(IMAGES).values():
        if method := METHODS.get(str(results[0]["settings"].get("compress"))):
            add(results, method, packed_bytes(results))
    for results in kept_runs(lambda result: result["net"] in nets and result["data"] == IMAGES).values():
        first = results[0]
        pruned = first["name"].startswith("prune_channels") or "pruned" in first["name"]
        if in_integers(first) is None and not pruned:
            continue
        method = "half of the channels pruned" if in_integers(first) is None else "pruned, int8" if pruned else "int8"
        add(results, method, statistics.mean(result["product_bytes"] for result in results))
    for net in list(nets):
        dense = dense_runs(net, IMAGES)
        add(dense, DENSE, 4 * dense[0]["params"])
    return nets


def _figures(name: str) -> dict[str, Any]:
    file = RESULTS / f"benchmark_{name}_{BATCH_SIZE}.json"
    return dict(json.loads(file.read_text())["figures"]) if file.exists() else {}


def _time(figures: Mapping[str, Mapping[str, Any]], net: str, method: str) -> float | None:
    """Return a ratio of times in one benchmark; files of methods that are not named here decode to the dense net."""
    known = figures["pipeline" if method in IN_PIPELINE else "forms"]
    pattern = IN_PIPELINE.get(method, f"*{net}_*: {INT8 if method == 'int8' else FP32}")
    found = fnmatch.filter(known, pattern)
    return float(known[found[0]]["ratio"]) if found else None


def draw_sizes(path: Path) -> None:
    """Draw test accuracy against bytes and time: a colour per net, a marker per method."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from zoo.compare.comparison_plots import as_svg
    from zoo.files import replacing
    from zoo.report.point_labels import label_points

    nets = points_of_nets()
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    sizes, times = figure.subplots(1, 2, sharey=True)
    labels: dict[Axes, list[Label]] = {sizes: [], times: []}
    for colour, (net, points) in zip(COLOURS, sorted(nets.items()), strict=False):
        timed = sorted((point.time, point) for point in points if point.time is not None)
        labels[sizes] += _draw_net(sizes, net, sorted((point.bytes, point) for point in points), colour)
        labels[times] += _draw_net(times, net, timed, colour)
    sizes.set(xlabel="bytes of the weights, or of the file", ylabel="test accuracy on Fashion-MNIST, %")
    times.set_xlabel(f"time for {BATCH_SIZE} images on a CPU, ResNet-20 = 1")
    sizes.xaxis.set_major_formatter(lambda size, _: f"{size / 1e6:g} MB" if size >= 1e6 else f"{size / 1e3:g} kB")
    times.xaxis.set_major_formatter(lambda time, _: f"{time:g}")
    used = [method for method in MARKERS if any(method == point.method for of in nets.values() for point in of)]
    keys = [Line2D([], [], color="0.35", marker=MARKERS[method], linestyle="", label=method) for method in used]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    label_points(labels, TEXT_SIZE)
    with replacing(path) as file:
        file.write(as_svg(figure))


def _draw_net(axes: "Axes", net: str, points: Sequence[tuple[float, Point]], colour: str) -> "list[Label]":
    """Draw points by their costs on a line, and return the labels for the dense ones."""
    from zoo import escape
    from zoo.report.point_labels import Label

    axes.set_xscale("log")
    axes.grid(alpha=0.25)
    axes.margins(x=0.12, y=0.08)
    axes.plot([cost for cost, _ in points], [of.accuracy for _, of in points], color=colour, linewidth=0.8, alpha=0.4)
    for cost, point in points:
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[point.method], "markersize": 5.5, "capsize": 3}
        axes.errorbar(cost, point.accuracy, point.spread or None, **style)
    return [Label(cost, of.accuracy, escape.label(net), colour) for cost, of in points if of.method == DENSE]
