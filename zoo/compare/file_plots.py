"""Plots of a comparison of files: reliability, risk against coverage, and accuracy under corruption."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LETTERS = 40  # of a file's name


def draw_reliability(figures: Mapping[str, Any]) -> "Figure | None":
    """Draw accuracy minus confidence, and risk against coverage, of all files; None if none has finite logits."""
    from matplotlib.figure import Figure

    found = [(row["name"], row["evaluation"]["calibration"]) for row in figures["files"]]
    if not any(of_file for _, of_file in found):
        return None
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (name, of_file) in enumerate(found):
        if of_file is None:
            continue
        confidence = [100 * one["confidence"] for one in of_file["bins"]]
        gap = [100 * (one["accuracy"] - one["confidence"]) for one in of_file["bins"]]
        left.plot(confidence, gap, marker="o", markersize=4, color=f"C{i}", label=_label(name))
        risk = of_file["risk"]
        share = [100 * (j + 1) / len(risk) for j in range(len(risk))]
        right.plot(share, [100 * one for one in risk], color=f"C{i}")
    left.axhline(0, color="black", linewidth=0.8, linestyle="--")
    left.set(xlabel="confidence, %")
    left.set_title("accuracy minus confidence, points (below 0: too sure)", loc="left", fontsize=10)
    right.set(xlabel="images answered, the most confident first, %", ylim=(0, None))
    right.set_title("wrong answers among them, %", loc="left", fontsize=10)
    _finish(figure, left, right)
    return figure


def draw_corruptions(figures: Mapping[str, Any]) -> "Figure | None":
    """Draw accuracy by severity and by kind of corruption, of all files; None if it was not measured."""
    from matplotlib.figure import Figure

    found = [(row["name"], row["corruptions"]["kinds"]) for row in figures["files"] if "corruptions" in row]
    if not found:
        return None
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.2))
    for i, (name, kinds) in enumerate(found):
        severities = [100 * sum(column) / len(column) for column in zip(*kinds.values(), strict=True)]
        left.plot(range(1, len(severities) + 1), severities, marker="o", color=f"C{i}", label=_label(name))
        means = [100 * sum(row) / len(row) for row in kinds.values()]
        right.plot(range(len(kinds)), means, marker="o", linestyle="", color=f"C{i}")
    left.set(xlabel="severity", xticks=range(1, len(severities) + 1))
    left.set_title("accuracy by severity, %", loc="left", fontsize=10)
    names = [kind.replace("_", " ") for kind in found[0][1]]
    right.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    right.set_title("accuracy by corruption, %", loc="left", fontsize=10)
    _finish(figure, left, right)
    return figure


def _label(name: str) -> str:
    return escape.label(escape.shortened_in_middle(name, MOST_LETTERS))


def _finish(figure: "Figure", *several: "Axes") -> None:
    for axes in several:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = several[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False)
