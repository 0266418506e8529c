"""Sequence pairs as a LightningDataModule, kept on the training device."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from zoo.data.module import ResidentData, Split
from zoo.data.pair_splits import SplitRule, split_pairs
from zoo.data.pairs import Pairs, Symbols, Unit, cmudict, reversed_letters, split_text, tab_separated
from zoo.data.sequence_loader import SequenceLoader, Sequences
from zoo.errors import BadInput, shown
from zoo.ranges import Count, Range

PAD, START, END = SPECIALS = range(3)
NAMES_OF_SPECIALS = ["<pad>", "<start>", "<end>"]


@dataclass(frozen=True)
class SequenceFacts:
    """Facts about the data stored in a product file; a symbol's index in its list is its token.

    `example` is the typical length of a source and of a target: the mean over the training pairs, rounded up.
    """

    source_symbols: list[str]
    target_symbols: list[str]
    source_unit: Unit
    max_length: int
    example: list[int]
    split_hash: str
    num_samples: dict[str, int]


class SequenceData(ResidentData):
    """Turn pairs of symbols into tokens, split them, and yield padded batches of similar length.

    The split is that of `zoo.data.pair_splits.split_pairs`. All references of a source go with it: in training each is
    a pair, and metrics are computed against all of them. A training batch has `batch_size` pairs, or, if `batch_tokens`
    is given, as many as have this number of tokens, sources and targets together. `num_source_tokens` and
    `num_target_tokens` are passed to the net, and checked if given.

    Raises BadInput if a split is empty, a sequence has more than `max_length` symbols, or a size is wrong.
    """

    kind = "sequences"

    def __init__(
        self,
        source: Callable[[], Pairs],
        num_source_tokens: Count | None = None,
        num_target_tokens: Count | None = None,
        source_unit: Unit = "character",
        max_length: Count = 64,
        batch_size: Count = 256,
        batch_tokens: Count | None = None,
        eval_batch_size: Count = 500,
        seed: int = 0,
        split: SplitRule = "hash",
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        self.source, self.split, self.batch_tokens = source, split, batch_tokens
        self.num_source_tokens, self.num_target_tokens = num_source_tokens, num_target_tokens
        self.source_unit, self.max_length = source_unit, max_length
        self.splits: dict[str, Sequences] = {}
        self.pairs: dict[str, Pairs] = {}
        self.further_hash: str | None = None  # of the pairs that `extend` added

    def load(self) -> SequenceFacts:
        """Read, check, split and encode the pairs once; later calls return the same facts."""
        if not self.splits:
            pairs = self.source()
            self.pairs = split_pairs(pairs, self.split)
            self._check(pairs)
            read, written = alphabet(pairs), alphabet(one for references in pairs.values() for one in references)
            for name, found in (("num_source_tokens", len(read)), ("num_target_tokens", len(written))):
                if getattr(self, name) not in (None, found):
                    raise BadInput(f"data.{name}={getattr(self, name)} is wrong: the data have {found}")
            self.splits = {
                name: encode_pairs(part, read, written, with_references=name != "train")
                for name, part in self.pairs.items()
            }
            lengths = self.splits["train"].lengths.double().mean(0).ceil().int().tolist()
            self.facts = SequenceFacts(
                source_symbols=read,
                target_symbols=written,
                source_unit=self.source_unit,
                max_length=self.max_length,
                example=lengths,
                split_hash=hash_of(self.pairs),
                num_samples={name: len(part) for name, part in self.splits.items()},
            )
            self._check_batch()
        return self.facts

    def _check_batch(self) -> None:
        """Raise BadInput unless each process gets a pair of each training batch."""
        lengths = self.splits["train"].lengths.sum(1)
        if not self.batch_tokens:
            if self.batch_size > len(lengths):
                raise BadInput(f"data.batch_size={self.batch_size} is larger than the {len(lengths)} training pairs")
            return
        # An epoch of `total` tokens has ⌈total / budget⌉ equal batches, so that each has more than half of the budget
        least, total = 2 * int(lengths.max()) * (self.trainer.world_size if self.trainer else 1), int(lengths.sum())
        if not least <= self.batch_tokens <= total:
            raise BadInput(f"data.batch_tokens={self.batch_tokens}: expected {least} to {total}, for these data")

    def extend(self, pairs: Pairs) -> None:
        """Add pairs for training, which are not among the facts; all their symbols must be in the data."""
        facts = self.load()
        self.further_hash = hash_of({"train": pairs})
        self.splits["train"] = encode_pairs(
            self.pairs["train"] | pairs, facts.source_symbols, facts.target_symbols, with_references=False
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "further_hash": self.further_hash}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if state.get("further_hash") != self.further_hash:
            raise BadInput(
                "task.words: its pairs are not those that the run began with; restore the file and the teachers"
            )

    def test_hash(self) -> str:
        self.load()
        return hash_of({"test": self.pairs["test"]})

    def _check(self, pairs: Pairs) -> None:
        for name, part in self.pairs.items():
            if not part:
                raise BadInput(f"the {len(pairs)} sources of these data leave none for {name}; add more")
        longest = max(len(sequence) for source, found in pairs.items() for sequence in (source, *found))
        if longest > self.max_length:
            raise BadInput(f"data.max_length={self.max_length} is too small: the data have sequences of {longest}")

    def loader(self, split: Split, device: torch.device | str) -> SequenceLoader:
        """Return the batches of a split on a device; training batches are shuffled, all others have references."""
        self.load()
        training = split == "train"
        if training:
            self._check_batch()  # once more, since now the number of processes is known
        return SequenceLoader(
            self.splits[split],
            self.batch_size if training else self.eval_batch_size,
            self.batch_tokens,
            device=device,
            shuffle=training,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def encode(self, text: str) -> Tensor:
        return encode_source(text, self.load())

    def opened(self, written: Tensor) -> Tensor:
        """Prepend START to an output (1, T), and remove its padding."""
        return torch.cat([written.new_tensor([[START]]), written[written != PAD][None]], 1)

    def names(self, source: Tensor, target: Tensor) -> tuple[list[str], list[str]]:
        """Return the symbols of a source (1, S), and the symbol after each position of a target (1, T)."""
        facts = self.load()
        written = [facts.target_symbols[token] for token in target[0, 1:].tolist()]
        return [facts.source_symbols[token] for token in source[0].tolist()], [*written, "end"]

    def usual_sources(self, num: int) -> list[str]:
        """Return validation sources of medium length."""
        sources = list(self.pairs["val"])
        join = "" if self.source_unit == "character" else " "
        return [join.join(source) for source in sources[len(sources) // 2 :][:num]]

    def sizes(self) -> dict[str, int]:
        facts = self.load()
        return {"num_source_tokens": len(facts.source_symbols), "num_target_tokens": len(facts.target_symbols)}

    def random_batch(self, num: int, device: torch.device) -> tuple[Tensor, ...]:
        sizes = zip(self.load().example, self.sizes().values(), strict=True)
        source, target = (torch.randint(len(SPECIALS), end, (num, length), device=device) for length, end in sizes)
        return source, target

    def example(self) -> tuple[Tensor, ...]:
        return tuple(torch.ones(1, length, dtype=torch.int64, device="meta") for length in self.load().example)


class CMUdict(SequenceData):
    """Letters to phonemes, from the CMU Pronouncing Dictionary; `stress` keeps the stress of vowels."""

    def __init__(self, stress: bool = False, **settings: Any) -> None:
        super().__init__(partial(cmudict, stress), **settings)


class PairsInFile(SequenceData):
    """Pairs from a user's file, with one source, tab, target per line."""

    def __init__(
        self,
        path: str,
        source_unit: Unit = "character",
        target_unit: Unit = "word",
        max_length: Count = 64,
        **settings: Any,
    ) -> None:
        source = partial(tab_separated, path, source_unit, target_unit, max_length)
        super().__init__(source, source_unit=source_unit, max_length=max_length, **settings)


