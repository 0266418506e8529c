"""What the C file consists of: tensors of bytes in the arena, values that are not rounded yet, and steps.

A shape is that of one image: channels, height, width. In memory the channels of a pixel are neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import inf
from typing import Any

from torch import Tensor

from zoo.errors import BadInput

Shape = tuple[int, int, int]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Bytes:
    """A tensor of uint8 in the arena; a number is (byte - zero_point) * scale."""

    shape: Shape
    scale: float
    zero_point: int

    @property
    def size(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    def number(self, byte: int) -> Fraction:
        return (byte - self.zero_point) * Fraction(self.scale)


@dataclass(frozen=True)
class Image:
    """The image as the net takes it: normalised floating-point numbers."""

    is_flat: bool = False


@dataclass(frozen=True)
class Part:
    """A tensor of which every `step`-th row and column is a term of a sum."""

    source: Bytes
    step: Pair = (1, 1)


@dataclass(frozen=True)
class Window:
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


@dataclass(frozen=True)
class Product:
    """A convolution, or a linear layer as a convolution whose kernel is the whole map."""

    source: Bytes
    weights: Tensor  # int8: output channel, input channel, row, column
    scales: Tensor
    bias: Tensor | None
    window: Window
    groups: int


@dataclass(frozen=True)
class Value:
    """Numbers before they are rounded: a product and parts, limited to a range, with channels of zeros around them.

    `is_flat`: they were flattened, which changes nothing in memory. `repeated` rows and columns at the end repeat the
    last ones.
    """

    shape: Shape  # without zeros and repeated ones
    parts: tuple[Part, ...] = ()
    product: Product | None = None
    low: float = -inf
    high: float = inf
    zeros: Pair = (0, 0)
    repeated: Pair = (0, 0)
    is_flat: bool = False

    @property
    def whole(self) -> Bytes | None:
        """Return the tensor that this value is, apart from its range, repeated rows and flattening; or None."""
        if self.product or len(self.parts) != 1 or self.parts[0].step != (1, 1) or self.zeros != (0, 0):
            return None
        return self.parts[0].source

    def limited(self, low: float, high: float) -> "Value":
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))


@dataclass(frozen=True)
class Largest:
    """A maximum over windows; rounding before it and after it is the same."""

    value: Value
    shape: Shape
    window: Window
    is_flat: bool = False


@dataclass(frozen=True)
class Mean:
    """An average of bytes that is not rounded yet; `divisor` is 0 for the pixels inside of each window."""

    source: Bytes
    shape: Shape
    window: Window
    divisor: int
    is_flat: bool = False


@dataclass(frozen=True)
class Joined:
    """Values that are concatenated along their channels."""

    values: tuple[Value, ...]
    is_flat: bool = False

    @property
    def shape(self) -> Shape:
        return (sum(value.shape[0] + sum(value.zeros) for value in self.values), *self.values[0].shape[1:])


@dataclass(frozen=True)
class Step:
    """One call in the C file: `sources` are read and `out` is written; None is the image or the scores."""

    sources: tuple[Bytes | None, ...]
    out: Bytes | None


@dataclass(frozen=True)
class Fill(Step):
    """Set all bytes to their zero point."""


@dataclass(frozen=True)
class LookUp(Step):
    """Replace bytes by entries of a table, or of one per channel, and write them behind `before` channels."""

    tables: list[list[int]]
    before: int = 0


@dataclass(frozen=True)
class Pool(Step):
    window: Window
    divisor: int | None  # None: the maximum


@dataclass(frozen=True)
class Layer(Step):
    """Round a value and write it behind `before` channels of `out`; for scores, in units of 1 / `fraction`."""

    value: Value = field(kw_only=True)
    before: int = 0


def pair(sizes: Sequence[int] | int) -> Pair:
    several = [sizes] if isinstance(sizes, int) else list(sizes)
    return several[0], several[-1]


def unsupported(what: str) -> BadInput:
    return BadInput(f"C cannot express {what}")


def value_of(found: Any, what: str) -> Value:
    """Return a value; raise BadInput for an average, a concatenation or an image that is not rounded before `what`."""
    if not isinstance(found, Value):
        raise unsupported(f"{what} of what is not rounded to int8 before")
    return found


def bytes_of(found: Any, what: str) -> Bytes:
    """Return the tensor of a value that was rounded; raise BadInput if it was not."""
    value = value_of(found, what)
    source = value.whole
    if source is None or value.repeated != (0, 0) or value.low > source.number(0) or value.high < source.number(255):
        raise unsupported(f"{what} of what is not rounded to int8 before")
    return source


def weights_of(weight: Any, what: str) -> tuple[Tensor, Tensor]:
    """Return the integers and scales of a layer's weights; raise BadInput if they are floating-point numbers."""
    if not isinstance(weight, tuple):
        raise unsupported(f"a {what} in floating point; use compress=ptq_int8 without float_layers and max_drop")
    integers, scales = weight
    return integers, scales


def sizes_after(sizes: Sequence[int], window: Window) -> Pair:
    """Return the height and width that a convolution or pooling returns."""
    axes = zip(sizes, window.kernel, window.stride, window.padding, window.dilation, strict=True)
    rows, columns = (
        (size + 2 * pad - dilation * (taps - 1) - 1) // step + 1 for size, taps, step, pad, dilation in axes
    )
    return rows, columns
