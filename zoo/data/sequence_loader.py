"""Batches of sequences of similar length, from tensors on the device."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.batch_rng import BatchRng


@dataclass(frozen=True)
class Sequences:
    """Sources (N, S), targets (N, T) and their references (N, R, T), int64, padded with 0, and lengths (N, 2).

    Lengths are those of source and target, kept on the host to avoid synchronising with the device.
    """

    sources: Tensor
    targets: Tensor
    references: Tensor | None
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.sources)

    def to(self, device: torch.device) -> "Sequences":
        references = None if self.references is None else self.references.to(device)
        return Sequences(self.sources.to(device), self.targets.to(device), references, self.lengths)


class SequenceLoader:
    """Iterate over (sources, targets) or, if there are references, (sources, targets, references).

    When shuffling, each batch contains pairs of similar length; their grouping and the order of batches are drawn again
    every epoch. A batch has `batch_size` pairs, and an incomplete one is dropped; or, with `batch_tokens`, it has as
    many as have this number of tokens at most (sources and targets together, without padding), all batches have about
    equally many tokens, and no pair is dropped. As in BatchLoader, random numbers depend on (seed, epoch) only, the
    state is two integers, and each of `world_size` processes gets an equal share of each shuffled batch.
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        batch_tokens: int | None = None,
        *,
        device: torch.device | str = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.device = torch.device(device)
        self.sequences = sequences.to(self.device)
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.spread = False  # whether each unshuffled batch has samples from everywhere
        self.epoch = 0
        self.position = 0  # batches of this epoch yielded so far
        self._start = 0
        self._last: tuple[Tensor, Tensor] | None = None  # last sources yielded, and the indices of their pairs

    batch_sampler = None  # Lightning reads it in addition to `sampler`

    @property
    def sampler(self) -> "SequenceLoader":
        """Return self, because Lightning calls `sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle and self.batch_tokens:
            return -(-int(self.sequences.lengths.sum()) // self.batch_tokens)
        if self.shuffle:
            return len(self.sequences) // self.batch_size
        return -(-len(self.sequences) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        start, self._start = self._start, 0
        batches, data = self._indices(), self.sequences
        sizes = [data.lengths[batch].amax(0).tolist() for batch in batches]
        bounds = torch.tensor([0, *map(len, batches)]).cumsum(0).tolist()
        order = torch.cat(batches).to(self.device)  # in one copy, not one per batch
        for number in range(start, len(batches)):
            self.position = number + 1
            index = order[bounds[number] : bounds[number + 1]]
            source, target = sizes[number]
            batch = data.sources[:, :source][index], data.targets[:, :target][index]
            self._last = batch[0], index
            yield batch if data.references is None else (*batch, data.references[index])

    def indices_of(self, sources: Tensor) -> Tensor | None:
        """Return which pairs are in the last batch (N), if these are its sources, else None."""
        return self._last[1] if self._last is not None and self._last[0] is sources else None

    def _indices(self) -> list[Tensor]:
        """Return the indices of the pairs in each of this process's batches."""
        num, lengths = len(self.sequences), self.sequences.lengths
        if not self.shuffle:
            parts = len(self) * self.world_size
            if self.spread:
                return [torch.arange(part, num, parts) for part in range(self.rank, parts, self.world_size)]
            return list(torch.arange(num).tensor_split(parts)[self.rank :: self.world_size])
        draws = BatchRng((self.seed * 1_000_003 + self.epoch) * 1_000_033 % 2**63)
        order = draws.permutation(num)
        if not self.batch_tokens:
            order = order[: len(self) * self.batch_size]
        order = order[(lengths[order] @ torch.tensor([1000, 1])).argsort(stable=True)]
        batches = self._cut(order)
        mine = (batches[i].tensor_split(self.world_size) for i in draws.permutation(len(self)).tolist())
        return [parts[self.rank] for parts in mine]  # of similar length in all processes

    def _cut(self, order: Tensor) -> tuple[Tensor, ...]:
        """Cut indices into len(self) batches of equally many pairs, or of about equally many tokens."""
        if not self.batch_tokens:
            return order.split(self.batch_size)
        ends = self.sequences.lengths[order].sum(1).cumsum(0)
        batch = (ends - 1) * len(self) // ends[-1]
        return order.split(batch.bincount(minlength=len(self)).tolist())

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self._start = state["epoch"], state["position"] % len(self)
