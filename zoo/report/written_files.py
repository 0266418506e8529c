"""The files written by an evaluation and a sensitivity scan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from zoo import escape
from zoo.errors import BadInput
from zoo.files import read_file, replacing, write_json, write_text
from zoo.report.calibration_plot import draw_calibration
from zoo.report.plots import draw_confusion, draw_sensitivity
from zoo.report.scatter_plot import draw_scatter

MOST_BYTES = 1 << 28  # of an evaluation.json


def check_free(folder: Path, source: Mapping[str, Any], ending: str = "") -> None:
    """Raise BadInput if a folder has the evaluation of another checkpoint, which would be overwritten.

    `source` has the path of the checkpoint, as `checkpoint`, and its `sha256`; one of the two must match.
    """
    file = folder / f"evaluation{ending}.json"
    if not file.exists():
        return
    try:
        before = json.loads(read_file(file, MOST_BYTES))
        is_same = any(before[key] == source[key] for key in ("checkpoint", "sha256"))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise BadInput(f"{file} was not written by an evaluation; use out=ANOTHER_FOLDER") from error
    if not is_same:
        raise BadInput(f"{file} is the evaluation of another checkpoint; use out=ANOTHER_FOLDER")


def write_evaluation(folder: Path, evaluation: dict[str, Any], ending: str = "") -> None:
    """Write evaluation.json and, with one class per image, two plots, for numbers one, or for sequences, worst.tsv.

    `ending` is added to their names.
    """
    name = f"evaluation{ending}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, evaluation)
    if "wer" in evaluation:
        other = f"worst{ending}.tsv"
        lines = [(row["source"], str(row["edits"]), row["written"], *row["references"]) for row in evaluation["worst"]]
        heading = ("source", "edits", "written", "references")
        rows = ["\t".join(map(escape.cell, line)) + "\n" for line in (heading, *lines)]
        write_text(folder / other, "".join(rows))
    elif "map" in evaluation:
        other = ""
    elif "mae" in evaluation:
        other = ""
        if (figure := draw_scatter(evaluation)) is not None:
            other = f"predicted{ending}.png"
            with replacing(folder / other) as content:
                figure.savefig(content, format="png", dpi=150)
    else:
        other = f"confusion_matrix{ending}.png"
        figure = draw_confusion(evaluation["confusion_matrix"], list(evaluation["classes"]), evaluation["num_nan"])
        with replacing(folder / other) as content:
            figure.savefig(content, format="png", dpi=150)
        if found := evaluation["calibration"]:
            with replacing(folder / f"calibration{ending}.png") as content:
                draw_calibration(found, evaluation.get("uncalibrated")).savefig(content, format="png", dpi=150)
            other += f", calibration{ending}.png"
    escape.console().print(f"Written     {folder}/{name}{', ' * bool(other)}{other}", soft_wrap=True)


def write_sensitivity(folder: Path, reference: float, curves: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print, plot and save the accuracy after pruning or sharing each layer alone."""
    console = escape.console()
    for what, of_layers in curves.items():
        title = f"accuracy in % with {what} of one layer changed; {reference:.2%} without"
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 0, 0, 1))
        table.add_column("layer", overflow="fold", min_width=12)
        for level, _ in next(iter(of_layers.values())):
            table.add_column(f"{level:g}", justify="right", no_wrap=True)
        for name, curve in of_layers.items():
            table.add_row(name.removesuffix(".weight"), *(f"{100 * accuracy:.1f}" for _, accuracy in curve))
        console.print(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "sensitivity.json", {"accuracy": reference, **curves})
    with replacing(folder / "sensitivity.png") as file:
        draw_sensitivity(reference, curves).savefig(file, format="png", dpi=150)
    console.print(f"Written     {folder}/sensitivity.json and sensitivity.png", soft_wrap=True)
