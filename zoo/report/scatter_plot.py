"""Predicted against true numbers, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 12
MOST_LETTERS = 30  # of a name


def draw_scatter(evaluation: Mapping[str, Any]) -> "Figure | None":
    """Draw the points of an evaluation of numbers, one panel per number; None without finite ones."""
    from matplotlib.figure import Figure

    panels = {name: _finite(pairs) for name, pairs in evaluation["points"].items()}
    shown = [(name, pairs) for name, pairs in panels.items() if pairs][:MOST_PANELS]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.8 * columns, 4.6 * rows), layout="constrained")
    for axes, (name, pairs) in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
        true, predicted = zip(*pairs, strict=True)
        axes.scatter(true, predicted, s=12, alpha=0.5, color="tab:blue", linewidths=0)
        axes.axline((true[0], true[0]), slope=1, color="black", linewidth=0.8, linestyle="--")
        label = escape.label(escape.shortened(name, MOST_LETTERS))
        axes.set(xlabel=f"true {label}", ylabel=f"predicted {label}")
        found = evaluation["classes"][name]
        if all(found[key] is not None for key in ("mae", "r2")):
            axes.set_title(f"MAE {found['mae']:.4g}, R2 {found['r2']:.4f}", fontsize=10)
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(shown) :]:
        axes.axis("off")
    return figure


def _finite(pairs: Sequence[Sequence[float | None]]) -> list[tuple[float, float]]:
    return [(true, predicted) for true, predicted in pairs if true is not None and predicted is not None]
