"""The reliability diagram, and risk against coverage, drawn with matplotlib."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RISK = 0.01  # the error that is marked in the curve of risk


def draw_calibration(found: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> "Figure":
    """Draw figures of `zoo.measure.calibration.calibration`; `before` has those without the temperature, if any.

    Left: accuracy against confidence, one point per bin with equally many samples. Right: the fraction of wrong answers
    against the fraction of samples answered, the most confident first.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    if before is not None:
        _draw_bins(left, before, "tab:gray", "without temperature")
    _draw_bins(left, found, "tab:blue", "with temperature" if before is not None else "this net")
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    left.set(xlabel="confidence", ylabel="accuracy", aspect="equal")
    low, high = (f"{100 * end:.2f}" for end in found["error_interval"])
    left.set_title(f"Calibration error {100 * found['error']:.2f} % (95 % interval {low} to {high})", loc="left")
    share = [(i + 1) / len(found["risk"]) for i in range(len(found["risk"]))]
    right.plot([100 * one for one in share], [100 * one for one in found["risk"]], color="tab:blue")
    right.axhline(100 * MOST_RISK, color="black", linewidth=0.8, linestyle="--")
    right.set(xlabel="images answered, the most confident first, %", ylabel="wrong answers among them, %")
    covered = found["coverage_at_1_percent_error"]
    right.set_title(f"{covered:.1%} of the images can be answered at 1 % error", loc="left")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(loc="upper left")
    return figure


def _draw_bins(axes: "Axes", found: Mapping[str, Any], colour: str, label: str) -> None:
    confidence, accuracy = ([one[key] for one in found["bins"]] for key in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, marker="o", markersize=5, color=colour, label=label)
