"""The information that a compression pass receives from its run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

Measure = Callable[[nn.Module, Literal["train", "val", "test"]], dict[str, float]]


@dataclass(frozen=True)
class Context:
    """The context of a pass: `example` has the inputs of the net for one sample, on the meta device.

    `batches` iterates over training batches on the CPU, `recipe` has the steps applied to the net before, and `measure`
    returns the metrics of a net on a split; it is set only after the fit. `init_from` is the file that the run started
    from, according to its config. Before the fit, `accuracy` measures a classifier on up to 5,000 validation images on
    the CPU, and `folder` is that of the run.
    """

    example: tuple[Tensor, ...]
    batches: Iterable[Any] = ()
    recipe: Sequence[Mapping[str, Any]] = ()
    measure: Measure | None = None
    init_from: str | None = None
    accuracy: Callable[[nn.Module], float] | None = None
    folder: Path | None = None