class ReversedLetters(SequenceData):
    """Words over eight letters, to be reversed, for tests: a net with attention learns this in a minute."""

    def __init__(self, num_pairs: Annotated[int, Range(1, 10**6)] = 2000, **settings: Any) -> None:
        super().__init__(partial(reversed_letters, num_pairs), **settings)


def hash_of(parts: Mapping[str, Pairs]) -> str:
    """Hash all pairs of all parts, in order: equal hashes mean the same pairs in each."""
    text = json.dumps([list(part.items()) for part in parts.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def alphabet(sequences: Iterable[Symbols]) -> list[str]:
    """Return the names of all tokens: padding, start and end, followed by all symbols, sorted."""
    return NAMES_OF_SPECIALS + sorted({symbol for sequence in sequences for symbol in sequence})


def encode_pairs(
    pairs: Pairs, source_symbols: Sequence[str], target_symbols: Sequence[str], with_references: bool
) -> Sequences:
    """Turn pairs into tokens, with one row per source and its references, or without them one row per reference."""
    sources, targets = ({symbol: token for token, symbol in enumerate(s)} for s in (source_symbols, target_symbols))
    rows = [
        ([*map(sources.__getitem__, read)], [[*map(targets.__getitem__, one)] for one in references])
        for read, found in pairs.items()
        for references in ([found] if with_references else [[one] for one in found])
    ]
    framed = [[START, *references[0], END] for _, references in rows]
    return Sequences(
        padded([read for read, _ in rows]),
        padded(framed),
        padded_twice([references for _, references in rows]) if with_references else None,
        torch.tensor([[len(read), len(target)] for (read, _), target in zip(rows, framed, strict=True)]),
    )


def encode_source(text: str, facts: SequenceFacts) -> Tensor:
    """Return a text's tokens (1, S); unknown symbols are lower-cased.

    Raises BadInput for a symbol that is not in the data, and for an empty or too long text.
    """
    tokens = {symbol: token for token, symbol in enumerate(facts.source_symbols)}
    symbols = [s if s in tokens else s.lower() for s in split_text(text, facts.source_unit)]
    if foreign := [s for s in symbols if tokens.get(s, PAD) not in range(len(SPECIALS), len(tokens))]:
        known = " ".join(facts.source_symbols[len(SPECIALS) :][:100])
        raise BadInput(f"{shown(text)} has '{foreign[0]}', which the net was not trained on; it knows {known}")
    if not 0 < len(symbols) <= facts.max_length:
        raise BadInput(f"{shown(text)} has {len(symbols)} symbols; expected 1 to {facts.max_length}")
    return torch.tensor([[tokens[s] for s in symbols]])


def decode_tokens(tokens: Iterable[int], symbols: Sequence[str]) -> Symbols:
    """Return the symbols of tokens up to the first padding or end token."""
    found = []
    for token in tokens:
        if token in (PAD, END):
            break
        found.append(symbols[token])
    return tuple(found)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of tokens as one tensor (N, maximum length)."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), PAD)
    is_token = torch.arange(tokens.shape[1]) < lengths[:, None]
    tokens[is_token] = torch.tensor([*itertools.chain(*rows)], dtype=torch.int64)
    return tokens


def padded_twice(rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Return references as one tensor (N, maximum number, maximum length); missing references are all padding."""
    most = max(map(len, rows))
    flat = padded([one for row in rows for one in [*row, *[[]] * (most - len(row))]])
    return flat.view(len(rows), most, -1)
