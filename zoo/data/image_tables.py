"""Pictures in a folder, with labels in a table: CSV or Parquet, with one row per picture."""

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any

import torch

from zoo import escape
from zoo.data.image_files import Decoder, ImageFiles
from zoo.data.picture_data import SplitPictures
from zoo.data.reading import Reading, reading_for
from zoo.data.sources import ImageSource, LabelledImages
from zoo.data.table_labels import LabelColumns, check_seen
from zoo.data.table_numbers import NumberColumns
from zoo.data.table_rows import Rows, read_rows
from zoo.errors import BadInput, choices, counted, shown
from zoo.ranges import ImageSize, NotEmpty, Text

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
NUM_NAMED = 3  # missing files listed by name
log = logging.getLogger("zoo")


class ImageTable(SplitPictures):
    """Read the pictures that a table lists by their names in a folder, by default that of the table.

    - `file` and `label` are names of columns. Labels are sorted by name, as classes in folders are.
    - Several labels per picture: in the label column, separated by `separator`, or one column of 0 and 1 for each
      label (`label_columns`), which task=multilabel trains on.
    - With `numbers`, the label column, or each of `label_columns`, has numbers, which task=regression trains on.
    - `split` is a column with train, validation or test. Without it, or for the splits it does not have,
      `num_validation` and `num_test` pictures are drawn, with the classes' proportions; of pictures with several
      labels, those of the rarest. Of pictures with numbers, any are drawn.
    - `group`: pictures with the same value in this column, such as patient_id, are never in two splits.

    The order of the rows makes no difference. All other arguments are those of PictureData. Raises BadInput, naming the
    row or the file, for a table that contradicts itself or names files that do not exist or are outside the folder.
    """

    def __init__(
        self,
        *,
        table: Text,
        images: Text | None = None,
        file: Text = "file",
        label: Text = "label",
        split: Text | None = None,
        group: Text | None = None,
        separator: Text | None = None,
        label_columns: Annotated[list[str], NotEmpty()] | None = None,
        numbers: bool | None = None,
        **settings: Any,
    ) -> None:
        places = LabelColumns(label, separator, label_columns)
        labels = NumberColumns(places) if numbers else places
        source = functools.partial(image_table, table, images, file=file, labels=labels, split=split, group=group)
        super().__init__(source=source, **settings)


def image_table(
    table: str,
    images: str | None = None,
    image_size: ImageSize = 224,
    num_workers: int = 0,
    decoder: Decoder = "cpu",
    reading: Reading | None = None,
    *,
    labels: LabelColumns | NumberColumns,
    file: str = "file",
    split: str | None = None,
    group: str | None = None,
) -> ImageSource:
    """List the files and labels of a table without decoding any file; see ImageTable."""
    folder = Path(table).parent if images is None else Path(images)
    if not folder.is_dir():
        raise BadInput(f"data.images: expected the folder of the pictures, got {folder}, which is not a folder")
    optional = {name: f"data.{key}" for key, name in (("split", split), ("group", group)) if name is not None}
    rows = read_rows(table, {file: "data.file", **labels.names, **optional})
    if split is None and "split" in rows.others:
        log.warning("%s has a column 'split', which is not used; data.split=split uses it.", escape.line(table))
    of_rows: Any
    paths, of_rows = _paths(rows, file, folder), labels.of_rows(rows)
    # In the order of image folders, so that the same pictures are drawn whatever the order of the table.
    places = sorted(range(len(rows)), key=lambda row: (of_rows[row], os.path.split(paths[row])))
    parts = _by_split(rows, split, places)
    classes = labels.classes_of([of_rows[row] for row in parts["train"]])
    if isinstance(labels, LabelColumns):
        check_seen(rows, of_rows, classes, [*parts["val"], *parts["test"]])
    groups = None if group is None else _groups(rows, group, parts)
    reading = reading or reading_for(image_size)

    def part(which: Sequence[int]) -> LabelledImages:
        files = ImageFiles([paths[row] for row in which], reading, num_workers, decoder)
        files.setting = "data.images"
        return LabelledImages(files, labels.encode([of_rows[row] for row in which], classes))

    test, val = (part(parts[name]) if parts[name] else None for name in ("test", "val"))
    return ImageSource(part(parts["train"]), test, classes, image_size, val, groups)


def _paths(rows: Rows, column: str, folder: Path) -> list[str]:
    """Return the path of each row's picture; raise BadInput for one outside the folder, missing or named twice."""
    first: dict[str, int] = {}
    missing = []
    for row, name in enumerate(rows.columns[column]):
        pure = PurePath(name)
        if not name or name.endswith("/") or "\0" in name:
            raise BadInput(f"data.file: {rows.name(row)} has {shown(name)}; expected the name of a picture")
        if pure.is_absolute() or ".." in pure.parts:
            raise BadInput(f"data.file: {rows.name(row)} has {shown(name)}; expected a path in data.images, without ..")
        if (before := first.setdefault(str(pure), row)) != row:
            raise BadInput(
                f"data.table: {shown(name)} is in two rows, {rows.name(before)} and {rows.name(row)}; leave one"
            )
        if not os.path.isfile(folder / pure):
            missing.append(str(pure))
    if missing:
        named = ", ".join(map(shown, missing[:NUM_NAMED])) + ", ..." * (len(missing) > NUM_NAMED)
        what = f"of the {counted(len(rows), 'file')} in {rows.path.name}, {len(missing):,} are not in {folder}: {named}"
        raise BadInput(f"data.images: {what}; correct data.images or the names")
    return [str(folder / pure) for pure in first]


def _by_split(rows: Rows, column: str | None, places: Sequence[int]) -> dict[str, list[int]]:
    """Return the rows of each split, in the order of `places`; all are for training without a column of splits."""
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for row in places:
        value = "train" if column is None else rows.columns[column][row]
        name = SPLITS.get(value.lower())
        if name is None:
            got = f"{shown(value)}, {rows.name(row)}"
            hint = choices(value.lower()[:80], SPLITS)
            raise BadInput(f"data.split: expected train, validation or test in column '{column}', got {got}; {hint}")
        parts[name].append(row)
    if not parts["train"]:
        raise BadInput(f"data.split: expected training pictures in column '{column}' of {rows.path}, got none")
    return parts


def _groups(rows: Rows, column: str, parts: dict[str, list[int]]) -> torch.Tensor:
    """Return the number of each training picture's group: (N,), int64.

    Raises BadInput if a row has no group, or if one is in two of the splits that the table itself has.
    """
    values = rows.columns[column]
    seen: dict[str, tuple[str, int]] = {}
    for name, which in parts.items():
        for row in which:
            if not values[row]:
                raise BadInput(f"data.group: {rows.name(row)} has no value in column '{column}'; fill it in")
            other, before = seen.setdefault(values[row], (name, row))
            if other != name:
                raise BadInput(
                    f"data.group: {shown(values[row])} is in {other} and in {name}, {rows.name(before)} and "
                    f"{rows.name(row)}; a group must be in one split"
                )
    numbers = {group: i for i, group in enumerate(sorted(seen))}
    return torch.tensor([numbers[values[row]] for row in parts["train"]], dtype=torch.int64)
