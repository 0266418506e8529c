"""Look at a data set before training on it: what a survey of all pictures found, as tables, verdicts and plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.compare.comparison_tables import Table
from zoo.data.file_checks import names_of
from zoo.data.images import ImageData
from zoo.data.module import SPLITS
from zoo.data.sources import LabelledImages
from zoo.data.survey import Survey, survey
from zoo.errors import BadInput, counted
from zoo.report.verdicts import Verdict
from zoo.run import picture_checks

KIND = "inspection of pictures"  # in the JSON file
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
NUM_SIZES = 8  # most frequent sizes in the table


@dataclass(frozen=True)
class Inspection:
    """The pictures of a data set, with their labels (N,) or (N, classes), in the order of the survey."""

    title: str
    splits: Mapping[str, LabelledImages]
    classes: Sequence[str]
    labels: Tensor
    survey: Survey
    verdicts: Sequence[Verdict]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of pictures of each class in each split."""
        return class_counts(self.splits, self.classes)


def inspect_pictures(data: ImageData, name: str) -> Inspection:
    """Read all pictures of a data set, in the splits that a training would have.

    If there is no such split with these settings, that is a verdict, and the splits are those of the source.
    """
    source = data.source()
    try:
        splits = data.split(source)
        verdicts = []
    except BadInput as error:
        parts = {"train": source.train, "val": source.val, "test": source.test}
        splits = {split: part for split, part in parts.items() if part is not None}
        verdicts = [Verdict("settings", "warn", f"training would end with: {error}")]
    classes, labels = list(source.classes), torch.cat([part.labels for part in splits.values()])
    found = survey(splits)
    verdicts += [
        picture_checks.check_readable_pictures(found),
        picture_checks.check_apart(found),
        picture_checks.check_labels_of_copies(found, labels, classes),
        picture_checks.check_copies(found),
        picture_checks.check_classes(found, class_counts(splits, classes), labels.ndim == 2),
        picture_checks.check_sides(found, data.image_size),
    ]
    title = f"{counted(len(labels), 'picture')} of {counted(len(classes), 'class')}: {name}"
    return Inspection(title, splits, classes, labels, found, verdicts)


def class_counts(splits: Mapping[str, LabelledImages], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the number of pictures of each class in each split."""
    numbers = {}
    for split, part in splits.items():
        labels = part.labels
        total = labels.sum(0, dtype=torch.int64) if labels.ndim == 2 else labels.bincount(minlength=len(classes))
        numbers[split] = total.tolist()
    return {name: {split: of_split[i] for split, of_split in numbers.items()} for i, name in enumerate(classes)}


def class_table(inspection: Inspection) -> Table:
    """Return the number of pictures of each class in each split, most frequent in training first."""
    counts, splits = inspection.counts(), list(inspection.splits)
    order = sorted(counts, key=lambda name: -counts[name]["train"])
    rows = [(name, *(f"{counts[name][split]:,}" for split in splits)) for name in order]
    sums = (f"{len(part):,}" for part in inspection.splits.values())
    about = "Pictures per class and split, most frequent first."
    if inspection.labels.ndim == 2:
        about += " A picture may have several labels, or none."
    return Table("Classes", about, ("class", *splits), [*rows, ("pictures", *sums)], ("class",))


def size_table(inspection: Inspection) -> Table:
    """Return quantiles of sizes and aspect ratios."""
    found = quantiles(inspection.survey.sides)
    rows = []
    for name, values in found.items():
        form = ".2f" if name == "width / height" else ",.0f"
        rows.append((name, *(format(value, form) for value in values.values())))
    return Table("Sizes", "Of upright pictures, in px.", ("", *QUANTILES), rows, ("",))


def frequent_sizes(inspection: Inspection) -> Table:
    """Return the most frequent sizes."""
    sides = inspection.survey.sides
    sides, counts = sides[sides.amin(1) > 0].unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    rows = [
        (f"{width:,} × {height:,}", f"{num:,}")
        for (height, width), num in zip(sides[order].tolist()[:NUM_SIZES], counts[order].tolist(), strict=False)
    ]
    return Table(
        "Frequent sizes", f"Of {counted(len(sides), 'different size')}.", ("width × height", "pictures"), rows, ()
    )


def quantiles(sides: Tensor) -> dict[str, dict[str, float]]:
    """Return quantiles of the sides (N, 2) of readable pictures; empty without any."""
    heights, widths = sides[sides.amin(1) > 0].double().unbind(1)
    if not len(heights):
        return {}
    values = {
        "width": widths,
        "height": heights,
        "shorter side": torch.minimum(heights, widths),
        "width / height": widths / heights,
    }
    places = torch.tensor(list(QUANTILES.values()), dtype=torch.float64)

    def of(one: Tensor) -> list[float]:
        ordered = one.sort().values
        return ordered[(places * (len(ordered) - 1)).round().long()].tolist()

    return {name: dict(zip(QUANTILES, of(one), strict=True)) for name, one in values.items()}


def figures(inspection: Inspection) -> dict[str, Any]:
    """Return everything that was found as plain data, for JSON."""
    found = inspection.survey
    names = names_of(inspection.labels, inspection.classes)

    def picture(row: int) -> dict[str, Any]:
        return {"file": found.place(row), "split": found.splits[row], "label": names[row]}

    return {
        "kind": KIND,
        "title": inspection.title,
        "verdicts": [{"check": v.name, "verdict": v.state, "found": v.sentence} for v in inspection.verdicts],
        "num_samples": {split: found.splits.count(split) for split in SPLITS},
        "classes": inspection.counts(),
        "sides": quantiles(found.sides),
        "unreadable": [{**picture(row), "why": why} for row, why in found.unreadable.items()],
        "one_colour": [picture(row) for row in found.flat],
        "exact_copies": [[picture(row) for row in group] for group in found.exact],
        "near_copies": [[picture(row) for row in group] for group in found.near],
    }
