"""Pictures inside of larger files, each with the text of its label, as a data set."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo import escape
from zoo.data.image_files import Decoder, ImageFiles
from zoo.data.picture_parts import PicturePart
from zoo.data.reading import Reading
from zoo.data.sources import ImageSource, LabelledImages
from zoo.data.table_labels import LabelColumns, check_seen
from zoo.errors import BadInput, choices, shown
from zoo.ranges import ImageSize

LABEL = "label"
NUM_DIGITS = 5  # of the number of a class
log = logging.getLogger("zoo")


@dataclass(frozen=True)
class LabelledParts:
    """Pictures, their names in the files that they are inside of, and the texts of their labels."""

    parts: list[PicturePart]
    names: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def columns(self) -> dict[str, list[str]]:
        return {LABEL: self.labels}

    def name(self, row: int) -> str:
        return escape.line(os.fsencode(self.parts[row]).decode(errors="backslashreplace"))


@dataclass(frozen=True)
class PartReader:
    """How to turn listed pictures into images and labels.

    `classes` are the names of classes that labels may also give by their numbers, from 0; null: those of the training
    pictures. With `separator`, a picture may have several labels. Pictures are put in the order of image folders, by
    class and name, unless `as_stored`.
    """

    image_size: ImageSize
    reading: Reading
    num_workers: int = 0
    decoder: Decoder = "cpu"
    classes: Sequence[str] | None = None
    separator: str | None = None
    as_stored: bool = False

    def source(self, splits: Mapping[str, LabelledParts], setting: str) -> ImageSource:
        """Return the data set of the splits train, val and test, the last two of which may be missing.

        Raises BadInput for a label that is missing or unknown; `setting` names the files in errors.
        """
        columns = LabelColumns(LABEL, self.separator)
        labels = {name: columns.of_rows(part) for name, part in splits.items()}
        if self.classes is None:
            classes = _in_order(columns.classes_of(labels["train"]))
            for name in splits.keys() - {"train"}:
                check_seen(splits[name], labels[name], classes, range(len(labels[name])))
        else:
            classes = list(self.classes)
            labels = {name: self._named(splits[name], of_split) for name, of_split in labels.items()}

        def images(name: str) -> LabelledImages | None:
            if name not in splits:
                return None
            part, of_split = splits[name], labels[name]
            order = list(range(len(part)))
            if not self.as_stored:
                order.sort(key=lambda i: (of_split[i], os.path.split(part.names[i])))
            files = ImageFiles([part.parts[i] for i in order], self.reading, self.num_workers, self.decoder)
            files.setting = setting
            return LabelledImages(files, columns.encode([of_split[i] for i in order], classes))

        train = images("train")
        assert train is not None
        return ImageSource(train, images("test"), classes, self.image_size, images("val"))

    def _named(self, rows: LabelledParts, labels: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return labels by name; numbers are numbers of classes, unless a class is called by a number."""
        assert self.classes is not None
        known = {name: name for name in self.classes}
        if not any(name.isdecimal() for name in self.classes):
            known |= {str(i): name for i, name in enumerate(self.classes)}
        for row, several in enumerate(labels):
            if odd := [one for one in several if one not in known]:
                hint = choices(odd[0][:80], [name[:80] for name in self.classes[:1000]])
                raise BadInput(
                    f"data.classes: {rows.name(row)} has the label {shown(odd[0])}, which is none of the "
                    f"{len(self.classes):,} classes; {hint}"
                )
        return [tuple(known[one] for one in several) for several in labels]


def _in_order(classes: list[str]) -> list[str]:
    """Return class names sorted or, if all are numbers, all numbers from 0 to the largest."""
    numbers = [int(name) for name in classes if name.isascii() and name.isdecimal() and len(name) <= NUM_DIGITS]
    if {str(number) for number in numbers} != set(classes):
        return classes
    return [str(number) for number in range(max(numbers) + 1)]
