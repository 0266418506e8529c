"""Confusion matrices and sensitivity curves, drawn with matplotlib."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from zoo import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD_INCHES, CARD_DPI = 4.2, 160  # of a picture in a card of TensorBoard, about 360 px wide: 9 pt are 11 px there
MOST_LETTERS = 30  # of a class name in a plot
MOST_IN_CARD = 12  # classes whose matrix is legible at 300 px, the width of TensorBoard's cards
MOST_CLASSES_DRAWN = 30  # more rows do not fit on a screen


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], num_nan: int = 0) -> "Figure":
    """Draw the confusion matrix: the percentage of each true class (row) predicted as each class (column).

    `num_nan` more samples have no prediction.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = torch.tensor(matrix, dtype=torch.float64)
    share = counts / counts.sum(1, keepdim=True).clamp_min(1)
    num, is_named = len(classes), len(classes) <= MOST_CLASSES_DRAWN
    side = 3.3 if num <= MOST_IN_CARD else min(0.28 * num, 10)
    figure = Figure(figsize=(side, side + 0.2), layout="constrained", dpi=200)
    axes = figure.add_subplot()
    # Errors are a few per cent and the diagonal is near 100: a square-root scale makes both visible.
    axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set(xlabel="predicted class", ylabel="true class")
    accuracy = float(counts.diag().sum() / (counts.sum() + num_nan))
    axes.set_title(f"% of each true class; accuracy {accuracy:.2%}", fontsize=9)
    if is_named:
        names = [escape.label(escape.shortened(name, MOST_LETTERS)) for name in classes]
        is_short = max(map(len, names)) <= 2
        axes.set_xticks(range(num), names, rotation=0 if is_short else 45, ha="center" if is_short else "right")
        axes.set_yticks(range(num), names)
        axes.tick_params(labelsize=8, length=2)
        for i, j in (share >= 0.0005).nonzero().tolist():
            colour, percent = "white" if share[i, j] > 0.4 else "black", 100 * share[i, j]
            text = f"{percent:.1f}" if percent < 0.95 else f"{percent:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=7.5)
    return figure


def draw_sensitivity(reference: float, curves: dict[str, dict[str, list[tuple[float, float]]]]) -> "Figure":
    """Draw accuracy against level: one panel per method, one line per layer, from blue (input) to red (output)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (what, of_layers) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for i, (name, curve) in enumerate(of_layers.items()):
            colour = colormaps["turbo"](0.05 + 0.9 * i / max(1, len(of_layers) - 1))
            levels, accuracies = zip(*curve, strict=True)
            places = range(len(levels))  # evenly spaced, since the last levels matter most
            label = escape.label(name.removesuffix(".weight"))
            axes.plot(places, [100 * a for a in accuracies], marker="o", markersize=3, color=colour, label=label)
        axes.axhline(100 * reference, color="black", linewidth=0.8, linestyle="--")
        axes.set_xticks(places, [f"{level:g}" for level in levels])
        axes.set(xlabel=f"{what} of one layer")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy, %")
    if len(of_layers) <= MOST_CLASSES_DRAWN:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure
