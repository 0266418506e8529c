"""Store weights as 8-bit or 4-bit integers, with a scale per channel or group, and read them as floats.

A layer keeps its names and sizes: its state has integers, and reading its weight returns floats. Hooks, export and
all devices work as with any other net.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.compress.recipe import Step
from zoo.errors import BadInput, choices
from zoo.models.attention import Attention
from zoo.quantize.pt2e import chosen
from zoo.records.steps import Names, Record, Size

KINDS = (nn.Conv2d, nn.Linear, nn.LSTM, Attention)  # their own tensors of two or more dimensions are weights
LARGEST = {8: 127, 4: 7}  # largest number by bits; symmetric, so that zero is exact
SCALE = "_scale"  # suffix of a weight's name


class StepRecord(Record, frozen=True, kw_only=True):
    bits: Literal[4, 8]
    group: Size | None
    dynamic: bool
    layers: Names


class IntegerWeights(nn.Module):
    """Hold integers in place of weights; the state has them as `weight`, next to `weight_scale`."""

    held: dict[str, tuple[int, ...]]  # shapes of these weights, by name
    group: int | None

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("held", ()):
            return super().__getattr__(name)
        return restored(*self.numbers(name), self.held[name], self.group)

    def numbers(self, name: str) -> tuple[Any, Any]:
        """Return a weight's stored integers and scales."""
        return self._buffers[name], self._buffers[name + SCALE]

    def product(self, x: Tensor, name: str, rows: slice) -> Tensor:
        """Multiply x (..., inputs) with some rows of an 8-bit weight, each x rounded to 127 steps of its maximum."""
        weight, scale = self.numbers(name)
        numbers, steps = rounded(x.flatten(0, -2), 8, None)
        summed = integer_product(numbers, weight[rows]).to(scale.dtype) * steps * scale[rows].t()
        return summed.unflatten(0, x.shape[:-1])


class IntegerLSTM(IntegerWeights):
    """Pass the weights as floats to a kernel that takes all of them in one list."""

    _flat_weights_names: list[str]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, weights: list[Tensor]) -> None:
        """Do nothing: torch.nn.LSTM sets its own list when it is moved."""

    def flatten_parameters(self) -> None:
        """Do nothing: there are no weights to make contiguous."""


class DynamicLinear(IntegerWeights):
    """Multiply in int8."""

    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x, "weight", slice(None))
        return y if self.bias is None else y + self.bias


