"""Decoding of image files in worker processes."""

import contextlib
import errno
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo import memory
from zoo.data import geometry
from zoo.data.picture_parts import open_picture, size_of
from zoo.data.read_image import read_jpeg, read_picture
from zoo.data.reading import Reading
from zoo.data.reduced_jpeg import OpenJpeg, open_jpeg
from zoo.data.whole_pictures import PictureCrop
from zoo.errors import BadInput, reason

Draw = list[float] | None  # a crop's random numbers for one picture
Failure = tuple[str, str]  # a file, and why it cannot be read
AT_ONCE = 32  # files that are open at the same time, so that their crops are drawn together
MOST_HELD = 8 << 20  # bytes of such a file, since parts of files are held in memory
MOST_TRIES = 100  # to find a replacement for an unreadable picture


class Sample(NamedTuple):
    """The result of a worker process for one file."""

    number: int
    image: Tensor | None  # pixels, or the bytes of a JPEG file
    orientation: int  # EXIF orientation of those bytes
    draw: Draw
    failures: list[Failure]

    @property
    def is_raw(self) -> bool:
        return self.image is not None and self.image.ndim == 1


class BatchLists:
    """Batch sampler: yields each batch as a list of (image number, crop's random numbers), made lazily."""

    def __init__(self, indices: Sequence[Tensor | slice], num: int, draws: Iterable[Tensor] | None) -> None:
        self.indices, self.num, self.draws = indices, num, draws

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def largest(self) -> int:
        """Return the size of the largest batch."""
        return max((len(range(self.num)[i]) if isinstance(i, slice) else len(i) for i in self.indices), default=0)

    def __iter__(self) -> Iterator[list[tuple[int, Draw]]]:
        draws = None if self.draws is None else iter(self.draws)
        for index in self.indices:
            numbers = list(range(self.num)[index]) if isinstance(index, slice) else index.tolist()
            yield list(zip(numbers, next(draws).T.tolist() if draws else [None] * len(numbers), strict=True))


class Decoding(Dataset[Sample]):
    """Data set of image files, resized or cropped by `crop`; with `raw`, JPEG files stay bytes."""

    def __init__(self, paths: Sequence[str], reading: Reading, crop: PictureCrop | None, raw: bool, full: bool) -> None:
        self.paths, self.reading = paths, reading
        self.crop, self.raw, self.full = crop, raw, full

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: tuple[int, Draw]) -> Sample:
        index, draw = item
        instead = random.Random(index)
        failures: list[Failure] = []
        for _ in range(MOST_TRIES if self.full else 1):
            path = self.paths[index]
            try:
                if self.raw and (jpeg := read_jpeg(path)):
                    return Sample(index, *jpeg, draw, failures)
                return Sample(index, self._read(path, draw), 1, draw, failures)
            except Exception as error:  # a decoder may raise anything on bytes that are not an image
                failures.append((path, why_unreadable(error)))
            index = instead.randrange(len(self.paths))
        return Sample(index, None, 1, draw, failures)

    def __getitems__(self, items: list[tuple[int, Draw]]) -> list[Sample]:
        """Return the samples of a batch, as `__getitem__` does, in less time."""
        samples = []
        for start in range(0, len(items), AT_ONCE):
            some = items[start : start + AT_ONCE]
            for item, image in zip(some, self._cropped(some), strict=True):
                samples.append(self[item] if image is None else Sample(item[0], image, 1, item[1], []))
        return samples

    def _cropped(self, items: list[tuple[int, Draw]]) -> list[Tensor | None]:
        """Return random crops of JPEG files, None for large or damaged ones, other formats, and other batches.

        Their rectangles are drawn together, since one takes as long as many.
        """
        images: list[Tensor | None] = [None] * len(items)
        if self.crop is None or self.raw:
            return images
        with contextlib.ExitStack() as files:
            jpegs = [self._opened(self.paths[number], files) for number, _ in items]
            draws = [draw for _, draw in items if draw is not None]
            sides = [(1, 1) if jpeg is None else jpeg.sides for jpeg in jpegs]
            rectangles = self.crop.rectangles(draws, sides).T.tolist()
            for i, (jpeg, rectangle) in enumerate(zip(jpegs, rectangles, strict=True)):
                if jpeg is not None:
                    with contextlib.suppress(Exception):  # `__getitem__` finds out why
                        images[i] = self.crop.of_jpeg(jpeg, rectangle, self.reading)
        return images

    @staticmethod
    def _opened(path: str, files: contextlib.ExitStack) -> OpenJpeg | None:
        with contextlib.suppress(Exception):
            if size_of(path) <= MOST_HELD:
                return open_jpeg(files.enter_context(open_picture(path)))
        return None

    def _read(self, path: str, draw: Draw) -> Tensor:
        if self.crop is None or draw is None:
            return self.reading.cropped(read_picture(path, self.reading.background))
        return self.crop.of_file(path, draw, self.reading)

    def view(self, picture: Tensor, draw: Draw) -> Tensor:
        """Return a decoded picture (3, height, width) cropped, or resized and centre-cropped."""
        if self.crop is None or draw is None:
            return self.reading.cropped(picture)
        return self.crop.of_picture(picture, draw)


def stack_samples(samples: list[Sample]) -> tuple[Tensor, Tensor, list[Failure]]:
    found = [(one.number, one.image) for one in samples if one.image is not None]
    images = geometry.stacked([image for _, image in found]) if found else torch.empty(0, 3, 1, 1)
    index = torch.tensor([i for i, _ in found], dtype=torch.int64)
    return images, index, [failure for one in samples for failure in one.failures]


class Collate:
    """Collate function: returns a batch or, for files that a device decodes, the list of samples.

    With `shared`, tensors are moved to shared memory here or, if it is full, converted to arrays, which are sent
    through a pipe. If the sending thread ran out of shared memory instead, the batch would be lost and the run hang.
    """

    def __init__(self, raw: bool, shared: bool) -> None:
        self.raw, self.shared = raw, shared

    def __call__(self, samples: list[Sample]) -> Any:
        if self.raw:
            return [one._replace(image=self._sent(one.image)) for one in samples]
        images, index, failures = stack_samples(samples)
        return self._sent(images), index.tolist(), failures

    def _sent(self, image: Any) -> Any:
        if self.shared and image is not None:
            try:
                image.share_memory_()
            except RuntimeError:
                return image.numpy()
        return image


def why_unreadable(error: Exception) -> str:
    """Return why a file cannot be read; re-raise errors unrelated to the file, such as a lack of memory."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    if full or memory.is_out_of_memory(error) or isinstance(error, BadInput):
        raise error
    return reason(error)
