"""The terminal output of accuracies on corrupted and shifted images, and of other data."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from zoo import escape


def show(evaluation: Mapping[str, Any]) -> None:
    """Print those tables that an evaluation has figures for."""
    console = escape.console()
    if found := evaluation.get("corruptions"):
        clean = evaluation["accuracy"]
        title = f"accuracy on {corrupted_images(found)}: {found['mean_accuracy']:.2%} in the mean, {clean:.2%} without"
        rows = [(kind.replace("_", " "), [*row, sum(row) / len(row)]) for kind, row in found["kinds"].items()]
        console.print(_table(title, ["corruption", *"12345", "mean"], rows))
    for kind, row in evaluation.get("shift", {}).items():
        console.print(_table(f"accuracy by {kind}", ["", *row], [("", list(row.values()))]))
    if found := evaluation.get("out_of_distribution"):
        table = Table(box=box.SIMPLE, padding=(0, 1), show_edge=False, title_justify="left")
        table.title = f"telling the test images from {found['num_samples']:,} of {escape.line(found['data'])}"
        for column in ("score", "AUROC", "taken for known where 95 % of the known are"):
            table.add_column(column, justify="left" if column == "score" else "right")
        for score in ("confidence", "energy"):
            table.add_row(score, f"{found[score]['auroc']:.2%}", f"{found[score]['fpr95']:.2%}")
        console.print(table)


def corrupted_images(found: Mapping[str, Any]) -> str:
    """Return 'corrupted images', with their number if `found`, the accuracies under corruptions, has it."""
    num = found.get("num_images")  # not in results of earlier versions
    return f"{num:,} corrupted images" if num else "corrupted images"


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1), show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for name, shares in rows:
        table.add_row(name, *(f"{share:.2%}" for share in shares))
    return table
