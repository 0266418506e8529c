"""Folders of Arrow or Parquet files with pictures, as the library `datasets` of Hugging Face saves them."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.arrow_pictures import ArrowColumns, read_pictures
from zoo.data.image_files import Decoder
from zoo.data.labelled_parts import LabelledParts, PartReader
from zoo.data.picture_data import SplitPictures
from zoo.data.reading import Reading, reading_for
from zoo.data.sources import ImageSource
from zoo.errors import BadInput
from zoo.ranges import ImageSize, Text

NUMBERED = re.compile(r"-(\d{5})-of-(\d{5})$")
NOT_DATA = ("cache-", "tmp")  # beginnings of files that the library keeps next to the data


class ArrowFolder(SplitPictures):
    """Read pictures from the files that `save_to_disk` writes, or from Parquet files with the same columns.

    `train`, `val` and `test` are folders in `root`, or the beginnings of the names of its files, as in
    `train-00000-of-00002.parquet`, in `root` or in `root`/data. Without `val` or `test`, `num_validation` or `num_test`
    training pictures are drawn. `image` and `label` are columns; names of classes are those of the label's feature.
    A list of labels needs a `separator`, which no label contains.

    Pictures are read where they are in Arrow files, and need no memory; those in Parquet files are first copied to a
    temporary file. All other arguments are those of PictureData. Raises BadInput, naming file and row, if a file cannot
    be read, or for a picture without bytes or without a known label.
    """

    def __init__(
        self,
        *,
        root: Text,
        train: Text = "train",
        val: Text | None = None,
        test: Text | None = "test",
        image: Text = "image",
        label: Text = "label",
        separator: Text | None = None,
        **settings: Any,
    ) -> None:
        names = {"train": train, "val": val, "test": test}
        source = functools.partial(
            arrow_folder,
            root,
            splits={key: name for key, name in names.items() if name is not None},
            columns=ArrowColumns(image, label, separator),
        )
        super().__init__(source=source, **settings)


def arrow_folder(
    root: str,
    image_size: ImageSize = 224,
    num_workers: int = 0,
    decoder: Decoder = "cpu",
    reading: Reading | None = None,
    *,
    splits: dict[str, str],
    columns: ArrowColumns,
) -> ImageSource:
    """List the pictures and labels of a folder without decoding any picture; see ArrowFolder."""
    files = {key: _files_of(Path(root), key, name) for key, name in splits.items()}
    owners: dict[Path, str] = {}
    for key, found in files.items():
        for file in found:
            if (other := owners.setdefault(file.resolve(), key)) != key:
                raise BadInput(f"data.{key}: {file} is also of data.{other}; each file belongs to one split")
    listed, classes = {}, {}
    for key, found in files.items():
        listed[key], classes[key] = _listed(found, columns)
    if odd := next((key for key in classes if classes[key] != classes["train"]), None):
        raise BadInput(f"data.{odd}: its label has other names of classes than that of data.train; cast one of them")
    reader = PartReader(
        image_size,
        reading or reading_for(image_size),
        num_workers,
        decoder,
        classes["train"],
        columns.separator,
    )
    return reader.source(listed, "data.root")


def _listed(files: Sequence[Path], columns: ArrowColumns) -> tuple[LabelledParts, list[str] | None]:
    """Return the pictures of all files of a split, and the names of their classes, if the files have them."""
    parts = LabelledParts([], [], [])
    names: list[list[str] | None] = []
    for file in files:
        pictures, of_file = read_pictures(file, columns)
        names.append(of_file)
        parts.parts.extend(pictures.parts)
        parts.names.extend(pictures.names)
        parts.labels.extend(pictures.labels)
        if names[0] != of_file:
            raise BadInput(f"data.label: {file} has other names of classes than {files[0]}; cast one of them")
    if not len(parts):
        raise BadInput(f"data.root: expected pictures in {files[0].parent}, got files without rows")
    return parts, names[0]


def _files_of(root: Path, key: str, name: str) -> list[Path]:
    """Return the Arrow or the Parquet files of a split, sorted; raise BadInput if there are none, or both."""
    if not root.is_dir():
        raise BadInput(f"data.root: expected a folder with Arrow or Parquet files, got {root}, which is not a folder")
    places = [(root / name, "")] if (root / name).is_dir() else [(root, name), (root / "data", name)]
    found = [
        file
        for folder, start in places
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if file.suffix in (".arrow", ".parquet")
        and not file.name.startswith(NOT_DATA)
        and (not start or file.stem == start or file.name.startswith(f"{start}-"))
    ]
    if indices := [file for file in found if file.name.startswith("indices")]:
        raise BadInput(f"data.root: {indices[0]} selects rows of the data; save them again, with flatten_indices()")
    if len({file.suffix for file in found}) == 1:
        _check_whole(key, found)
        return found
    got = "both" if found else "none; " + _hint(root)
    raise BadInput(f"data.{key}: expected Arrow or Parquet files of '{name}' in {root}, got {got}")


def _check_whole(key: str, files: Sequence[Path]) -> None:
    """Raise BadInput if one of several files is missing, of which each says how many there are."""
    numbers = [match for file in files if (match := NUMBERED.search(file.stem))]
    if numbers and sorted(int(one[1]) for one in numbers) != list(range(int(numbers[0][2]))):
        raise BadInput(
            f"data.{key}: expected {int(numbers[0][2]):,} files in {files[0].parent}, as in their names, got "
            f"{len(numbers):,}, such as {files[0].name}"
        )


def _hint(root: Path) -> str:
    """Say what to set instead, from what a folder holds."""
    if list(root.glob("*.arrow")) or list(root.glob("*.parquet")):
        return "for a folder without splits, set data.train=. data.test=null data.num_test=..."
    names = [folder.name for folder in sorted(root.iterdir()) if folder.is_dir()][:9]
    return f"it holds the folders {', '.join(names)}" if names else "it holds no folder and no such file"
