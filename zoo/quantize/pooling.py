"""Max pooling with ceil_mode in int8 programs.

For max pooling with int8 input and output, Inductor ignores ceil_mode (torch 2.14). Programs have such a pooling of an
image that is padded with copies of its last row and column instead, which changes no maximum.
"""

from typing import Any

import torch
from torch import fx

DEFAULTS: list[Any] = [None, None, None, [0, 0], [1, 1], False]  # arguments of max_pool2d
SIDES = "zoo_sides"  # in the metadata of a pooling: height and width before and after it
POOL = torch.ops.aten.max_pool2d.default
PAD = torch.ops.aten.pad.default
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor.default"


def note_sides(graph: fx.GraphModule) -> None:
    """Keep the sides of what is pooled, which quantization forgets."""
    for node in graph.graph.find_nodes(op="call_function", target=POOL):
        node.meta[SIDES] = [tuple(one.meta["val"].shape[2:]) for one in (node.args[0], node)]


def without_ceil_mode(graph: fx.GraphModule) -> fx.GraphModule:
    """Pad what is pooled with ceil_mode, in place, so that the windows are the same without it; return the graph.

    This comes after quantization, whose patterns have no padding between an activation and its pooling.
    """
    for node in graph.graph.find_nodes(op="call_function", target=POOL):
        given = list(node.args)
        image, kernel, stride, padding, dilation, is_rounded_up = given + DEFAULTS[len(given) :]
        if is_rounded_up:
            node.args = (image, kernel, stride, padding, dilation)
            short = []
            for dim in (1, 0):
                size, out = (sides[dim] for sides in node.meta[SIDES])
                covered = (out - 1) * stride[dim] + dilation[dim] * (kernel[dim] - 1) + 1
                short += [0, max(0, covered - 2 * padding[dim] - size)]
            if any(short):
                with graph.graph.inserting_before(node):
                    padded = graph.graph.call_function(PAD, (image, short, "replicate"))
                node.args = (padded, *node.args[1:])
    graph.recompile()
    return graph


def pad_integers(graph: fx.GraphModule) -> None:
    """Pad the integers instead of the floats that they become before a pooling, in place; no result changes.

    Inductor has a fast kernel only for a pooling directly between dequantizing and quantizing. The integers are padded
    with the smallest one, which is never a maximum and faster than copies of the last row and column.
    """
    for pad in graph.graph.find_nodes(op="call_function", target=PAD):
        source, sizes, *mode = pad.args
        is_pooled = all(user.target is POOL for user in pad.users)
        if is_pooled and mode == ["replicate"] and str(getattr(source, "target", "")) == DEQUANTIZE:
            integers, scale, zero_point, low, *rest = source.args
            with graph.graph.inserting_before(pad):
                padded = graph.graph.call_function(PAD, (integers, sizes, "constant", low))
                floats = graph.graph.call_function(source.target, (padded, scale, zero_point, low, *rest))
            pad.replace_all_uses_with(floats)
    graph.graph.eliminate_dead_code()
    graph.recompile()
