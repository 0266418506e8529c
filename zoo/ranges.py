"""Types of settings with their ranges, used as annotations: `dropout: Share = 0.1`. Does not import torch."""

import collections.abc
import math
import sys
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from zoo.errors import choices, nearest


@dataclass(frozen=True)
class Range:
    """Range of a number; the bounds are inclusive unless `above` or `below` is set."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False  # exclude `least`
    below: bool = False  # exclude `most`

    def holds(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        low = f"above {self.least}" if self.above else f"of at least {self.least}"
        if self.most == math.inf:
            return low
        if not self.above and not self.below:
            return f"from {self.least} to {self.most}"
        return f"{low} and {'below' if self.below else 'at most'} {self.most}"


class NotEmpty:
    """Reject an empty string or list."""

    def holds(self, value: Any) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "that is not empty"


class PlainName:
    """Reject anything but the name of a single visible folder, such as `..`, `a/b`, or a text with a line break."""

    def holds(self, value: Any) -> bool:
        text = str(value)  # the command line parses 7 and nan as numbers
        is_word = isinstance(value, str | int | float) and not isinstance(value, bool) and bool(text.strip())
        return is_word and text.isprintable() and "/" not in text and not text.startswith(".")

    def __str__(self) -> str:
        return "the name of a folder, without slashes or a leading dot"


class HeightAndWidth:
    """Say what the two numbers of a size are."""

    def holds(self, value: Any) -> bool:
        return True

    def __str__(self) -> str:
        return "(height, width)"


Count = Annotated[int, Range(1)]
Index = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
Between = Annotated[float, Range(0, 1, above=True, below=True)]
Text = Annotated[str, NotEmpty()]
ImageSize = Count | Annotated[tuple[Count, Count], HeightAndWidth()]  # in px; one number is the side of a square

# Ranges missing from the annotations of libraries: by parameter, for everything defined below a module.

MOST_DEVICES = 4096  # of one machine
OF_LIBRARIES: dict[str, dict[str, Any]] = {
    "torch.optim": {
        "lr": Positive,
        "momentum": BelowOne,
        "alpha": BelowOne,
        "rho": BelowOne,
        "betas": tuple[BelowOne, BelowOne],
        "dampening": Share,
        "eps": Positive,
        "weight_decay": NotNegative,
        "lr_decay": NotNegative,
        "momentum_decay": NotNegative,
        "initial_accumulator_value": NotNegative,
    },
    "lightning.pytorch.trainer": {
        "max_epochs": Index,
        "min_epochs": Index | None,
        "max_steps": Literal[-1] | Count,
        "min_steps": Index | None,
        "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps"],
        "profiler": Literal["simple", "advanced", "pytorch"] | None,
        "strategy": Literal["auto", "ddp", "fsdp2"],
        "devices": Literal["auto", -1]
        | Annotated[int, Range(1, MOST_DEVICES)]
        | Annotated[list[Annotated[int, Range(0, MOST_DEVICES)]], NotEmpty()],
        "num_nodes": Count,
        # Not 16-true: pure fp16 rounds small gradients to 0.
        "precision": Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"],
        "limit_train_batches": Count | Annotated[float, Range(0, 1, above=True)] | None,
        "limit_val_batches": Index | Share | None,
        "limit_test_batches": Count | Annotated[float, Range(0, 1, above=True)] | None,
        "overfit_batches": Index | Share,
        "val_check_interval": Count | Annotated[float, Range(0, 1, above=True)] | None,
        "check_val_every_n_epoch": Count | None,
        "log_every_n_steps": Count,
        "accumulate_grad_batches": Count,
        "gradient_clip_val": Positive | None,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "reload_dataloaders_every_n_epochs": Index,
    },
    "lightning.pytorch.callbacks": {
        "monitor": Text | None,
        "mode": Literal["min", "max"],
        "patience": Index,
        "min_delta": NotNegative,
        "check_on_train_epoch_end": bool | None,
    },
}


def height_width(size: int | collections.abc.Sequence[int]) -> tuple[int, int]:
    """Return the height and width in px of images of a size."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def plain_size(size: int | collections.abc.Sequence[int]) -> int | list[int]:
    """Return a size as files have it, the only form of each: one number for a square, else [height, width]."""
    height, width = height_width(size)
    return height if height == width else [height, width]


def size_within(sides: collections.abc.Sequence[int], most: int) -> list[int]:
    """Return height and width, reduced in proportion if the longer one is more than `most` px."""
    longer = max(sides)
    return [*sides] if longer <= most else [max(1, round(side * most / longer)) for side in sides]


def takes(hint: Any, value: Any) -> bool:
    """Return whether a plain value matches an annotation; NaN and infinity never do.

    Annotations that cannot be checked against plain values, such as Callable, always match.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or (isinstance(value, dict) and "_target_" in value):  # its type is not known here
        return True
    if origin is Annotated:
        return takes(inner[0], value) and all(bound.holds(value) for bound in inner[1:])
    if origin in (Union, types.UnionType):
        return any(takes(option, value) for option in inner)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in inner)
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, dict) and all(takes(inner[1], one) for one in value.values())
    if origin is tuple and inner[1:] != (...,):
        return isinstance(value, list) and len(value) == len(inner) and all(map(takes, inner, value))
    if origin in (list, tuple, collections.abc.Sequence):
        return isinstance(value, list) and all(takes(inner[0], one) for one in value)
    if hint in (int, float):
        is_number = isinstance(value, int | hint) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max
    return not isinstance(hint, type) or isinstance(value, hint)


def words(hint: Any, value: Any) -> str:
    """Describe what an annotation accepts, with the choices closest to the value."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        named = isinstance(inner[1], PlainName)
        return " ".join([*([] if named else [words(inner[0], value)]), *map(str, inner[1:])])
    if origin is Literal:
        texts = [written(one) for one in inner if not isinstance(one, str)] + [o for o in inner if isinstance(o, str)]
        near = f" ({choices(str(value), texts)})" if nearest(str(value), texts) else ""
        return f"{'one of ' if len(texts) > 1 else ''}{', '.join(texts)}{near}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(one, value) for one in inner if _is_plain(one)))
    if origin in (dict, collections.abc.Mapping):
        return f"a mapping to {words(inner[1], value)} each"
    if origin is tuple and inner[1:] != (...,):
        return f"a list of {len(inner)}, each {words(inner[0], value)}"
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list, each {words(inner[0], value)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint, "a mapping" if origin or hint is dict else str(getattr(hint, "__name__", hint)))


def _is_plain(hint: Any) -> bool:
    """Return whether an option of a union can be given as a plain value on the command line."""
    return get_origin(hint) is not None or hint in (int, float, bool, str, type(None))


def written(value: Any) -> str:
    """Format a value for a message: strings in quotes, and null, true and false as in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def expected(key: str, hint: Any, value: Any) -> str:
    """Return the error message for a value that does not match."""
    return f"{key}: expected {words(hint, value)}, got {written(value)}"
