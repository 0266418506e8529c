"""A graph in a file, opened by its own runtime."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Opened:
    """What a file says, the shapes that its graph takes and gives (a number, or anything else where it may vary), and
    a function that computes it, on the CPU."""

    path: Path
    facts: dict[str, Any]
    takes: list[list[Any]]
    gives: list[list[Any]]
    run: Run
