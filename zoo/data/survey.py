"""One pass over all pictures of a data set: their sizes, which are unreadable or copies of others, and their mean."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from zoo.data.fingerprints import SIDE, Groups, exact_groups, fingerprint, flat, near_groups
from zoo.data.image_files import ImageFiles
from zoo.data.image_workers import why_unreadable
from zoo.data.read_image import read_picture
from zoo.data.sources import LabelledImages
from zoo.ranges import size_within

MEAN_PX = 64  # of the mean picture, at most
AT_ONCE = 10_000  # pictures in memory whose fingerprints are computed together


@dataclass(frozen=True)
class Survey:
    """What was found in the pictures of all splits, of which each is one row, in the order of the splits.

    `names` are paths or, for pictures in memory, None; `sides` (N, 2) the heights and widths of upright pictures, 0 if
    unreadable; `unreadable` has the reasons by row, and `flat` the rows of pictures of one colour. `exact` and `near`
    are groups of rows that are copies of each other: with equal bytes or pixels, or nearly the same to the eye. `mean`
    (C, height, width), 0…255, is the mean of pictures as nets see them, None if none can be read.
    """

    names: list[str | None]
    splits: list[str]
    sides: Tensor
    exact: Groups
    near: Groups
    flat: list[int]
    unreadable: dict[int, str]
    mean: Tensor | None

    def shared(self, groups: Groups, first: str, second: str) -> list[tuple[int, int]]:
        """Return each row of the split `second` that is in a group with one of the split `first`, and that row."""
        found = []
        for group in groups:
            other = next((row for row in group if self.splits[row] == first), None)
            if other is not None:
                found += [(row, other) for row in group if self.splits[row] == second]
        return sorted(found)

    def place(self, row: int) -> str:
        """Return how to name a picture: its path, or its number in its split."""
        split = self.splits[row]
        return self.names[row] or f"number {row - self.splits.index(split)} of {split}"


def survey(splits: Mapping[str, LabelledImages]) -> Survey:
    """Read every picture once; files that cannot be read, or are not pictures, are no error."""
    parts = [_Part(one.images) for one in splits.values()]
    digests = [digest for part in parts for digest in part.digests]
    prints, sides = (torch.cat(several) for several in zip(*((part.prints, part.sides) for part in parts), strict=True))
    starts = [sum(map(len, parts[:i])) for i in range(len(parts))]
    unreadable = {start + i: why for start, part in zip(starts, parts, strict=True) for i, why in part.failures.items()}
    readable = [row for row in range(len(prints)) if row not in unreadable]
    exact = [[readable[i] for i in group] for group in exact_groups([digests[row] for row in readable])]
    copies = {row: group for group in exact for row in group}
    firsts = [row for row in readable if row not in copies or copies[row][0] == row]
    near = [[firsts[i] for i in group] for group in near_groups(prints[firsts])]
    num = len(readable)
    total: Tensor | None = None
    for part in parts:
        if part.total is not None:
            total = part.total if total is None else total + part.total
    return Survey(
        names=[name for part in parts for name in part.names],
        splits=[name for name, part in zip(splits, parts, strict=True) for _ in range(len(part))],
        sides=sides,
        exact=exact,
        near=[sorted(row for one in group for row in copies.get(one, [one])) for group in near],
        flat=[readable[i] for i in flat(prints[readable]).nonzero().flatten().tolist()],
        unreadable=dict(sorted(unreadable.items())),
        mean=None if total is None else total.double() / num,
    )


class _Part:
    """What was found in the pictures of one split, by their numbers in it."""

    def __init__(self, images: Tensor | ImageFiles) -> None:
        self.sides = torch.zeros(len(images), 2, dtype=torch.int64)
        self.prints = torch.zeros(len(images), SIDE, SIDE + 1, dtype=torch.int16)
        self.failures: dict[int, str] = {}
        self.total: Tensor | None = None  # of all pictures, for the mean
        self._lock = Lock()
        if isinstance(images, ImageFiles):
            self.names: list[str | None] = list(images.paths)
            self.digests = [row.tobytes() for row in images.contents().numpy()]
            with ThreadPoolExecutor() as pool:
                for _ in pool.map(lambda i: self._read(images, i), range(len(images))):
                    pass
        else:
            self.names = [None] * len(images)
            self.digests = [hashlib.sha256(image).digest() for image in images.flatten(1).contiguous().cpu().numpy()]
            self.sides[:] = torch.tensor(images.shape[-2:])
            for start in range(0, len(images), AT_ONCE):
                self.prints[start : start + AT_ONCE] = fingerprint(images[start : start + AT_ONCE])
                self._add(images[start : start + AT_ONCE])

    def __len__(self) -> int:
        return len(self.names)

    def _read(self, files: ImageFiles, i: int) -> None:
        try:
            picture = read_picture(files.paths[i], files.reading.background)
            cropped = files.reading.cropped(picture)
        except Exception as error:  # a decoder may raise anything on bytes that are not an image
            self.failures[i] = why_unreadable(error)
            return
        self.sides[i], self.prints[i] = torch.tensor(picture.shape[1:]), fingerprint(picture)
        self._add(cropped[None])

    def _add(self, pictures: Tensor) -> None:
        """Add pictures (n, C, height, width), the longer side reduced to at most 64 px, to the total."""
        from torchvision.transforms.v2 import functional as F

        if max(pictures.shape[-2:]) > MEAN_PX:
            pictures = F.resize(pictures, size_within(pictures.shape[-2:], MEAN_PX), antialias=True)
        added = pictures.sum(0, dtype=torch.int64)
        with self._lock:
            self.total = added if self.total is None else self.total + added
