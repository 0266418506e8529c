"""The files written by a prediction: a table, and a grid of pictures with their classes."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from zoo import escape
from zoo.errors import counted
from zoo.files import replacing, write_text
from zoo.report.picture_grid import Line, draw_grid

MOST_IN_GRID = 100
Predicted = tuple[str, Sequence[tuple[str, float]]]


def write_table(path: Path, rows: Sequence[Predicted], names: tuple[str, str]) -> None:
    """Write one row per input to a CSV file: the input, then each guess with its probability, best first.

    `names` are those of the columns of inputs and guesses: for `file` and `class` they are file, class, probability,
    class_2, probability_2, and so on. Rows with fewer guesses end in empty cells.
    """
    asked, guessed = names
    most = max(len(found) for _, found in rows)
    columns = [f"{name}{f'_{i}' if i > 1 else ''}" for i in range(1, most + 1) for name in (guessed, "probability")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([asked, *columns])
    for name, found in rows:
        cells = [cell for guess, share in found for cell in (escape.cell(guess), f"{share:.6g}")]
        writer.writerow([escape.cell(printable(name)), *cells, *[""] * (2 * most - len(cells))])
    write_text(path, text.getvalue())
    escape.console().print(f"Written     {path}, {counted(len(rows), 'row')}", soft_wrap=True)


def write_numbers(path: Path, rows: Sequence[Predicted]) -> None:
    """Write one row per input to a CSV file: the file, then each of its numbers, in columns of their names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(escape.cell(name) for name, _ in rows[0][1])])
    writer.writerows([escape.cell(printable(name)), *(number_text(one) for _, one in found)] for name, found in rows)
    write_text(path, text.getvalue())
    escape.console().print(f"Written     {path}, {counted(len(rows), 'row')}", soft_wrap=True)


def number_text(value: float) -> str:
    """Return a number with seven significant digits, as many as float32 has."""
    return f"{value:.7g}"


def write_grid(path: Path, images: Tensor, rows: Sequence[Predicted], are_numbers: bool = False) -> None:
    """Draw uint8 images (N, C, H, W), as the net reads them, of the first N rows, with class, probability and file.

    With `are_numbers`, with the first number of each instead.
    """
    from PIL import Image

    def caption(name: str, found: Sequence[tuple[str, float]]) -> tuple[Line, Line]:
        guess = "no label"
        if found:
            what, value = found[0]
            guess = f"{what} {value:.4g}" if are_numbers else f"{value:.0%} {what}"
        return (guess, "black"), (os.path.basename(printable(name)), "#606060")

    sheet = draw_grid(images, [caption(*row) for row in rows[: len(images)]])
    with replacing(path) as file:
        Image.fromarray(sheet.numpy()).save(file, format="png")
    first = f"the first {len(images):,} of " if len(images) < len(rows) else ""
    escape.console().print(f"Written     {path}, {first}{counted(len(rows), 'picture')}", soft_wrap=True)


def printable(name: str) -> str:
    """Return the name of a file, which need not be UTF-8, with its other bytes escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")
