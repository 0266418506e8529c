"""Numbers for labels in a table: one column, or several, whose cells are read as float32."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.table_labels import LabelColumns, LabelledRows, other_rows
from zoo.errors import BadInput, shown


@dataclass(frozen=True)
class NumberColumns:
    """Columns of which each row has a number: those that `places` names, without a separator.

    Raises BadInput if there is one.
    """

    places: LabelColumns

    def __post_init__(self) -> None:
        if self.places.separator:
            raise BadInput(
                "data.separator is between labels, and these are numbers; name columns in data.label_columns"
            )

    @property
    def names(self) -> dict[str, str]:
        """Return the columns to read, each with the setting that names it."""
        return self.places.names

    def of_rows(self, rows: LabelledRows) -> list[tuple[float, ...]]:
        """Return the numbers of each row, in the order of the table; raise BadInput naming a row that lacks one."""
        columns = [_numbers(rows, name, setting) for name, setting in self.names.items()]
        return list(zip(*columns, strict=True))

    def classes_of(self, labels: Sequence[tuple[float, ...]]) -> list[str]:
        """Return the names of the numbers, in the order of their columns."""
        return list(self.names)

    def encode(self, labels: Sequence[tuple[float, ...]], classes: Sequence[str]) -> Tensor:
        """Return numbers as (N, columns) float32."""
        return torch.tensor(labels, dtype=torch.float32).view(len(labels), len(classes))


def _numbers(rows: LabelledRows, column: str, setting: str) -> list[float]:
    cells = rows.columns[column]
    if empty := [row for row, cell in enumerate(cells) if not cell]:
        name = f"{rows.name(empty[0])}{other_rows(empty)}"
        raise BadInput(f"{setting}: no number in column {shown(column)} in {name}; fill it in, or remove the row")
    found = [_number(cell) for cell in cells]
    if odd := [row for row, number in enumerate(found) if number is None]:
        got = f"{shown(cells[odd[0]])} in {rows.name(odd[0])}{other_rows(odd)}"
        raise BadInput(f"{setting}: expected a number such as 1.5 in column {shown(column)}, got {got}")
    return [number for number in found if number is not None]


def _number(cell: str) -> float | None:
    """Return a finite number within the range of float32, or None."""
    try:
        number = float(cell)
    except ValueError:
        return None
    is_plain = "_" not in cell and math.isfinite(number) and abs(number) <= torch.finfo(torch.float32).max
    return number if is_plain else None
