"""Receptive fields (Araujo, Norris, Sim, "Computing receptive fields", 2019)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Field:
    """The receptive fields of a feature map along one axis, in px of the image.

    The first output depends on the `size` px from `start` on, which is negative if padding is included; each further
    output depends on a window shifted by `stride` px.
    """

    start: int = 0
    size: int = 1
    stride: int = 1

    @property
    def offset(self) -> float:
        """Centre of the first output's field, relative to the centre of the image's first px."""
        return self.start + (self.size - 1) / 2

    def window(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> "Field":
        """Return the field of a convolution or pooling over this map."""
        return Field(
            self.start - padding * self.stride,
            self.size + dilation * (kernel - 1) * self.stride,
            self.stride * stride,
        )

    def joined(self, other: "Field") -> "Field":
        """Return the field of an operation on both maps, such as a sum or a concatenation: the span of the two."""
        start = min(self.start, other.start)
        end = max(self.start + self.size, other.start + other.size)
        return Field(start, end - start, max(self.stride, other.stride))


Fields = tuple[Field, Field]  # along height and width


class ReceptiveFields(TorchDispatchMode):
    """Track the receptive field of every tensor that is computed from `image` (N, C, H, W) while this mode is on.

    Fields are computed in closed form without values, so the meta device can be used. Operations that flatten or mix a
    map, such as a linear layer or attention, depend on the span of all its positions. For adaptive pooling that does
    not divide its input evenly, the largest window is used.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._known: dict[int, tuple[Tensor, Fields]] = {id(image): (image, (Field(), Field()))}  # keeps them alive
        self._mixed: set[int] = set()  # tensors that are no longer maps: all values have the same field

    def of(self, tensor: Tensor) -> Fields | None:
        """Return a tensor's receptive field, or None if it does not depend on the image."""
        return self._known[id(tensor)][1] if id(tensor) in self._known else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [t for t in _tensors(args) if id(t) in self._known]
        for result in _tensors([out]) if inputs else ():
            slid = None
            if inputs[0].ndim == 4 and id(inputs[0]) not in self._mixed:
                slid = _slid(func.overloadpacket, args, self._known[id(inputs[0])][1], inputs[0], result)
            self._known[id(result)] = result, slid or self._together(inputs, result)
        return out

    def _together(self, inputs: list[Tensor], result: Tensor) -> Fields:
        """Return the field of a result with the same positions as its inputs, or that mixes them."""
        mixes = any(id(t) in self._mixed or t.shape[-2:] != result.shape[-2:] for t in inputs)
        fields = [self._known[id(t)][1] for t in inputs]
        if mixes:
            self._mixed.add(id(result))
            fields = [
                f if id(t) in self._mixed else _span(f, t.shape[-2:]) for f, t in zip(fields, inputs, strict=True)
            ]
        height, width = fields[0]
        for other in fields[1:]:
            height, width = height.joined(other[0]), width.joined(other[1])
        return height, width


def _slid(function: Any, args: Sequence[Any], here: Fields, image: Tensor, result: Tensor) -> Fields | None:
    """Return the field of a sliding-window function, or None for any other."""
    aten = torch.ops.aten
    if function is aten.convolution:
        return _slide(here, args[1].shape[-2:], *args[3:6])
    if function in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        kernel, stride, padding, dilation = [*args[1:5], *((), 0, 1)[len(args) - 2 :]][:4]
        return _slide(
            here, kernel, stride or kernel, padding, dilation if function is aten.max_pool2d_with_indices else 1
        )
    if function is aten._adaptive_avg_pool2d:
        return _adaptive(here, image.shape[-2:], result.shape[-2:])
    if function is aten.mean and result.ndim == 4:
        return _span(here, image.shape[-2:])
    if function is aten.slice and args[1] >= 2:
        begin, step = args[2] or 0, args[4] if len(args) > 4 else 1
        height, width = (
            Field(f.start + begin * f.stride, f.size, f.stride * step) if args[1] == axis + 2 else f
            for axis, f in enumerate(here)
        )
        return height, width
    if function is aten.constant_pad_nd:
        left, _, top, _ = (list(args[1]) + [0] * 4)[:4]
        height, width = (
            Field(f.start - p * f.stride, f.size, f.stride) for f, p in zip(here, (top, left), strict=True)
        )
        return height, width
    return None


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _pair(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, list | tuple | torch.Size) else [value]
    return values[0], values[-1]


def _slide(here: Fields, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Fields:
    settings = [_pair(setting) for setting in (kernel, stride, padding, dilation)]
    height, width = (field.window(*(pair[axis] for pair in settings)) for axis, field in enumerate(here))
    return height, width


def _adaptive(here: Fields, sizes: Sequence[int], places: Sequence[int]) -> Fields:
    windows = [
        max(math.ceil((i + 1) * size / n) - i * size // n for i in range(n))
        for size, n in zip(sizes, places, strict=True)
    ]
    return _slide(here, windows, [max(size // n, 1) for size, n in zip(sizes, places, strict=True)], 0, 1)


def _span(here: Fields, places: Sequence[int]) -> Fields:
    """Return the field of an operation on all positions of a map."""
    height, width = (Field(f.start, f.size + (n - 1) * f.stride, f.stride) for f, n in zip(here, places, strict=True))
    return height, width
