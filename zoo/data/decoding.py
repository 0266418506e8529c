"""Images in files: decoded by worker processes as they are wanted, or once for all."""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.prefetch import ahead
from zoo.errors import BadInput, reason

Decoder = Literal["cpu", "cuda"]
log = logging.getLogger("zoo")


class ImageFiles:
    """Images still in their files, where a tensor of them (N, 3, size, size) would do, too.

    The shorter side is resized to `size` px, with antialiasing, and the middle taken. Files that cannot be read are
    skipped, counted and named in the log. JPEG files can be decoded on a CUDA device instead of by workers.
    """

    def __init__(self, paths: Sequence[str], size: int, num_workers: int = 0, decoder: Decoder = "cpu") -> None:
        self.paths, self.size, self.num_workers, self.decoder = paths, size, num_workers, decoder
        self.unreadable: set[str] = set()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.size, self.size

    def __getitem__(self, index: Tensor) -> "ImageFiles":
        part = ImageFiles([self.paths[i] for i in index.tolist()], self.size, self.num_workers, self.decoder)
        part.unreadable = self.unreadable  # counted together
        return part

    def fingerprint(self) -> Tensor:
        """Give (N, 32) uint8: a digest of each file's class, name and size in bytes, wherever the folder lies."""
        names = (f"{Path(p).parent.name}/{Path(p).name} {os.path.getsize(p)}" for p in self.paths)
        digests = b"".join(hashlib.sha256(name.encode()).digest() for name in names)
        return torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(-1, 32)

    def contents(self) -> Tensor:
        """Return (N, 32) uint8: a digest of the bytes of each file, or of none where it cannot be opened."""

        def digest(path: str) -> bytes:
            try:
                return hashlib.sha256(Path(path).read_bytes()).digest()
            except OSError:
                return bytes(32)

        with ThreadPoolExecutor() as pool:
            digests = b"".join(pool.map(digest, self.paths))
        return torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(-1, 32)

    def batches(self, indices: Sequence[Tensor | slice], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Give for each index the images (n, 3, size, size), uint8 on the device, and which of all they are."""
        workers = self.num_workers
        loader: Iterable[Any] = DataLoader(
            _Decoding(self, raw=self.decoder == "cuda" and device.type == "cuda"),
            batch_sampler=_Lists(indices, len(self)),
            num_workers=workers,
            collate_fn=_together,
            pin_memory=device.type == "cuda" and self.decoder == "cpu",
            prefetch_factor=3 if workers else None,
        )
        return ahead(self._checked(loader, device), device)

    def _checked(self, loader: Iterable[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        for images, index, failures in loader:
            if isinstance(images, list):  # of JPEG's bytes
                images, index, more = self._decode_on(device, images, index)
                failures += more
            self._tell(failures)
            if not len(index):
                raise BadInput(f"none of {len(failures)} images could be read, such as {failures[0][0]}; mend the data")
            yield images, index

    def _tell(self, failures: list[tuple[str, str]]) -> None:
        for path, why in failures:
            if path not in self.unreadable:
                self.unreadable.add(path)
                log.warning("%s is skipped, since it cannot be read (%s); %d so far.", path, why, len(self.unreadable))

    def _decode_on(
        self, device: torch.device, files: list[Tensor], index: Tensor
    ) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
        """Decode JPEG files (their bytes, uint8) on a CUDA device, and those it cannot on the CPU."""
        from torchvision.io import ImageReadMode, decode_jpeg

        images, kept, failures = [], [], []

        def decoded(content: Any) -> Any:
            return decode_jpeg(content, mode=ImageReadMode.RGB, device=device)

        def by_itself(content: Tensor, i: int) -> Tensor:
            try:
                return _fitted(decoded(content), self.size)
            except RuntimeError:
                return self.read(i).to(device)

        try:
            together = decoded(files)
        except RuntimeError:  # one of them is no JPEG file; it does not say which
            together = [None] * len(files)
        for content, image, i in zip(files, together, index.tolist(), strict=True):
            try:
                images.append(by_itself(content, i) if image is None else _fitted(image, self.size))
                kept.append(i)
            except Exception as error:
                failures.append((self.paths[i], reason(error)))
        return torch.stack(images) if images else torch.empty(0), torch.tensor(kept), failures

    def read(self, i: int) -> Tensor:
        """Decode one image to (3, size, size), uint8; what is no image raises anything."""
        from torchvision.io import ImageReadMode, decode_image

        try:
            image = decode_image(self.paths[i], ImageReadMode.RGB)
        except RuntimeError:  # perhaps of a kind that only PIL knows
            return _fitted(_by_pil(self.paths[i]), self.size)
        return _fitted(image if image.dtype == torch.uint8 else _by_pil(self.paths[i]), self.size)

    def decoded(self) -> tuple[Tensor, Tensor]:
        """Decode all at once, in threads: (n, 3, size, size) uint8, and which of all they are."""
        images, kept = torch.empty(self.shape, dtype=torch.uint8), torch.ones(len(self), dtype=torch.bool)
        failures: list[tuple[str, str]] = []

        def read(i: int) -> None:
            try:
                images[i] = self.read(i)
            except Exception as error:
                kept[i] = False
                failures.append((self.paths[i], reason(error)))

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(read, range(len(self))):
                pass
        self._tell(sorted(failures))
        return (images if not failures else images[kept]), kept.nonzero().flatten()


class _Lists:
    """The indices of each batch as a list, made when it is wanted."""

    def __init__(self, indices: Sequence[Tensor | slice], num: int) -> None:
        self.indices, self.num = indices, num

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.indices:
            yield list(range(self.num)[index]) if isinstance(index, slice) else index.tolist()


class _Decoding(Dataset[Any]):
    """What a worker process does: (number, image or its file's bytes, or why there is none)."""

    def __init__(self, files: ImageFiles, raw: bool) -> None:
        self.files, self.raw = files, raw

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[int, Tensor | None, tuple[str, str] | None]:
        from torchvision.io import read_file

        path = self.files.paths[i]
        try:
            return i, read_file(path) if self.raw else self.files.read(i), None
        except Exception as error:  # bytes that are no image lead a decoder anywhere
            return i, None, (path, reason(error))


def _together(samples: list[tuple[int, Tensor | None, Any]]) -> tuple[Any, Tensor, list[tuple[str, str]]]:
    found = [(i, image) for i, image, _ in samples if image is not None]
    images: Any = [image for _, image in found]
    if not images or images[0].ndim == 3:
        # As they lie after decoding, channels last, which copies fastest and is what nets want.
        last = torch.stack([image.permute(1, 2, 0) for image in images]) if images else torch.empty(0, 1, 1, 3)
        images = last.permute(0, 3, 1, 2)
    return images, torch.tensor([i for i, _ in found]), [why for _, _, why in samples if why]


def _fitted(image: Tensor, size: int) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.center_crop(F.resize(image, [size], antialias=True), [size, size])


def _by_pil(path: str) -> Tensor:
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
