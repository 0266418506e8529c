"""Rounding of values to bytes: the steps of a C file that write tensors."""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from zoo.export.c_numbers import requantized
from zoo.export.c_terms import (
    Bytes,
    Fill,
    Image,
    Joined,
    Largest,
    Layer,
    LookUp,
    Mean,
    Part,
    Pool,
    Step,
    Value,
    unsupported,
)

Found = Image | Value | Largest | Mean | Joined


class Rounding:
    """The steps of a program for one image of uint8 pixels so far."""

    def __init__(self, tensors: Mapping[str, Tensor], shape: tuple[int, int, int], pixels: Tensor) -> None:
        self.tensors, self.shape = tensors, shape
        self.pixels = pixels  # float32: channel, pixel 0…255: what the net gets for a pixel
        self.steps: list[Step] = []
        self.results: list[Any] = []  # of the program

    def quantize(self, found: Found, scale: float, zero_point: int, low: int, high: int, _: Any = None) -> Value:
        """Emit the steps that round a value to bytes, and return the value of these bytes."""
        if (low, high) != (0, 255) or not 0 < scale < math.inf:
            raise unsupported(f"integers from {low} to {high} with a scale of {scale:g}")
        if isinstance(found, Image):
            return self._of_image(found, scale, zero_point)
        if isinstance(found, Value) and self._is_same(found, scale, zero_point):
            return found
        if isinstance(found, Largest):
            rounded = self.quantize(replace(found.value, repeated=(0, 0)), scale, zero_point, low, high)
            out = Bytes(found.shape, scale, zero_point)
            self.steps.append(Pool((rounded.parts[0].source,), out, found.window, None))
        elif isinstance(found, Mean):
            if (found.source.scale, found.source.zero_point) != (scale, zero_point):
                raise unsupported("average pooling that changes the scale")
            out = Bytes(found.shape, scale, zero_point)
            self.steps.append(Pool((found.source,), out, found.window, found.divisor))
        else:
            several = found.values if isinstance(found, Joined) else (found,)
            out = Bytes(Joined(several).shape, scale, zero_point)
            if any(value.zeros != (0, 0) for value in several):
                self.steps.append(Fill((), out))
            before = 0
            for value in several:
                self._write(value, out, before + value.zeros[0])
                before += value.shape[0] + sum(value.zeros)
        return Value(out.shape, (Part(out),), is_flat=found.is_flat)

    def _of_image(self, image: Image, scale: float, zero_point: int) -> Value:
        out = Bytes(self.shape, scale, zero_point)
        tables = [
            [requantized(Fraction(one), scale, zero_point) for one in channel] for channel in self.pixels.tolist()
        ]
        self.steps.append(LookUp((None,), out, tables))
        return Value(out.shape, (Part(out),), is_flat=image.is_flat)

    def _is_same(self, value: Value, scale: float, zero_point: int) -> bool:
        """Return whether a value is a tensor that rounding would not change."""
        whole = value.whole
        if not whole or value.repeated != (0, 0) or (whole.scale, whole.zero_point) != (scale, zero_point):
            return False
        return value.low <= whole.number(0) and whole.number(255) <= value.high

    def _write(self, value: Value, out: Bytes, before: int) -> None:
        if value.repeated != (0, 0):
            raise unsupported("rows that are repeated, other than for max pooling")
        if source := value.whole:
            low, high = (None if math.isinf(one) else Fraction(one) for one in (value.low, value.high))
            table = [
                requantized(_limited(source.number(byte), low, high), out.scale, out.zero_point) for byte in range(256)
            ]
            self.steps.append(LookUp((source,), out, [table], before))
        else:
            self._sum(value, out, before)

    def _sum(self, value: Value, out: Bytes | None, before: int = 0) -> None:
        sources = [part.source for part in value.parts] + ([value.product.source] if value.product else [])
        self.steps.append(Layer(tuple(sources), out, before, value=value))

    def dequantize(self, found: Value, scale: float, zero_point: int, *_: Any) -> Value:
        if not isinstance(found, Value) or not self._is_same(found, scale, zero_point):
            raise unsupported("integers that are read with another scale")
        return found


def _limited(number: Fraction, low: Fraction | None, high: Fraction | None) -> Fraction:
    number = number if low is None else max(number, low)
    return number if high is None else min(number, high)
