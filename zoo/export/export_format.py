"""The interface of export formats: a class `Format` in a module zoo/export/format_NAME.py, found by this name.

docs/extending.md has an example.
"""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.checkpoint.product_file import Product
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices
from zoo.export.parts import ExportPart, parts
from zoo.export.runtime import LoadedGraph

PREFIX = "format_"
# Allowed difference of a logit, relative to the largest one or, if that is below 1, to 1. In fp16 torch itself is 2 %
# off for some images; in int8 logits differ by whole steps, and accuracy decides.
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 5e-2, "int8": float("inf")}


@dataclass(frozen=True)
class Job:
    """What is exported: a product, its net in eval mode, its data, and the facts to store in the files."""

    product: Product
    net: nn.Module
    data: ResidentData
    facts: dict[str, Any]
    cfg: DictConfig

    def write_parts(self, path: Path, save: Callable[[Path, ExportPart, dict[str, Any]], None]) -> list[Path]:
        """Write each part of the net (one for images, encoder and step for sequences) and return the files."""
        written = []
        for part, ending, facts in self._parts():
            written.append(path.with_stem(path.stem + ending))
            save(written[-1], part, facts)
        return written

    def _parts(self) -> Iterator[tuple[ExportPart, str, dict[str, Any]]]:
        """Yield each part of the net, the suffix of its file name, and the facts to store in it."""
        for name, part in parts(self.net, self.facts).items():
            facts = {**self.facts, "export": {**self.facts["export"], "part": name}}
            yield part, f"_{name}" if name else "", facts


class ExportFormat:
    """A format: its file name, the precision of its numbers, and the runtime that computes it.

    It writes other files `beside` its own. A `smaller` format must take fewer bytes than the weights. With
    `runs_alone`, zoo/export/worker.py computes it without the zoo; other files are computed by the zoo in a separate
    process. Only a format that `bakes` takes pixels with `bake`; one with `takes_pixels` always does. One that
    `needs_int8` writes only nets in int8. Logits may differ from those of the checkpoint by `tolerance`, relative to
    the largest.
    """

    file: ClassVar[str]
    runtime: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    precision: ClassVar[str] = "fp32"
    smaller: ClassVar[bool] = False
    runs_alone: ClassVar[bool] = False
    bakes: ClassVar[bool] = False
    takes_pixels: ClassVar[bool] = False
    needs_int8: ClassVar[bool] = False
    open: Callable[[Path], LoadedGraph] | None = None  # reads a file back for evaluation by the zoo, or None

    def precision_with(self, cfg: DictConfig) -> str:
        """Return the precision of a float net's file with these settings."""
        return self.precision

    def check(self) -> None:
        """Raise BadInput if this machine cannot write the format."""

    def write(self, path: Path, job: Job) -> list[Path]:
        """Write the file or files of a net, and return their paths."""
        raise NotImplementedError

    def tolerance(self, precision: str) -> float:
        return TOLERANCES[precision]

    def mismatch(self, logits: Sequence[Tensor], job: Job) -> str | None:
        """Return why the logits that a file returned for the batches of the test set are wrong, or None."""
        return None


@functools.cache
def format_names() -> list[str]:
    return sorted(file.stem.removeprefix(PREFIX) for file in Path(__file__).parent.glob(f"{PREFIX}*.py"))


@functools.cache
def format_of(name: str) -> ExportFormat:
    """Return a format by its name; raise BadInput if it does not exist."""
    if name not in format_names():
        raise BadInput(f"format={name} is not an export format; {choices(str(name), format_names())}")
    found: ExportFormat = importlib.import_module(f"zoo.export.{PREFIX}{name}").Format()
    return found


@functools.cache
def openers() -> dict[str, Callable[[Path], LoadedGraph]]:
    """Return the functions that read a file back, by file name suffix."""
    formats = [format_of(name) for name in format_names()]
    return {Path(one.file).suffix: one.open for one in formats if one.open is not None}
