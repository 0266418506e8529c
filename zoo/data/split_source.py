"""The training, validation and test images of a data set: as its source has them, or drawn from the training images."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.image_files import ImageFiles
from zoo.data.sources import ImageSource, LabelledImages
from zoo.data.splits import fold_sizes, grouped_split, strata, stratified_split
from zoo.errors import BadInput

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Shares:
    """How many images to hold out; with `folds`, for cross-validation, the `fold`-th of that many parts validates.

    Raises BadInput unless there is such a fold.
    """

    num_validation: int
    num_test: int = 0
    folds: int | None = None
    fold: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fold < (self.folds or 1):
            count = f"there are {self.folds} folds" if self.folds else "data.folds is null, so there is one"
            raise BadInput(f"data.fold={self.fold} is not a fold: {count}, counted from 0")


def split_source(source: ImageSource, shares: Shares, seed: int) -> dict[str, LabelledImages]:
    """Return the images by split; those that the source does not have are drawn from its training images.

    Raises BadInput if `shares` asks for images that the source has anyway, or for too many.
    """
    if (source.test is None) == (shares.num_test == 0):
        has = "no test images, so expected at least 1" if source.test is None else "test images, so expected 0"
        raise BadInput(f"data.num_test={shares.num_test}: this data set has {has}")
    if source.val is not None and (shares.folds or shares.num_validation):
        key = f"folds={shares.folds}" if shares.folds else f"num_validation={shares.num_validation}"
        raise BadInput(f"data.{key}: this data set has validation images; leave it out, or the split column")
    try:
        val, test, train = _drawn(source, shares, seed)
    except ValueError as error:
        names = "data.folds" if shares.folds else "data.num_validation and data.num_test"
        raise BadInput(f"{names}: {error}") from error

    def part(index: Tensor) -> LabelledImages:
        images: Tensor | ImageFiles = source.train.images[index]
        return LabelledImages(images, source.train.labels[index])

    if source.groups is not None and len(val) + len(test):
        drawn = f"{len(val):,} for validation, {len(test):,} for testing and {len(train):,} for training"
        log.info("Groups are kept whole: %s.", drawn)
    return {"train": part(train), "val": source.val or part(val), "test": source.test or part(test)}


def _drawn(source: ImageSource, shares: Shares, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of the training images to validate with, to test with and to train on."""
    classes, num = strata(source.train.labels), len(source.train)

    def draw(sizes: list[int]) -> list[Tensor]:
        if source.groups is None:
            return stratified_split(classes, sizes, seed)
        return grouped_split(classes, source.groups, sizes, seed)

    if not shares.folds:
        val, test, train = draw([shares.num_validation, shares.num_test])
        return val, test, train
    test, *parts = draw([shares.num_test, *fold_sizes(num - shares.num_test, shares.folds)[:-1]])
    val = parts.pop(shares.fold)
    return val, test, torch.cat(parts).sort().values
