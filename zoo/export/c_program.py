"""From an int8 program to the steps of a C file; raises BadInput for what C cannot express.

Each operator of the program is a method of `Translation` with the arguments and defaults of torch's operator.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.export.c_rounding import Found, Rounding
from zoo.export.c_terms import (
    Image,
    Joined,
    Largest,
    Mean,
    Product,
    Step,
    Value,
    Window,
    bytes_of,
    pair,
    sizes_after,
    unsupported,
    value_of,
    weights_of,
)
from zoo.quantize.graph_ir import Program
from zoo.quantize.operators import has_keywords

END = 2**63 - 1  # of a slice that has none


class Translation(Rounding):
    """Translate a program one operator after the other."""

    def run(self, program: Program) -> list[Step]:
        for name, *arguments in program:
            keywords = arguments.pop()["keywords"] if has_keywords(arguments) else {}
            method = self.METHODS.get(name)
            if method is None:
                raise unsupported(f"the operator {name}; it has convolution, linear, pooling, ReLU, sums and cat")
            given, named = [self._of(one) for one in arguments], {key: self._of(one) for key, one in keywords.items()}
            try:
                inspect.signature(method).bind(self, *given, **named)
            except TypeError as error:
                raise unsupported(f"these arguments of {name}") from error
            self.results.append(method(self, *given, **named))
        return self.steps

    def _of(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._of(one) for one in part]
        if isinstance(part, Mapping):
            return self.results[part["result"]] if "result" in part else self.tensors.get(part.get("tensor", ""))
        return part

    def input(self) -> Image:
        return Image()

    def weights(self, integers: Tensor, scales: Tensor, zero_points: Tensor, axis: int, *_: Any) -> Any:
        if axis != 0 or integers.dtype != torch.int8 or zero_points.any():
            raise unsupported("weights other than int8 with a scale per output channel")
        return integers, scales

    def conv2d(
        self,
        x: Value,
        weight: Any,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Value:
        integers, scales = weights_of(weight, "convolution")
        window = Window(pair(integers.shape[2:]), pair(stride), pair(padding), pair(dilation))
        source = bytes_of(x, "a convolution")
        shape = (len(integers), *sizes_after(source.shape[1:], window))
        return Value(shape, product=Product(source, integers, scales, bias, window, groups))

    def linear(self, x: Value, weight: Any, bias: Tensor | None = None) -> Value:
        source = bytes_of(x, "a linear layer")
        channels, height, width = source.shape
        if not x.is_flat and (height, width) != (1, 1):
            raise unsupported("a linear layer of an image that is not flattened")
        integers, scales = weights_of(weight, "linear layer")
        whole = integers.reshape(-1, channels, height, width)
        product = Product(source, whole, scales, bias, Window((height, width), (1, 1)), 1)
        return Value((len(whole), 1, 1), product=product, is_flat=True)

    def relu(self, x: Value) -> Value:
        return value_of(x, "ReLU").limited(0, math.inf)

    def clamp(self, x: Value, low: float | None = -1, high: float | None = 1) -> Value:
        return value_of(x, "clamp").limited(-math.inf if low is None else low, math.inf if high is None else high)

    def relu6(self, x: Value) -> Value:
        return value_of(x, "ReLU6").limited(0, 6)

    def add(self, a: Value, b: Value) -> Value:
        both = value_of(a, "a sum"), value_of(b, "a sum")
        is_plain = all(
            (one.low, one.high, one.zeros, one.repeated) == (-math.inf, math.inf, (0, 0), (0, 0)) for one in both
        )
        if not is_plain or (a.product and b.product) or a.shape != b.shape or a.is_flat != b.is_flat:
            raise unsupported("a sum of two layers or shapes that are not rounded before")
        return replace(a, parts=a.parts + b.parts, product=a.product or b.product)

    def cat(self, several: Sequence[Value], dim: int = 0) -> Joined:
        values = tuple(value_of(one, "cat") for one in several)
        flat = {value.is_flat for value in values}
        sizes = {value.shape[1:] for value in values}
        dims = 2 if True in flat else 4
        if len(flat) > 1 or len(sizes) > 1 or dim % dims != 1 or (True in flat and sizes != {(1, 1)}):
            raise unsupported("cat of anything but channels")
        return Joined(values, is_flat=True in flat)

    def flatten(self, x: Found, start: int = 0, end: int = -1) -> Found:
        if start != 1 or end not in (-1, 3):
            raise unsupported("flatten of anything but whole images")
        return x if x.is_flat else replace(x, is_flat=True)

    def max_pool(
        self,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        is_rounded_up: bool = False,
    ) -> Largest:
        value = value_of(x, "max pooling")
        if is_rounded_up or value.is_flat or value.zeros != (0, 0):
            raise unsupported("max pooling with ceil_mode")
        window = Window(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation))
        sizes = value.shape[1] + value.repeated[0], value.shape[2] + value.repeated[1]
        return Largest(value, (value.shape[0], *sizes_after(sizes, window)), window)

    def mean_pool(
        self,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        is_rounded_up: bool = False,
        counts_padding: bool = True,
        divisor: int | None = None,
    ) -> Mean:
        source = bytes_of(x, "average pooling")
        window = Window(pair(kernel), pair(stride or kernel), pair(padding))
        if is_rounded_up or x.is_flat:
            raise unsupported("average pooling with ceil_mode")
        size = divisor or (window.kernel[0] * window.kernel[1] if counts_padding else 0)
        return Mean(source, (source.shape[0], *sizes_after(source.shape[1:], window)), window, size)

    def adaptive_mean(self, x: Value, sizes: Sequence[int]) -> Found:
        height, width = bytes_of(x, "average pooling").shape[1:]
        rows, columns = pair(sizes)
        if height % rows or width % columns:
            raise unsupported(f"adaptive average pooling from {height} × {width} to {rows} × {columns}")
        if (height, width) == (rows, columns):
            return x
        return self.mean_pool(x, (height // rows, width // columns))

    def mean(self, x: Value, dims: Sequence[int], keepdim: bool = False) -> Found:
        if sorted(dim % 4 for dim in dims) != [2, 3]:
            raise unsupported("a mean over anything but rows and columns")
        found = self.adaptive_mean(x, (1, 1))
        return found if keepdim else replace(found, is_flat=True)

    def slice(self, x: Found, dim: int = 0, start: int | None = 0, end: int | None = END, step: int = 1) -> Found:
        """Take every `step`-th row or column, as in a shortcut without weights."""
        if start not in (0, None) or (end is not None and end < END):
            raise unsupported("a slice that does not begin and end with the image")
        if step == 1:
            return x
        if not isinstance(x, Value) or dim not in (2, 3) or x.repeated != (0, 0) or x.is_flat:
            raise unsupported("a slice of anything but rows and columns")
        steps = (step, 1) if dim == 2 else (1, step)
        parts = tuple(replace(part, step=(part.step[0] * steps[0], part.step[1] * steps[1])) for part in x.parts)
        shape = (x.shape[0], -(-x.shape[1] // steps[0]), -(-x.shape[2] // steps[1]))
        if not x.product:
            return replace(x, shape=shape, parts=parts)
        window = x.product.window
        stride = window.stride[0] * steps[0], window.stride[1] * steps[1]
        product = replace(x.product, window=replace(window, stride=stride))
        return replace(x, shape=shape, parts=parts, product=product)

    def pad(self, x: Value, sizes: Sequence[int], mode: str = "constant", number: float | None = None) -> Value:
        """Add channels of zeros, as in a shortcut without weights, or repeat the last row and column."""
        left, right, top, bottom, before, after = [*sizes, *[0] * (6 - len(sizes))]
        value = value_of(x, "padding")
        if not value.is_flat and value.repeated == value.zeros == (0, 0) and left == top == 0:
            is_zeros = mode == "constant" and not number and value.low <= 0 <= value.high
            if is_zeros and right == bottom == 0 and min(before, after) >= 0:
                return replace(value, zeros=(before, after))
            if mode == "replicate" and before == after == 0 and min(right, bottom) >= 0:
                return replace(value, repeated=(bottom, right))
        raise unsupported("padding other than channels of zeros, outside of a convolution or pooling")

    def same(self, x: Found, *_: Any, **__: Any) -> Found:
        return x

    def output(self, x: Found) -> None:
        """Emit the last step, which writes one score per class."""
        value = value_of(x, "a net that ends with it")
        if value.shape[1:] != (1, 1) or value.zeros != (0, 0):
            raise unsupported("a net that does not end with one number per class")
        self._sum(value, None)

    METHODS: ClassVar[dict[str, Callable[..., Any]]] = {
        "input": input,
        "output": output,
        "quantized_decomposed.quantize_per_tensor.default": Rounding.quantize,
        "quantized_decomposed.dequantize_per_tensor.default": Rounding.dequantize,
        "quantized_decomposed.dequantize_per_channel.default": weights,
        "aten.conv2d.default": conv2d,
        "aten.linear.default": linear,
        "aten.relu.default": relu,
        "aten.relu6.default": relu6,
        "aten.hardtanh.default": clamp,
        "aten.clamp.default": clamp,
        "aten.add.Tensor": add,
        "aten.cat.default": cat,
        "aten.flatten.using_ints": flatten,
        "aten.max_pool2d.default": max_pool,
        "aten.avg_pool2d.default": mean_pool,
        "aten.adaptive_avg_pool2d.default": adaptive_mean,
        "aten.mean.dim": mean,
        "aten.slice.Tensor": slice,
        "aten.pad.default": pad,
        "aten.contiguous.default": same,
        "aten.clone.default": same,
    }
