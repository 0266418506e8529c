"""An int8 program computed exactly, which decides what its integers are.

In float32 the sums of a layer depend on the order in which a kernel adds, and a value next to the middle between two
integers is rounded either way. Here all numbers are float64: sums of products of integers and float32 scales have no
error that matters, and an average of integers that lies in the middle is exactly there, and is rounded to even.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from zoo.quantize.graph_ir import QuantizedNet


class ExactProgram(fx.Interpreter):
    """Compute the outputs of an int8 net in float64: `ExactProgram(net).run(images)`.

    With `keep`, `integers` has the results of all quantize operations of the last run, in the order of the program.
    """

    def __init__(self, net: QuantizedNet, keep: bool = False) -> None:
        super().__init__(net)
        self.keep, self.integers = keep, list[Tensor]()

    def run(self, *inputs: Any, **keywords: Any) -> Any:
        self.integers.clear()
        with torch.no_grad():
            return super().run(*inputs, **keywords)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        match str(target):
            case "quantized_decomposed.quantize_per_tensor.default":
                x, scale, zero_point, low, high, _ = args
                found = (torch.round(x / scale) + zero_point).clamp(low, high)
                if self.keep:
                    self.integers.append(found)
                return found
            case "quantized_decomposed.dequantize_per_tensor.default":
                return (args[0].double() - args[2]) * args[1]
            case "quantized_decomposed.dequantize_per_channel.default":
                integers, scales, zero_points, axis, *_ = args
                sizes = [-1 if dim == axis else 1 for dim in range(integers.dim())]
                return (integers.double() - zero_points.view(sizes)) * scales.double().view(sizes)
        return super().call_function(target, map_aggregate(args, _wide), map_aggregate(kwargs, _wide))


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
