"""The reliability diagram, and risk against coverage, drawn with matplotlib."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.report.plots import CARD_DPI, CARD_INCHES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RISK = 0.01  # the error that is marked in the curve of risk


def draw_calibration(found: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> "Figure":
    """Draw figures of `zoo.measure.calibration.calibration`; `before` has those without the temperature, if any.

    Above: accuracy against confidence, one point per bin with equally many samples. Below: the fraction of wrong
    answers against the fraction of samples answered, the most confident first. Legible in a card of TensorBoard.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(CARD_INCHES, 1.5 * CARD_INCHES), layout="constrained", dpi=CARD_DPI)
    above, below = figure.subplots(2, 1)
    if before is not None:
        _draw_bins(above, before, "tab:gray", "without temperature")
    _draw_bins(above, found, "tab:blue", "with temperature" if before is not None else "this net")
    above.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    low = _lowest(found, *([before] if before is not None else []))
    above.set(xlabel="confidence", ylabel="accuracy", xlim=(low, 1.02 - 0.02 * low), ylim=(low, 1.02 - 0.02 * low))
    ends = " to ".join(f"{100 * end:.2f}" for end in found["error_interval"])
    above.set_title(f"Calibration error {100 * found['error']:.2f} % (95 % interval: {ends})", loc="left", fontsize=9)
    share = [(i + 1) / len(found["risk"]) for i in range(len(found["risk"]))]
    below.plot([100 * one for one in share], [100 * one for one in found["risk"]], color="tab:blue")
    below.axhline(100 * MOST_RISK, color="black", linewidth=0.8, linestyle="--")
    below.set(xlabel="images answered, the most confident first, %", ylabel="wrong answers among them, %")
    covered = found["coverage_at_1_percent_error"]
    below.set_title(f"{covered:.1%} of the images can be answered at 1 % error", loc="left", fontsize=9)
    below.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    above.legend(loc="best", fontsize=9, framealpha=0.7)
    return figure


def _lowest(*nets: Mapping[str, Any]) -> float:
    """Return where both axes start: below all points, in steps of 0.05, since those of good nets are all near 1."""
    least = min(one[key] for found in nets for one in found["bins"] for key in ("confidence", "accuracy"))
    return max(0.0, math.floor(20 * least - 0.5) / 20)


def _draw_bins(axes: "Axes", found: Mapping[str, Any], colour: str, label: str) -> None:
    confidence, accuracy = ([one[key] for one in found["bins"]] for key in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, marker="o", markersize=5, color=colour, label=label)