class DynamicAttention(IntegerWeights):
    """Project to queries, keys and values in int8; attention itself stays in floats."""

    num_heads: int
    in_proj_bias: Tensor

    def project(self, x: Tensor, first: int, last: int) -> Tensor:
        width = self.held["in_proj_weight"][0] // 3
        rows = slice(first * width, last * width)
        x = self.product(x, "in_proj_weight", rows) + self.in_proj_bias[rows]
        return x.unflatten(-1, (last - first, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


def weight_only(
    net: nn.Module, *, bits: int = 8, group: int | None = None, dynamic: bool = False, float_layers: Sequence[str] = ()
) -> Step:
    """Quantize the weights of convolutions, linear layers, attention and LSTMs to integers, in place.

    There is one scale per output channel, or per `group` of its weights. With `dynamic`, linear layers round their
    inputs as well, each sample or token with its own scale, and multiply in int8. Layers matched by a name or pattern
    of `float_layers` stay in floats. Raises BadInput for invalid settings and for a net without such layers.
    """
    layers = layers_to_hold(net, bits, group, dynamic, float_layers)
    step = {"pass": "weight_only", "bits": bits, "group": group, "dynamic": dynamic, "layers": layers}
    apply_weight_only(net, [step])
    return step


def layers_to_hold(
    net: nn.Module, bits: int, group: int | None, dynamic: bool, float_layers: Sequence[str]
) -> list[str]:
    """Name the layers whose weights become integers; raise BadInput for wrong settings or if none is left."""
    if type(bits) is not int or bits not in LARGEST:
        raise BadInput(f"bits={bits} is not a supported width; {choices(str(bits), [str(one) for one in LARGEST])}")
    if group is not None and (type(group) is not int or group < 1):
        raise BadInput(f"group: expected a whole number of at least 1, or null for one scale per channel, got {group}")
    if dynamic and (bits != 8 or group is not None):
        raise BadInput(
            f"dynamic=true multiplies in int8 with one scale per channel: bits=8, group=null, not {bits}, {group}"
        )
    layers = [name for name, module in net.named_modules() if isinstance(module, KINDS)]
    kept = chosen(float_layers, layers)
    layers = [name for name in layers if name not in kept]
    if not layers:
        raise BadInput(f"{type(net).__name__} has no layer left whose weights could become integers")
    tensors = [p for name in layers for p in net.get_submodule(name).parameters(recurse=False) if p.ndim > 1]
    longest = max(p[0].numel() for p in tensors)
    if group is not None and group > longest:
        raise BadInput(f"group: expected at most {longest}, the number of weights per channel, or null, got {group}")
    return layers


def apply_weight_only(net: nn.Module, recipe: Iterable[Step]) -> None:
    """Make a net hold integers according to the recipe's steps; raise BadInput for a step that does not fit it."""
    for step in recipe:
        if step["pass"] == "weight_only":
            try:
                for name in step["layers"]:
                    _hold(net.get_submodule(name), step["bits"], step["group"], step["dynamic"])
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
                raise BadInput(f"the recipe's step weight_only does not fit this net: {error}") from error


def _hold(module: nn.Module, bits: int, group: int | None, dynamic: bool) -> None:
    if not isinstance(module, KINDS):
        raise TypeError(f"{type(module).__name__} has no weights to hold as integers")
    weights = {name: p.detach() for name, p in module.named_parameters(recurse=False) if p.ndim > 1}
    held: Any = module
    held.__class__ = _holding(held.__class__, dynamic)
    held.group, held.held = group, {}
    for name, weight in weights.items():
        delattr(module, name)
        numbers, scale = rounded(weight, bits, group)
        held.register_buffer(name, numbers if bits == 8 else packed(numbers))
        held.register_buffer(name + SCALE, scale)
        held.held[name] = tuple(weight.shape)


@functools.cache
def _holding(kind: Any, dynamic: bool) -> type[nn.Module]:
    """Return the integer version of a layer class."""
    base = IntegerWeights
    if issubclass(kind, nn.LSTM):
        base = IntegerLSTM
    elif dynamic and issubclass(kind, nn.Linear):
        base = DynamicLinear
    elif dynamic and issubclass(kind, Attention):
        base = DynamicAttention
    return type(f"Integer{kind.__name__}", (base, kind), {})


def rounded(weight: Tensor, bits: int, group: int | None) -> tuple[Tensor, Tensor]:
    """Return the int8 numbers nearest to a weight (channels, ...), in its shape, and the scales (channels, groups).

    A group is that many consecutive weights of a channel; the last may have fewer.
    """
    rows = weight.flatten(1)
    size = rows.shape[1]
    group = size if group is None else min(group, size)
    groups = nn.functional.pad(rows, (0, -size % group)).unflatten(1, (-1, group))
    scale = groups.abs().amax(2) / LARGEST[bits]
    scale = torch.where(scale > 0, scale, 1.0).to(weight.dtype)
    numbers = (groups / scale[..., None]).round().clamp(-LARGEST[bits], LARGEST[bits]).to(torch.int8)
    return numbers.flatten(1)[:, :size].reshape(weight.shape), scale


def restored(numbers: Tensor, scale: Tensor, shape: Sequence[int], group: int | None) -> Tensor:
    """Return the weight, in the scale's dtype, from the numbers of `rounded` and, for 4 bits, `packed`."""
    if numbers.dtype == torch.uint8:
        numbers = unpacked(numbers, math.prod(shape)).view(tuple(shape))
    rows = numbers.flatten(1)
    if group is not None:
        scale = scale.repeat_interleave(group, 1)[:, : rows.shape[1]]
    return (rows.to(scale.dtype) * scale).view(tuple(shape))


def packed(numbers: Tensor) -> Tensor:
    """Pack two 4-bit numbers, from -7 to 7, into each byte as 1 to 15, the first in the lower half."""
    halves = numbers.flatten() + 8
    halves = nn.functional.pad(halves, (0, halves.numel() % 2)).to(torch.uint8).view(-1, 2)
    return halves[:, 0] | halves[:, 1] << 4


def unpacked(content: Tensor, num: int) -> Tensor:
    """Return the first `num` packed 4-bit numbers."""
    return torch.stack([(content & 15).to(torch.int8), (content >> 4).to(torch.int8)], 1).flatten()[:num] - 8


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply int8 matrices (M, K) and (N, K) into (M, N), exactly on a CPU.

    Elsewhere torch's kernel needs sides that are multiples of 8, so it is computed in floats.
    """
    return torch._int_mm(a, b.t()) if a.device.type == "cpu" else a.float() @ b.float().t()
