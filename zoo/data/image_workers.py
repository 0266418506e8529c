"""What the worker processes that decode image files do, and what they send."""

import errno
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo import memory
from zoo.data.read_image import read_jpeg, read_picture
from zoo.errors import reason

Draw = list[float] | None  # a crop's numbers for one picture
Crop = Callable[[Tensor, Draw], Tensor]  # from a whole picture (3, height, width) to (3, side, side)
Failure = tuple[str, str]  # a file, and why it cannot be read
MOST_TRIES = 100  # to find a picture for the place of one that cannot be read


class Sample(NamedTuple):
    """What a worker process gives for a file."""

    number: int
    image: Tensor | None  # or its JPEG file's bytes
    orientation: int  # of those bytes
    draw: Draw
    failures: list[Failure]

    @property
    def is_raw(self) -> bool:
        return self.image is not None and self.image.ndim == 1


class BatchLists:
    """The (number, crop's numbers) of each batch as a list, made when it is wanted."""

    def __init__(self, indices: Sequence[Tensor | slice], num: int, draws: Iterable[Tensor] | None) -> None:
        self.indices, self.num, self.draws = indices, num, draws

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def largest(self) -> int:
        """Return how many samples the largest batch has."""
        return max((len(range(self.num)[i]) if isinstance(i, slice) else len(i) for i in self.indices), default=0)

    def __iter__(self) -> Iterator[list[tuple[int, Draw]]]:
        draws = None if self.draws is None else iter(self.draws)
        for index in self.indices:
            numbers = list(range(self.num)[index]) if isinstance(index, slice) else index.tolist()
            yield list(zip(numbers, next(draws).T.tolist() if draws else [None] * len(numbers), strict=True))


class Decoding(Dataset[Sample]):
    """Read image files as a worker process does: resized to `size` px, or cut by `crop`; with `raw`, JPEG bytes."""

    def __init__(
        self, paths: Sequence[str], size: int, background: str, crop: Crop | None, raw: bool, full: bool
    ) -> None:
        self.paths, self.size, self.background = paths, size, background
        self.crop, self.raw, self.full = crop, raw, full

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, wanted: tuple[int, Draw]) -> Sample:
        index, draw = wanted
        instead = random.Random(index)
        failures: list[Failure] = []
        for _ in range(MOST_TRIES if self.full else 1):
            path = self.paths[index]
            try:
                if self.raw and (jpeg := read_jpeg(path)):
                    return Sample(index, *jpeg, draw, failures)
                return Sample(index, self.view(read_picture(path, self.background), draw), 1, draw, failures)
            except Exception as error:  # bytes that are no image lead a decoder anywhere
                failures.append((path, why_unreadable(error)))
            index = instead.randrange(len(self.paths))
        return Sample(index, None, 1, draw, failures)

    def view(self, picture: Tensor, draw: Draw) -> Tensor:
        """Return what is to be seen of a picture (3, height, width)."""
        return resize_and_crop(picture, self.size) if self.crop is None else self.crop(picture, draw)


def stack_samples(samples: list[Sample]) -> tuple[Tensor, Tensor, list[Failure]]:
    found = [(one.number, one.image) for one in samples if one.image is not None]
    # As they lie after decoding, channels last, which copies fastest and is what nets want.
    images = torch.stack([image.permute(1, 2, 0) for _, image in found]) if found else torch.empty(0, 1, 1, 3)
    index = torch.tensor([i for i, _ in found], dtype=torch.int64)
    return images.permute(0, 3, 1, 2), index, [failure for one in samples for failure in one.failures]


class Collate:
    """What a worker process sends: a batch or, of files that a device decodes, its samples.

    Left to the thread that sends tensors, a lack of shared memory would lose the batch, and the run would wait for it
    for ever: `shared` puts them there or, where there is no room, into arrays, which go through a pipe.
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
    """Return why a file cannot be read; an error that is not the file's, such as a lack of memory, is raised again."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    if full or memory.is_out_of_memory(error):
        raise error
    return reason(error)


def resize_and_crop(image: Tensor, size: int) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.center_crop(F.resize(image, [size], antialias=True), [size, size])
