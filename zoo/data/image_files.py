"""Image files, decoded batch by batch in worker processes, or all in advance."""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo import escape, memory
from zoo.data.image_workers import (
    BatchLists,
    Collate,
    Decoding,
    Failure,
    Sample,
    stack_samples,
    why_unreadable,
)
from zoo.data.picture_parts import content_of, size_of
from zoo.data.prefetch import prefetch_to_device
from zoo.data.read_image import read_picture, upright
from zoo.data.reading import Interpolation, Reading
from zoo.data.whole_pictures import PictureCrop
from zoo.errors import BadInput, reason
from zoo.ranges import height_width

log = logging.getLogger("zoo")
Decoder = Literal["cpu", "cuda"]
NUM_SAMPLED = 500  # files per split whose content is compared, even if all are read only during training
MOST_AHEAD = 3  # batches that each worker process prefetches


class ImageFiles:
    """Images in files or in parts of files (PicturePart), usable in place of a tensor (N, 3, height, width).

    They are resized and cropped to the centre as `reading` says, or a crop is taken from the whole picture. Files that
    cannot be read are skipped, counted and logged. JPEG files can be decoded on a CUDA device instead of in workers.
    """

    def __init__(self, paths: Sequence[str], reading: Reading, num_workers: int = 0, decoder: Decoder = "cpu") -> None:
        self.paths, self.reading, self.num_workers, self.decoder = paths, reading, num_workers, decoder
        self.unreadable: set[str] = set()
        self.pipes_told = False
        self.setting = "data.root"  # where the files were found, for errors

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, *height_width(self.reading.size)

    @property
    def interpolation(self) -> Interpolation:
        return self.reading.interpolation

    def __getitem__(self, index: Tensor) -> "ImageFiles":
        paths = [self.paths[i] for i in index.tolist()]
        part = ImageFiles(paths, self.reading, self.num_workers, self.decoder)
        part.unreadable, part.setting = self.unreadable, self.setting  # shared, so that they are counted together
        return part

    def fingerprint(self) -> Tensor:
        """Return (N, 32) uint8: a digest of each file's class, name and size in bytes, independent of the folder."""
        names = (f"{Path(p).parent.name}/{Path(p).name} {size_of(p)}" for p in self.paths)
        return _rows(hashlib.sha256(os.fsencode(name)).digest() for name in names)

    def contents(self) -> Tensor:
        """Return (N, 32) uint8: a digest of each file's bytes, zeros if it cannot be opened."""

        def digest(path: str) -> bytes:
            try:
                return hashlib.sha256(content_of(path)).digest()
            except (OSError, ValueError):
                return bytes(32)

        with ThreadPoolExecutor() as pool:
            return _rows(pool.map(digest, self.paths))

    def sample(self) -> Tensor:
        """Return (N,) int64: up to 500 evenly spaced files, few enough to be read before every run."""
        return torch.linspace(0, len(self) - 1, min(len(self), NUM_SAMPLED)).round().long()

    def batches(
        self,
        indices: Sequence[Tensor | slice],
        device: torch.device,
        crop: PictureCrop | None = None,
        draws: Iterable[Tensor] = (),
        full: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each index the images (n, 3, height, width), uint8 on the device, and their numbers.

        With `crop`, `draws` yields its random numbers (any, n) for each index. With `full`, unreadable pictures are
        replaced by others; otherwise a batch may be smaller, or empty.
        """
        lists = BatchLists(indices, len(self), draws if crop else None)
        # Prefetched batches may take half of the free memory; otherwise reduce prefetching, or the number of workers.
        room = memory.available_bytes() // (2 * max(1, lists.largest * math.prod(self.shape[1:])))
        workers = min(self.num_workers, max(1, room))
        raw = self.decoder == "cuda" and device.type == "cuda"
        loader: Iterable[Any] = DataLoader(
            Decoding(self.paths, self.reading, crop, raw, full),
            batch_sampler=lists,
            num_workers=workers,
            collate_fn=Collate(raw, shared=workers > 0),
            pin_memory=device.type == "cuda" and self.decoder == "cpu",
            prefetch_factor=min(MOST_AHEAD, max(1, room // workers)) if workers else None,
        )
        batches = self._received(loader, raw)
        if raw:
            by_cpu = Decoding(self.paths, self.reading, crop, False, full)
            batches = (stack_samples(self._decode_on(device, samples, by_cpu)) for samples in batches)
        return prefetch_to_device(self._checked(batches, full), device)

    def _received(self, loader: Iterable[Any], raw: bool) -> Iterator[Any]:
        """Yield what workers send, with arrays (sent when shared memory is full) turned back into tensors."""
        try:
            batches = iter(loader)
        except OSError as error:  # no room for semaphores in /dev/shm, or too many processes
            raise BadInput(
                f"data.num_workers={self.num_workers}: no worker process can be started ({reason(error)}); "
                "use data.num_workers=0"
            ) from error
        for batch in _without_traceback(batches):
            if raw:
                yield [one._replace(image=self._tensor(one.image)) for one in batch]
            else:
                images, index, failures = batch
                yield self._tensor(images), torch.tensor(index, dtype=torch.int64), failures

    def _tensor(self, sent: Any) -> Any:
        if not isinstance(sent, np.ndarray):
            return sent
        if not self.pipes_told:
            self.pipes_told = True
            log.warning(
                "/dev/shm has no room for the batches of %d worker processes; they are sent through pipes, which is "
                "slower. In a container, use `docker run --shm-size=2g`, or --ipc=host.",
                self.num_workers,
            )
        return torch.from_numpy(sent)

    def _checked(
        self, loader: Iterable[tuple[Tensor, Tensor, list[Failure]]], full: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for images, index, failures in loader:
            self._tell(failures)
            if full and not len(index):
                raise BadInput(
                    f"{self.setting}: expected readable pictures, got {len(failures)} unreadable ones, such as "
                    f"{_printable(failures[0][0])} ({failures[0][1]})"
                )
            yield images, index

    def _tell(self, failures: Sequence[Failure]) -> None:
        for path, why in failures:
            if path not in self.unreadable:
                self.unreadable.add(path)
                num, name = len(self.unreadable), _printable(path)
                log.warning("Skipping %s, which cannot be read (%s); %d so far.", name, why, num)

    def _decode_on(self, device: torch.device, samples: list[Sample], by_cpu: Decoding) -> list[Sample]:
        """Decode the JPEG files among samples on a CUDA device, falling back to the CPU."""
        from torchvision.io import ImageReadMode, decode_jpeg

        def decoded(content: Any) -> Any:
            return decode_jpeg(content, mode=ImageReadMode.RGB, device=device)

        def on_device(sample: Sample, image: Tensor | None) -> Sample:
            assert sample.image is not None
            try:
                image = upright(decoded(sample.image) if image is None else image, sample.orientation)
                return sample._replace(image=by_cpu.view(image, sample.draw))
            except RuntimeError:
                return by_cpu[sample.number, sample.draw]

        files = [one.image for one in samples if one.is_raw]
        try:
            together = iter(decoded(files) if files else ())
        except RuntimeError:  # the device cannot decode one of them, but does not report which
            together = iter([None] * len(files))
        done = [on_device(one, next(together)) if one.is_raw else one for one in samples]
        return [one if one.image is None else one._replace(image=one.image.to(device)) for one in done]

    def read(self, i: int) -> Tensor:
        """Decode one image to (3, height, width), uint8; may raise any exception if it is not an image."""
        return self.reading.cropped(read_picture(self.paths[i], self.reading.background))

    def can_read(self, i: int) -> bool:
        """Return whether an image can be decoded; log the reason if not."""
        try:
            self.read(i)
        except Exception as error:
            self._tell([(self.paths[i], why_unreadable(error))])
            return False
        return True

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Decode all images, in threads: (n, 3, height, width) uint8, and their numbers."""
        images = torch.empty(self.shape, dtype=torch.uint8)

        def read(i: int) -> None:
            images[i] = self.read(i)

        kept = self.each(read)
        return _moved_up(images, kept), kept

    def each(self, read: Callable[[int], None]) -> Tensor:
        """Call `read` with the number of each file, in threads, and return the numbers for which it succeeded."""
        kept = torch.ones(len(self), dtype=torch.bool)
        failures: list[Failure] = []

        def tried(i: int) -> None:
            try:
                read(i)
            except Exception as error:  # a decoder may raise anything on bytes that are not an image
                kept[i] = False
                failures.append((self.paths[i], why_unreadable(error)))

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(tried, range(len(self))):
                pass
        self._tell(sorted(failures))
        return kept.nonzero().flatten()


def _without_traceback(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; a BadInput of a worker process, which comes with its traceback, becomes its sentence again."""
    try:
        yield from batches
    except BadInput as error:
        raise BadInput(str(error).strip().splitlines()[-1].removeprefix("zoo.errors.BadInput: ")) from error


def _moved_up(images: Tensor, kept: Tensor) -> Tensor:
    """Return the kept images, moved to the front in place, since a copy might not fit into memory."""
    if len(kept) < len(images):
        for to, place in enumerate(kept.tolist()):
            images[to] = images[place]
    return images[: len(kept)]


def _printable(path: str) -> str:
    """Escape bytes of a name that are not UTF-8, and line breaks, as \\x.. and \\n."""
    return escape.line(os.fsencode(path).decode(errors="backslashreplace"))


def _rows(digests: Iterable[bytes]) -> Tensor:
    """Return digests as (N, 32) uint8."""
    content = bytearray().join(digests)
    return (torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)).view(-1, 32)
