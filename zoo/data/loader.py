"""Batch loader without per-sample Python code, whose position can be saved."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from zoo.data.augment import NUM_DRAWS, Cut
from zoo.data.balanced_order import BalancedOrder
from zoo.data.batch_rng import BatchRng
from zoo.data.image_files import ImageFiles
from zoo.data.mix import Mix
from zoo.data.prefetch import prefetch_to_device
from zoo.data.reused_memory import ReusedMemory
from zoo.data.whole_pictures import PictureCrop, WholePictures
from zoo.ranges import height_width

Augmentation = Callable[[Tensor, BatchRng], Tensor]
Index = Tensor | slice
IN_CACHE = 2**18  # numbers that a CPU normalises at a time, so that they stay in its cache


class EpochOrder(Protocol):
    """Draws the numbers (N,) of an epoch's samples in their order, the same in every process."""

    def draw(self, draws: BatchRng) -> Tensor: ...


class BatchLoader:
    """Iterate over (images, labels) batches, augmented and normalised to float32 on a device.

    Images are uint8: a tensor (N, C, H, W) or whole pictures, on the device or, if it has no room, on the host; or
    files. An augmentation that is a Cut is applied first to whole pictures and to files. After augmentation, the centre
    `image_size` px are cropped.

    Labels are (N,) int64, or (N, num_classes) uint8 where an image may have several, or (N, columns) float32 if they
    are numbers; mean and std (C,) are in pixel units 0…255. With `mix`, the labels of a batch are soft labels
    (batch, num_classes), float32.

    All random numbers are a function of (seed, epoch, batch), so the state is just two integers, and after
    `load_state_dict` iteration continues with the same batches. Shuffled loaders drop an incomplete last batch. Each
    shuffled batch is split equally between `world_size` processes; unshuffled data are distributed batch by batch.

    With `balanced`, each class is equally frequent in a shuffled epoch, and its samples are repeated or left out. Any
    other order of shuffled epochs may be set as `order`.

    In shuffled batches, unreadable files are replaced by others; elsewhere they are left out.

    After `distinct_epochs`, the same batches, with the same numbers, are repeated in a new order each epoch.
    """

    def __init__(
        self,
        images: Tensor | ImageFiles | WholePictures,
        labels: Tensor,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        *,
        device: torch.device | str = "cpu",
        image_size: int | Sequence[int] | None = None,
        shuffle: bool = False,
        balanced: bool = False,
        augmentations: Sequence[Augmentation] = (),
        mix: Mix | None = None,
        distinct_epochs: int | None = None,
        num_classes: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        if image_size is None:
            assert not isinstance(images, WholePictures), "they have different sizes until they are cropped"
            image_size = (images.shape[-2], images.shape[-1])
        self.device, self.image_size = torch.device(device), image_size
        self.mean = mean.to(self.device)[:, None, None]
        self.scale = (1 / std).to(self.device)[:, None, None]
        self.shuffle, self.seed = shuffle, seed
        self.order: EpochOrder | None = BalancedOrder(labels.to(self.device)) if shuffle and balanced else None
        self.crop, self.augmentations = _apart(augmentations, images, image_size)
        self.mix, self.num_classes = mix, num_classes
        self.distinct_epochs = distinct_epochs
        self.rank, self.world_size = rank, world_size
        self.spread = False  # whether each unshuffled batch has samples from everywhere
        self.epoch = 0
        self.position = 0  # batches of this epoch yielded so far
        self._start = 0
        self._last: tuple[Tensor, int] | None = None  # last images yielded, and their batch number
        self._draws = BatchRng(0, self.device, rank, world_size)

    batch_sampler = None  # Lightning reads it in addition to `sampler`

    @property
    def sampler(self) -> "BatchLoader":
        """Return self, because Lightning calls `sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return len(self.labels) // self.batch_size
        return -(-len(self.labels) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start, self._start = self._start, 0
        memory = ReusedMemory()
        batches, parts = self._order()[start:], self.indices()
        fetched = self._fetch([parts[batch] for batch in batches], batches)
        for self.position, (batch, (images, index)) in enumerate(zip(batches, fetched, strict=True), start + 1):
            if not len(images):  # none of the files can be read
                continue
            labels = self.labels[index].to(self.device, non_blocking=True)
            if self.augmentations or self.mix:
                self._reseed(1 + batch)
            for augment in self.augmentations:
                images = augment(images, self._draws)
            images = centre(images, self.image_size)
            images = normalised(images, self.mean, self.scale, memory.empty_like(images))
            if self.mix:
                labels = labels if labels.ndim == 2 else one_hot(labels, self.num_classes)
                images, labels = self.mix(images, labels.to(torch.float32), self._draws)
            if self.distinct_epochs:
                self._last = images, self._epoch * len(self) + batch
            yield images, labels

    @property
    def _epoch(self) -> int:
        """Return the first epoch with the batches of this one."""
        return self.epoch % self.distinct_epochs if self.distinct_epochs else self.epoch

    def number_of(self, images: Tensor) -> int | None:
        """Return the number of the last batch if these are its images and it will be repeated, else None."""
        return self._last[1] if self._last is not None and self._last[0] is images else None

    def _order(self) -> Sequence[int]:
        """Return the batch numbers in iteration order, the same in every process."""
        batches = range(len(self))
        if not self.shuffle or not self.distinct_epochs:
            return batches
        return random.Random(self.seed * 1_000_003 + self.epoch).sample(batches, len(batches))

    def indices(self) -> Sequence[Index]:
        """Return the sample indices of each of this process's batches.

        Unshuffled batches have nearly equal sizes, so that every process has the same number of them without padding.
        """
        num = len(self.labels)
        if self.shuffle:
            self._reseed(0)
            order = self.order.draw(self._draws) if self.order else self._draws.permutation(num)
            order = order.to(self.labels.device)
            whole = order[: len(self) * self.batch_size].view(len(self), self.world_size, -1)
            return list(whole[:, self.rank])
        parts = len(self) * self.world_size
        if self.spread:
            return [slice(part, None, parts) for part in range(self.rank, parts, self.world_size)]
        bounds = [num * i // max(1, parts) for i in range(parts + 1)]
        return [slice(bounds[i], bounds[i + 1]) for i in range(self.rank, parts, self.world_size)]

    def _fetch(self, indices: Sequence[Index], batches: Sequence[int]) -> Iterator[tuple[Tensor, Index]]:
        """Yield images (n, C, H, W), uint8 on the device, and their numbers, for the index of each batch."""
        draws = self.crop_draws(batches)
        if isinstance(self.images, ImageFiles):
            return self.images.batches(indices, self.device, self.crop, draws, full=self.shuffle)
        if isinstance(self.images, WholePictures):
            return self._cropped(self.images, indices, draws)
        if self.images.device.type == self.device.type:
            return ((self.images[index], index) for index in indices)
        return prefetch_to_device(((self.images[index].pin_memory(), index) for index in indices), self.device)

    def crop_draws(self, batches: Sequence[int]) -> Iterator[Tensor]:
        """Yield the random numbers (NUM_DRAWS, n) of this process's crops in each of these shuffled batches."""
        num = self.batch_size // self.world_size
        seeds = (self._seed(1 + batch) for batch in batches)
        return (BatchRng(seed, "cpu", self.rank, self.world_size).crops(NUM_DRAWS, num) for seed in seeds)

    def _cropped(
        self, images: WholePictures, indices: Sequence[Index], draws: Iterator[Tensor]
    ) -> Iterator[tuple[Tensor, Index]]:
        assert self.crop is not None
        order = [index for index in indices if isinstance(index, Tensor)]
        places = torch.stack(order).cpu() if order else ()  # all in one copy, to avoid synchronising in each step
        parts: Iterator[tuple[WholePictures, Tensor]]
        parts = ((images[place], index) for place, index in zip(places, order, strict=True))
        if images.device.type != self.device.type:
            parts = prefetch_to_device(((part.pinned(), index) for part, index in parts), self.device)
        for (part, index), draw in zip(parts, draws, strict=True):
            yield self.crop.of_kept(part, draw), index

    def _reseed(self, draw: int) -> None:
        """Restart the random streams for one batch; 0 is for the epoch's order."""
        self._draws.start(self._seed(draw))

    def _seed(self, draw: int) -> int:
        """Return the seed for a batch; multiplying by primes keeps neighbouring seeds apart."""
        return ((self.seed * 1_000_003 + self._epoch) * 1_000_033 + draw) % 2**63

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self._start = state["epoch"], state["position"] % len(self)


def _apart(
    augmentations: Sequence[Augmentation], images: Tensor | ImageFiles | WholePictures, image_size: int | Sequence[int]
) -> tuple[PictureCrop | None, tuple[Augmentation, ...]]:
    """Return the random crop of whole pictures, if there is one, and all other augmentations."""
    cut = next((a for a in augmentations if isinstance(a, Cut)), None)
    if cut is None or isinstance(images, Tensor):
        return None, tuple(augmentations)
    crop = PictureCrop(cut, cut.size or height_width(image_size), images.interpolation)
    return crop, tuple(a for a in augmentations if a is not cut)


def normalised(images: Tensor, mean: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """Write (images - mean) * scale to `out`, float32 in the memory layout of images (N, C, H, W), and return it.

    `mean` and `scale` are (C, 1, 1).
    """
    rows = out
    if not out.is_contiguous():  # channels last: row-wise is many times faster than pixel-wise
        rows = out.permute(0, 2, 3, 1).flatten(2)
        mean, scale = (channels.flatten().repeat(out.shape[3]) for channels in (mean, scale))
    num = max(1, len(images) if out.device.type != "cpu" else IN_CACHE // images.shape[1:].numel())
    for pixels, part, row in zip(images.split(num), out.split(num), rows.split(num), strict=True):
        part.copy_(pixels)
        row.sub_(mean).mul_(scale)
    return out


def centre(images: Tensor, size: int | Sequence[int]) -> Tensor:
    """Crop the centre `size` px of images (N, C, H, W); shorter sides are unchanged."""
    height, width = height_width(size)
    top, left = round((images.shape[-2] - height) / 2), round((images.shape[-1] - width) / 2)
    return images[..., max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
