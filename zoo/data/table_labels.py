"""Labels in a table: one per row, several in one column, or one column of 0 and 1 per label."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo import escape
from zoo.errors import BadInput, choices, counted, shown

YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}
USUAL_SEPARATORS = "|;,"
MOST_CLASSES = 100_000
log = logging.getLogger("zoo")


class LabelledRows(Protocol):
    """Rows with texts in columns, each with a name for errors, such as `line 5 of labels.csv`."""

    @property
    def columns(self) -> Mapping[str, list[str]]: ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str: ...


def has_several_labels(settings: Mapping[str, Any]) -> bool:
    """Return whether these settings of `data` give each picture several labels, or none."""
    return bool(settings.get("separator") or settings.get("label_columns")) and not has_numbers(settings)


def has_numbers(settings: Mapping[str, Any]) -> bool:
    """Return whether these settings of `data` give each picture one number or more, for task=regression."""
    return bool(settings.get("numbers"))


def instead_of_class(settings: Mapping[str, Any]) -> str:
    """Return what these settings of `data` give each picture instead of one class; empty if it is one class."""
    return "numbers" if has_numbers(settings) else "several labels" if has_several_labels(settings) else ""


@dataclass(frozen=True)
class LabelColumns:
    """Where the labels of a picture are: in `label`, separated by `separator` if set, or in `columns` of 0 and 1.

    Raises BadInput if both are set, or `columns` names a column twice.
    """

    label: str
    separator: str | None = None
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.separator and self.columns:
            raise BadInput("data.separator and data.label_columns are two ways to give several labels; use one of them")
        if self.separator is not None and (not self.separator or self.separator.isalnum()):
            raise BadInput(f"data.separator: expected what is between two labels, such as |, got {self.separator!r}")
        if self.columns is not None and len(set(self.columns)) < max(1, len(self.columns)):
            raise BadInput(f"data.label_columns: expected one or more different columns, got {list(self.columns)}")

    @property
    def names(self) -> dict[str, str]:
        """Return the columns to read, each with the setting that names it."""
        columns = dict.fromkeys(self.columns or (), "data.label_columns")
        return columns or {self.label: "data.label"}

    def of_rows(self, rows: LabelledRows) -> list[tuple[str, ...]]:
        """Return the labels of each row, in the order of the table; raise BadInput naming a row that has none."""
        if self.columns:
            return _of_columns(rows, self.columns)
        cells = rows.columns[self.label]
        if self.separator:
            return _of_separated(rows, cells, self.separator)
        if empty := [i for i, cell in enumerate(cells) if not cell]:
            raise BadInput(
                f"data.label: {rows.name(empty[0])} has no label{other_rows(empty)}; fill it in, or remove it"
            )
        return [(cell,) for cell in cells]

    def classes_of(self, labels: Sequence[tuple[str, ...]]) -> list[str]:
        """Return the names of all labels of training pictures, sorted, or in the order of their columns."""
        classes = list(self.columns or sorted({one for several in labels for one in several}))
        if len(classes) > MOST_CLASSES:
            raise BadInput(f"data.label: expected at most {MOST_CLASSES:,} different labels, got {len(classes):,}")
        return classes

    def encode(self, labels: Sequence[tuple[str, ...]], classes: Sequence[str]) -> Tensor:
        """Return labels as numbers (N,) int64 or, where a picture may have several, as (N, classes) uint8."""
        place = {name: i for i, name in enumerate(classes)}
        if not (self.separator or self.columns):
            return torch.tensor([place[one] for (one,) in labels], dtype=torch.int64)
        found = torch.zeros(len(labels), len(classes), dtype=torch.uint8)
        pairs = [(row, place[one]) for row, several in enumerate(labels) for one in several]
        if pairs:
            found[tuple(torch.tensor(pairs).T)] = 1
        return found


def check_seen(
    rows: LabelledRows, labels: Sequence[tuple[str, ...]], classes: Sequence[str], which: Sequence[int]
) -> None:
    """Raise BadInput if a row in `which` has a label that no training picture has."""
    known = set(classes)
    odd = [(row, one) for row in which for one in labels[row] if one not in known]
    if odd:
        row, one = odd[0]
        raise BadInput(
            f"data.label: {rows.name(row)} has the label {shown(one)}, which no training picture has"
            f"{other_rows([row for row, _ in odd])}; {choices(one[:80], [name[:80] for name in classes])}"
        )


def _of_columns(rows: LabelledRows, columns: Sequence[str]) -> list[tuple[str, ...]]:
    found: list[list[str]] = [[] for _ in range(len(rows))]
    for name in columns:
        for row, cell in enumerate(rows.columns[name]):
            if cell.lower() in YES:
                found[row].append(name)
            elif cell.lower() not in NO:
                got = shown(cell) if cell else "an empty cell"
                raise BadInput(f"data.label_columns: {rows.name(row)} has {got} in {shown(name)}; expected 0 or 1")
    return [tuple(one) for one in found]


def _of_separated(rows: LabelledRows, cells: Sequence[str], separator: str) -> list[tuple[str, ...]]:
    if not any(separator in cell for cell in cells):
        for row, cell in enumerate(cells):
            if other := next((one for one in USUAL_SEPARATORS if one in cell), None):
                raise BadInput(
                    f"data.separator={separator!r} is in no label, and {rows.name(row)} has {shown(cell)}; did you "
                    f"mean data.separator={other!r}?"
                )
        log.warning("data.separator=%r is in no label: every picture has at most one.", separator)
    labels = [tuple(part.strip() for part in cell.split(separator)) if cell else () for cell in cells]
    for row, several in enumerate(labels):
        if "" in several:
            raise BadInput(
                f"data.label: {rows.name(row)} has an empty label in {shown(cells[row])}; remove a separator"
            )
        if len(set(several)) < len(several):
            raise BadInput(f"data.label: {rows.name(row)} has a label twice, in {shown(cells[row])}; remove one")
    if none := [row for row, several in enumerate(labels) if not several]:
        first = escape.line(rows.name(none[0]))
        log.warning("%s without any label, such as %s.", counted(len(none), "picture"), first)
    return labels


def other_rows(rows: Sequence[int]) -> str:
    """Return how many other rows have the problem of the first."""
    return f", and {counted(len(rows) - 1, 'other row')}" if len(rows) > 1 else ""
