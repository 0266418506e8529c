"""A graph in a file, opened by its own runtime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import BadInput

Run = Callable[..., tuple[Tensor, ...]]
End = tuple[Sequence[Any], torch.dtype | None]  # a shape, with a number where it may not vary, and a type, if known


@dataclass(frozen=True)
class Opened:
    """What a file says, the shapes that its graph takes and gives (a number, or anything else where it may vary), a
    function that computes it, on the CPU, and the types of what it takes and gives, where its runtime tells them."""

    path: Path
    facts: dict[str, Any]
    takes: list[list[Any]]
    gives: list[list[Any]]
    run: Run
    takes_dtypes: Sequence[torch.dtype] = ()
    gives_dtypes: Sequence[torch.dtype] = ()

    def checked(self, takes: Sequence[End], gives: Sequence[End]) -> Run:
        """Return `run`; BadInput where the graph takes or gives something else than the file's metadata tell of.

        The first size of all is the number of samples, which may vary. What `run` gives is held against what is told,
        too, since a graph may say anything of that.
        """
        found = [*zip_longest(self.takes, self.takes_dtypes)], [*zip_longest(self.gives, self.gives_dtypes)]
        if not all(map(_fit, found, (takes, gives))):
            typed = bool(self.takes_dtypes)
            raise BadInput(
                f"{self.path} holds another net than it says: it takes {_words(found[0])} and gives "
                f"{_words(found[1])}, where its metadata tell of {_words(takes, typed)} and {_words(gives, typed)}; "
                "export it again"
            )

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            first: list[End] = [(["any", *one.shape[1:]], one.dtype) for one in inputs]
            if not _fit(first, [*zip_longest(map(_sizes, self.takes), self.takes_dtypes)]):
                raise BadInput(
                    f"{self.path} takes {_words(found[0])}, and is given {_words(first)}, as by another net's half; "
                    "export both again"
                )
            results = self.run(*inputs)
            free = [(["any", *one.shape[1:]], one.dtype) for one in results]
            if not _fit(free, gives) or any(len(one) != len(inputs[0]) for one in results):
                given = [(one.shape, one.dtype) for one in results]
                raise BadInput(
                    f"{self.path} gives {_words(given)} of {len(inputs[0])} samples, where its metadata tell of "
                    f"{_words(gives)}; export it again"
                )
            return results

        return run


def _fit(found: Sequence[End], told: Sequence[End]) -> bool:
    """Return whether what a graph takes or gives is what is told of it; what is not told may be any."""
    return len(found) == len(told) and all(map(_fits, found, told))


def _sizes(shape: Sequence[Any]) -> list[int | None]:
    """Return a shape with None for what may vary."""
    return [size if isinstance(size, int) else None for size in shape]


def _fits(found: End, told: End) -> bool:
    (shape, dtype), (sizes, kind) = found, told
    is_free = len(shape) == len(sizes) > 0 and not isinstance(shape[0], int)
    is_shape = is_free and all(size in (None, side) for side, size in zip(shape[1:], sizes[1:], strict=True))
    return is_shape and (dtype is None or kind is None or dtype == kind)


def _words(ends: Sequence[End], typed: bool = True) -> str:
    """Name the types and shapes of what a graph takes or gives: of one sample, where there may be any number."""
    told = []
    for shape, dtype in ends[:8]:
        is_free = len(shape) > 0 and not isinstance(shape[0], int)
        sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in shape[is_free:])
        told.append(f"{str(dtype).removeprefix('torch.')} [{sizes}]" if typed and dtype else f"[{sizes}]")
    return " and ".join(told) or "nothing"
