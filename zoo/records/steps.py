"""Records of a recipe's steps, which describe what each pass did, so that it can be replayed on another net.

A pass that adds a step is a module of zoo/compress or zoo/quantize with the same name. Its class `StepRecord` is the
schema of the step. If it changes more than the sizes of layers, its function `replay(net, step)` changes a net of the
original shape to the shape after the step, with zeros as weights.
"""

import functools
import importlib
from types import ModuleType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from zoo.paths import PACKAGE

ROOMS = ("compress", "quantize")

Text = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Names = Annotated[list[Name], Meta(max_length=100_000)]
Count = Annotated[int, Meta(ge=0, lt=2**62)]
Size = Annotated[int, Meta(ge=1, lt=2**31)]
MAX_STEPS = 10_000  # in a program; ResNet-152 in int8 has fewer than 2,000


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A frozen record that rejects unknown keys."""


class Layout(Record, frozen=True):
    """A module after a step: its sizes, the shapes of its tensors (null: unchanged), and unsaved buffers."""

    sizes: dict[Name, Size | Annotated[list[Size], Meta(max_length=8)]] = {}
    shapes: dict[Name, Annotated[list[Size | None], Meta(max_length=8)]] = {}
    unsaved: dict[Name, list[Any]] = {}


@functools.cache
def _modules() -> dict[str, str]:
    """Return the modules of passes by name, so that names from a file cannot import anything else."""
    return {file.stem: f"zoo.{room}.{file.stem}" for room in ROOMS for file in (PACKAGE / room).glob("*.py")}


def module_of(name: Any) -> ModuleType:
    """Return the module of a pass; raise ValueError if there is no such pass."""
    module = importlib.import_module(_modules()[name]) if isinstance(name, str) and name in _modules() else None
    if module is None or not hasattr(module, "StepRecord"):
        raise ValueError(f"its recipe has an unknown pass: {str(name)[:80]!r}")
    return module


def check_step(step: Any) -> None:
    """Raise ValueError unless a step matches the record of its pass."""
    if not isinstance(step, dict):
        raise ValueError("a step of its recipe is not a mapping")
    fields = {key: value for key, value in step.items() if key != "pass"}
    msgspec.convert(fields, type=module_of(step.get("pass")).StepRecord)
