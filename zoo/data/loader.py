"""Batches cut straight from tensors: no worker processes, no per-sample Python, and a position that can be saved."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from zoo.data.mix import Mix

Augmentation = Callable[[Tensor, Generator], Tensor]


class BatchLoader:
    """Iterate over (images, labels) batches, normalised to float32, on the device where the tensors lie.

    Every random number is a function of (seed, epoch, batch), so that a state is two integers, and after
    `load_state_dict` the batches come that would have come. Shuffled loaders drop a last short batch.

    Shapes: images (N, C, H, W) uint8, labels (N,) int64, mean and std (C,) in units of a pixel's 0…255. With `mix`, the
    labels of a batch are the shares of its classes (batch, num_classes), float32.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        *,
        shuffle: bool = False,
        augmentations: Sequence[Augmentation] = (),
        mix: Mix | None = None,
        num_classes: int = 0,
        seed: int = 0,
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.mean = mean.to(images.device)[:, None, None]
        self.scale = (1 / std).to(images.device)[:, None, None]
        self.shuffle, self.augmentations, self.seed = shuffle, tuple(augmentations), seed
        self.mix, self.num_classes = mix, num_classes
        self.epoch = 0
        self.position = 0  # batches of this epoch that were handed out
        self._start = 0
        self._generator = Generator(images.device)

    batch_sampler = None  # Lightning asks for it beside `sampler`

    @property
    def sampler(self) -> "BatchLoader":
        """Offer `set_epoch` where Lightning looks for it."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size if self.shuffle else -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order()
        start, self._start = self._start, 0
        for batch in range(start, len(self)):
            self.position = batch + 1
            chosen = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            index = chosen if order is None else order[chosen]
            images, labels = self.images[index], self.labels[index]
            if self.augmentations or self.mix:
                self._reseed(1 + batch)
            for augment in self.augmentations:
                images = augment(images, self._generator)
            images = images.to(torch.float32).sub_(self.mean).mul_(self.scale)
            if self.mix:
                shares = torch.nn.functional.one_hot(labels, self.num_classes).to(torch.float32)
                images, labels = self.mix(images, shares, self._generator)
            yield images, labels

    def _order(self) -> Tensor | None:
        if not self.shuffle:
            return None
        self._reseed(0)
        return torch.randperm(len(self.labels), generator=self._generator, device=self.images.device)

    def _reseed(self, draw: int) -> None:
        """Start the stream of one batch, or with 0 of the epoch's order; primes keep neighbours' streams apart."""
        self._generator.manual_seed(((self.seed * 1_000_003 + self.epoch) * 1_000_033 + draw) % 2**63)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self._start = state["epoch"], state["position"] % len(self)
