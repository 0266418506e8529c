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
End = tuple[Sequence[Any], torch.dtype | None]  # a shape, with numbers for fixed sizes, and a type, if known


@dataclass(frozen=True)
class LoadedGraph:
    """The facts of a file, the shapes of its graph's inputs and outputs (numbers for fixed sizes, anything else for
    dynamic ones), a function that runs it on the CPU, and the types of inputs and outputs, if the runtime has them."""

    path: Path
    facts: dict[str, Any]
    takes: list[list[Any]]
    gives: list[list[Any]]
    run: Run
    takes_dtypes: Sequence[torch.dtype] = ()
    gives_dtypes: Sequence[torch.dtype] = ()

    def checked(self, takes: Sequence[End], gives: Sequence[End]) -> Run:
        """Return `run`; raise BadInput if the graph's inputs or outputs differ from the file's metadata.

        The first size of each is the number of samples, which may vary. The results of `run` are checked as well, since
        a graph may declare any shape.
        """
        found = [*zip_longest(self.takes, self.takes_dtypes)], [*zip_longest(self.gives, self.gives_dtypes)]
        if not all(map(_fit, found, (takes, gives))):
            typed = bool(self.takes_dtypes)
            raise BadInput(
                f"{self.path} does not match its metadata: it takes {_words(found[0])} and returns "
                f"{_words(found[1])}, expected {_words(takes, typed)} and {_words(gives, typed)}; "
                "export it again"
            )

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            first: list[End] = [(["any", *one.shape[1:]], one.dtype) for one in inputs]
            if not _fit(first, [*zip_longest(map(_sizes, self.takes), self.takes_dtypes)]):
                raise BadInput(
                    f"{self.path} takes {_words(found[0])}, got {_words(first)}: the other file is of a different net; "
                    "export both again"
                )
            results = self.run(*inputs)
            free = [(["any", *one.shape[1:]], one.dtype) for one in results]
            if not _fit(free, gives) or any(len(one) != len(inputs[0]) for one in results):
                given = [(one.shape, one.dtype) for one in results]
                raise BadInput(
                    f"{self.path} returns {_words(given)} for {len(inputs[0])} samples, where its metadata give "
                    f"{_words(gives)}; export it again"
                )
            return results

        return run


def _fit(found: Sequence[End], expected: Sequence[End]) -> bool:
    """Return whether a graph's inputs or outputs match the expected ones; unspecified sizes and types match any."""
    return len(found) == len(expected) and all(map(_fits, found, expected))


def _sizes(shape: Sequence[Any]) -> list[int | None]:
    """Return a shape with None for dynamic sizes."""
    return [size if isinstance(size, int) else None for size in shape]


def _fits(found: End, expected: End) -> bool:
    (shape, dtype), (sizes, kind) = found, expected
    is_free = len(shape) == len(sizes) > 0 and not isinstance(shape[0], int)
    is_shape = is_free and all(size in (None, side) for side, size in zip(shape[1:], sizes[1:], strict=True))
    return is_shape and (dtype is None or kind is None or dtype == kind)


def _words(ends: Sequence[End], typed: bool = True) -> str:
    """Describe the types and shapes of a graph's inputs or outputs, per sample if the number of samples may vary."""
    expected = []
    for shape, dtype in ends[:8]:
        is_free = len(shape) > 0 and not isinstance(shape[0], int)
        sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in shape[is_free:])
        expected.append(f"{str(dtype).removeprefix('torch.')} [{sizes}]" if typed and dtype else f"[{sizes}]")
    return " and ".join(expected) or "nothing"
