"""Plots of the sizes of pictures."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_BINS = 30
COLOUR = "#0b6bcb"


def draw_sides(sides: Tensor) -> "Figure":
    """Draw heights and widths (N, 2), and the histograms of shorter sides and of aspect ratios, on logarithmic axes."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    heights, widths = sides.double().numpy().T
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    both, shorter, aspect = figure.subplots(1, 3)
    places = np.unique(np.stack([widths, heights], 1), axis=0, return_counts=True)
    both.scatter(*places[0].T, s=8 + 60 * places[1] / places[1].max(), alpha=0.5, color=COLOUR, rasterized=True)
    ends = [max(widths.min(), heights.min()), min(widths.max(), heights.max())]
    both.plot(ends, ends, color="0.6", linewidth=0.8)
    both.set(xlabel="width, px", ylabel="height, px", xscale="log", yscale="log")
    for axes, values, name in (
        (shorter, np.minimum(heights, widths), "shorter side, px"),
        (aspect, widths / heights, "width / height"),
    ):
        low, high = values.min(), values.max()
        edges = np.geomspace(low, max(high, 1.01 * low), NUM_BINS + 1)
        axes.hist(values, edges, color=COLOUR)
        axes.set(xlabel=name, ylabel="pictures", xscale="log")
    for axis in (both.xaxis, both.yaxis, shorter.xaxis, aspect.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    return figure
