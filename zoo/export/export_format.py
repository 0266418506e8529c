"""What an export format is: a class `Format` in a module zoo/export/format_NAME.py, found by this name.

docs/extending.md shows one.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig
from torch import nn

from zoo.checkpoint.product_file import Product
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices
from zoo.export.parts import Part, parts
from zoo.export.runtime import Opened

PREFIX = "format_"
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 5e-2, "int8": float("inf")}


@dataclass(frozen=True)
class Job:
    """What is to be exported: a product, its net in eval mode, its data, and what the format's files shall say."""

    product: Product
    net: nn.Module
    data: ResidentData
    facts: dict[str, Any]
    cfg: DictConfig

    def write_parts(self, path: Path, save: Callable[[Path, Part, dict[str, Any]], None]) -> list[Path]:
        """Write each part of the net, of images one, of sequences encoder and step, and return the files."""
        written = []
        for part, ending, facts in self._parts():
            written.append(path.with_stem(path.stem + ending))
            save(written[-1], part, facts)
        return written

    def _parts(self) -> Iterator[tuple[Part, str, dict[str, Any]]]:
        """Yield each part of the net, how the name of its file ends, and what that shall say."""
        for name, part in parts(self.net, self.facts).items():
            facts = {**self.facts, "export": {**self.facts["export"], "part": name}}
            yield part, f"_{name}" if name else "", facts


class ExportFormat:
    """A format: its file's name, in which precision its numbers are, and which runtime computes it.

    A format that is `smaller` claims to take fewer bytes than the weights. `runs_alone` says that zoo/export/worker.py
    computes it without the zoo; other files are computed by the zoo in a process of its own. Logits may differ from
    the checkpoint's by `tolerance`, relative to the largest.
    """

    file: ClassVar[str]
    runtime: ClassVar[str]
    precision: ClassVar[str] = "fp32"
    smaller: ClassVar[bool] = False
    runs_alone: ClassVar[bool] = False
    open: Callable[[Path], Opened] | None = None  # reads a file back, so that the zoo can evaluate it; or None

    def check(self) -> None:
        """Raise BadInput where this machine cannot write the format."""

    def write(self, path: Path, job: Job) -> list[Path]:
        """Write the file or files of a net, and return their paths."""
        raise NotImplementedError

    def tolerance(self, precision: str) -> float:
        return TOLERANCES[precision]


@functools.cache
def format_names() -> list[str]:
    return sorted(file.stem.removeprefix(PREFIX) for file in Path(__file__).parent.glob(f"{PREFIX}*.py"))


@functools.cache
def format_of(name: str) -> ExportFormat:
    """Return a format by its name; BadInput where there is no such format."""
    if name not in format_names():
        raise BadInput(f"format={name} is not an export format; {choices(str(name), format_names())}")
    found: ExportFormat = importlib.import_module(f"zoo.export.{PREFIX}{name}").Format()
    return found


@functools.cache
def openers() -> dict[str, Callable[[Path], Opened]]:
    """Return what reads a file back, by the ending of its name."""
    formats = [format_of(name) for name in format_names()]
    return {Path(one.file).suffix: one.open for one in formats if one.open is not None}
