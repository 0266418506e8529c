"""The picture of accuracy against bytes, made from the results of runs."""

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from zoo.benchmarks.run_tables import IMAGES, compressed_runs, dense_runs, in_integers, kept_runs, packed_bytes

MARKERS = {  # of methods
    "dense, 32 bits": "o",
    "int8": "^",
    "half of the channels pruned": "v",
    "pruned, int8": "<",
    "pruned, shared, coded": "s",
    "trained for the bytes of the file": "D",
}
METHODS = {"deep_compression": "pruned, shared, coded", "rate": "trained for the bytes of the file"}
COLOURS = ("#0b6bcb", "#d1495b", "#2a9d5c", "#8e5bb5", "#c77f12", "#4a4a4a")
Point = tuple[float, float, float]  # bytes, mean accuracy in per cent and its standard deviation


def points_of_nets() -> dict[str, dict[str, list[Point]]]:
    """Return the points of each net that has been compressed, by method; images only."""
    nets: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for results in compressed_runs(IMAGES).values():
        method = METHODS.get(str(results[0]["settings"].get("compress")))
        if method:
            nets[results[0]["net"]][method].append(_point(results, packed_bytes(results)))
    for results in kept_runs(lambda result: result["net"] in nets and result["data"] == IMAGES).values():
        first = results[0]
        pruned = first["name"].startswith("prune_channels") or "pruned" in first["name"]
        if in_integers(first) is None and not pruned:
            continue
        method = "half of the channels pruned" if in_integers(first) is None else "pruned, int8" if pruned else "int8"
        nets[first["net"]][method].append(_point(results, statistics.mean(r["product_bytes"] for r in results)))
    for net, methods in nets.items():
        dense = dense_runs(net, IMAGES)
        methods["dense, 32 bits"].append(_point(dense, 4 * dense[0]["params"]))
    return nets


def _point(results: list[dict[str, Any]], size: float) -> Point:
    accuracies = [100 * result["test"]["accuracy"] for result in results]
    return size, statistics.mean(accuracies), statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0


def draw_sizes(path: Path) -> None:
    """Draw test accuracy against bytes: a colour per net, a marker per method; each net's points are on a line."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    from zoo.compare.comparison_plots import as_svg
    from zoo.files import replacing

    nets = points_of_nets()
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for colour, (net, methods) in zip(COLOURS, sorted(nets.items()), strict=False):
        _draw_net(axes, net, methods, colour)
    axes.set_xscale("log")
    axes.margins(x=0.18)  # for the names of nets
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda size, _: f"{size / 1e6:g} MB" if size >= 1e6 else f"{size / 1e3:g} kB")
    )
    axes.set_xlabel("bytes of the weights, or of the file")
    axes.set_ylabel("test accuracy on Fashion-MNIST, %")
    axes.grid(alpha=0.25)
    used = [method for method in MARKERS if any(method in methods for methods in nets.values())]
    keys = [Line2D([], [], color="0.35", marker=MARKERS[method], linestyle="", label=method) for method in used]
    axes.legend(handles=keys, fontsize="small", loc="lower right")
    with replacing(path) as file:
        file.write(as_svg(figure))


def _draw_net(axes: Any, net: str, methods: dict[str, list[Point]], colour: str) -> None:
    from zoo import escape

    points = sorted(point for several in methods.values() for point in several)
    axes.plot([point[0] for point in points], [point[1] for point in points], color=colour, linewidth=0.8, alpha=0.4)
    for method, several in methods.items():
        for size, mean, spread in several:
            style = {"color": colour, "marker": MARKERS[method], "markersize": 7, "capsize": 3, "linewidth": 1}
            axes.errorbar(size, mean, spread or None, **style)
    ((size, mean, _),) = methods["dense, 32 bits"]
    axes.annotate(escape.label(net), (size, mean), (8, 0), textcoords="offset points", color=colour, va="center")
