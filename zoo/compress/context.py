"""What a compression pass gets of the run that it is part of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Measure = Callable[[nn.Module, Literal["train", "val", "test"]], dict[str, float]]


@dataclass(frozen=True)
class Context:
    """The context of a pass: `example` is what the net is called with for one sample, on the meta device.

    `batches` iterates over training batches on the CPU, `recipe` is what was done to the net before, and `measure`
    returns the metrics of a net on a split; it is there after the fit only. `init_from` is the file that the run began
    with, by the run's own config.
    """

    example: tuple[Tensor, ...]
    batches: Iterable[Any] = ()
    recipe: Sequence[Mapping[str, Any]] = ()
    measure: Measure | None = None
    init_from: str | None = None
