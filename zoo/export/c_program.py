"""From an int8 program to the steps of a C file; raises BadInput for what C cannot express.

Each operator of the program is a method of `Translation` with the arguments and defaults of torch's operator.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.export.c_numbers import requantized
from zoo.export.c_terms import (
    Bytes,
    Fill,
    Image,
    Joined,
    Layer,
    LookUp,
    Mean,
    Part,
    Pool,
    Product,
    Step,
    Value,
    Window,
    bytes_of,
    pair,
    sizes_after,
    unsupported,
    value_of,
    weight_of,
)
from zoo.quantize.graph_ir import Program
from zoo.quantize.operators import has_keywords

Found = Image | Value | Mean | Joined
END = 2**63 - 1  # of a slice that has none


class Translation:
    """The steps of a program for one image of uint8 pixels, and the values of its results so far."""

    def __init__(self, tensors: Mapping[str, Tensor], shape: tuple[int, int, int], pixels: Tensor) -> None:
        self.tensors, self.shape = tensors, shape
        self.pixels = pixels  # float32: channel, pixel 0…255: what the net gets for a pixel
        self.steps: list[Step] = []
        self.results: list[Any] = []

    def run(self, program: Program) -> list[Step]:
        for name, *arguments in program:
            keywords = arguments.pop()["keywords"] if has_keywords(arguments) else {}
            method = self.METHODS.get(name)
            if method is None:
                raise unsupported(f"the operator {name}; it has convolution, linear, pooling, ReLU, sums and cat")
            given, named = [self._of(one) for one in arguments], {key: self._of(one) for key, one in keywords.items()}
            try:
                self.results.append(method(self, *given, **named))
            except TypeError as error:  # an argument that the method does not have
                raise unsupported(f"these arguments of {name}") from error
        return self.steps

    def _of(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._of(one) for one in part]
        if isinstance(part, Mapping):
            return self.results[part["result"]] if "result" in part else self.tensors.get(part.get("tensor", ""))
        return part

    def input(self) -> Image:
        return Image()

    def quantize(self, found: Found, scale: float, zero_point: int, low: int, high: int, _: Any = None) -> Value:
        """Emit the steps that round a value to bytes, and return the value of these bytes."""
        if (low, high) != (0, 255) or not 0 < scale < math.inf:
            raise unsupported(f"integers from {low} to {high} with a scale of {scale:g}")
        if isinstance(found, Image):
            return self._of_image(found, scale, zero_point)
        if isinstance(found, Value) and found.is_same(scale, zero_point):
            return found
        if isinstance(found, Mean):
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
        levels = self.pixels.tolist()
        tables = [[requantized(Fraction(one), scale, zero_point) for one in channel] for channel in levels]
        self.steps.append(LookUp((None,), out, tables))
        return Value(out.shape, (Part(out),), is_flat=image.is_flat)

    def _write(self, value: Value, out: Bytes, before: int) -> None:
        if value.repeated != (0, 0):
            raise unsupported("rows that are repeated, other than for max pooling")
        if source := value.whole:
            numbers: Any = (min(max(source.number(byte), value.low), value.high) for byte in range(256))
            table = [requantized(Fraction(number), out.scale, out.zero_point) for number in numbers]
            self.steps.append(LookUp((source,), out, [table], before))
        else:
            self._sum(value, out, before)

    def _sum(self, value: Value, out: Bytes | None, before: int = 0) -> None:
        sources = [part.source for part in value.parts] + ([value.product.source] if value.product else [])
        self.steps.append(Layer(tuple(sources), out, before, value=value))

    def dequantize(self, found: Value, scale: float, zero_point: int, *_: Any) -> Value:
        if not isinstance(found, Value) or not found.is_same(scale, zero_point):
            raise unsupported("integers that are read with another scale")
        return found

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
        window = Window(pair(weight_of(weight, "convolution").shape[2:]), pair(stride), pair(padding), pair(dilation))
        source = bytes_of(x, "a convolution")
        shape = (len(weight[0]), *sizes_after(source.shape[1:], window))
        return Value(shape, product=Product(source, weight[0], weight[1], bias, window, groups))

    def linear(self, x: Value, weight: Any, bias: Tensor | None = None) -> Value:
        source = bytes_of(x, "a linear layer")
        channels, height, width = source.shape
        if not x.is_flat and (height, width) != (1, 1):
            raise unsupported("a linear layer of an image that is not flattened")
        whole = weight_of(weight, "linear layer").reshape(-1, channels, height, width)
        product = Product(source, whole, weight[1], bias, Window((height, width), (1, 1)), 1)
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
    ) -> Value:
        source = value_of(x, "max pooling").whole
        if source is None or is_rounded_up or x.is_flat:
            raise unsupported("max pooling of what is not rounded before, or with ceil_mode")
        window = Window(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation))
        sizes = source.shape[1] + x.repeated[0], source.shape[2] + x.repeated[1]
        out = Bytes((source.shape[0], *sizes_after(sizes, window)), source.scale, source.zero_point)
        self.steps.append(Pool((source,), out, window, None))
        return Value(out.shape, (Part(out),), low=x.low, high=x.high)

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
        "quantized_decomposed.quantize_per_tensor.default": quantize,
        "quantized_decomposed.dequantize_per_tensor.default": dequantize,
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
