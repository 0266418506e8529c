"""What a graph of ONNX may be that ONNX Runtime is given: operators of nets, on numbers that the file itself holds."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.measure.bounds import MAX_NUMBERS, MAX_NUMBERS_IN_ALL, MAX_RESULTS

if TYPE_CHECKING:
    import onnx

# Operators of ONNX itself, of which our files are made.
OPERATORS = frozenset(
    [
        *("Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd", "Cast"),
        *("CastLike", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "DequantizeLinear", "Div"),
        *("DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Expand", "Flatten", "Floor", "Gather", "GatherElements"),
        *("GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "HardSigmoid", "HardSwish"),
        *("Identity", "IsNaN", "LSTM", "LayerNormalization", "LeakyRelu", "MatMul", "MatMulInteger", "Max", "MaxPool"),
        *("Min", "Mod", "Mul", "Neg", "Not", "PRelu", "Pad", "Pow", "QuantizeLinear", "Range", "ReduceMax"),
        *("ReduceMean", "ReduceSum", "Relu", "Reshape", "Round", "ScatterND", "Selu", "Shape", "Sigmoid", "Size"),
        *("Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze"),
        "Where",
    ]
)
# What sizes are computed with; where its results are small, it is computed here.
FOLDED = frozenset(
    [
        *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity"),
        *("Max", "Min", "Mod", "Mul", "Not", "Range", "ReduceMax", "Reshape", "Size", "Slice", "Squeeze", "Sub"),
        *("Unsqueeze", "Where"),
    ]
)
NUM_AS_SHAPE = 1024  # of a tensor of so few numbers, the numbers themselves may be sizes of others


def check_graph(model: "onnx.ModelProto") -> None:
    """Raise ValueError for a graph that could read files or run other graphs, or whose results would be too large.

    Their sizes are inferred with 2 for each size that may vary; one that cannot be inferred is refused.
    """
    import onnx

    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ValueError("its graph has functions, training or sparse tensors")
    if len(graph.node) > MAX_RESULTS:
        raise ValueError(f"its graph has {len(graph.node):,} operators")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise ValueError(f"its graph asks for the operator '{node.domain[:80]}:{node.op_type[:80]}'")
    for tensor in _tensors(graph):
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise ValueError("its graph reads numbers from another file")
    _check_sizes(model)


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    """Return all tensors of a graph; ValueError where an operator has a graph of its own."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise ValueError("an operator of its graph has a graph of its own")
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_sizes(model: "onnx.ModelProto") -> None:
    light = _without_weights(model)
    while True:
        sizes = _inferred(light)
        total = 0
        for name, shape in sizes.items():
            total += math.prod(shape)
            if math.prod(shape) > MAX_NUMBERS or total > MAX_NUMBERS_IN_ALL:
                raise ValueError(f"its result '{name[:80]}' would be of shape {shape}, which no net's is")
        if not _fold_shapes(light, sizes):
            break
    unknown = [name for node in light.graph.node for name in node.output if name and name not in sizes]
    if unknown:
        raise ValueError(f"the size of its result '{unknown[0][:80]}' cannot be told before it is computed")


def _without_weights(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a graph with 2 for each size that may vary, and without large tensors, which inference would copy."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = "sizes"
    light.graph.node.extend(model.graph.node)
    for one in model.graph.input:
        light.graph.input.add().CopyFrom(one)
        for size in light.graph.input[-1].type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = 2
    for one in model.graph.output:  # without its shape: what a file says of that is not what it is
        light.graph.output.append(onnx.helper.make_tensor_value_info(one.name, one.type.tensor_type.elem_type, None))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= NUM_AS_SHAPE:
            light.graph.initializer.add().CopyFrom(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _inferred(light: "onnx.ModelProto") -> dict[str, tuple[int, ...]]:
    """Return the shapes that can be inferred, by name."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True, data_prop=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for one in [*graph.input, *graph.value_info, *graph.output]:
        sizes = one.type.tensor_type.shape.dim
        if one.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            found[one.name] = tuple(size.dim_value for size in sizes)
    return found


def _fold_shapes(light: "onnx.ModelProto", sizes: dict[str, tuple[int, ...]]) -> bool:
    """Compute the small tensors of a graph that follow from its shapes, in place; return whether there were any."""
    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in light.graph.initializer}
    opset = {entry.domain: entry.version for entry in light.opset_import}
    left, before = [], len(values)
    for node in light.graph.node:
        small = all(math.prod(sizes.get(name, (NUM_AS_SHAPE + 1,))) <= NUM_AS_SHAPE for name in node.output if name)
        if node.op_type == "Shape" and node.input[0] in sizes:
            ends = {attribute.name: attribute.i for attribute in node.attribute}
            values[node.output[0]] = np.array(sizes[node.input[0]][ends.get("start") : ends.get("end")], np.int64)
        elif small and node.op_type in FOLDED and all(name in values or not name for name in node.input):
            given = {name: values[name] for name in node.input if name}
            computed: Any = ReferenceEvaluator(node, opsets=opset).run(None, given)
            values |= zip(node.output, computed, strict=True)
        else:
            left.append(node)
            continue
        for name in node.output:
            light.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values[name]), name))
    kept = [node.SerializeToString() for node in left]
    del light.graph.node[:]
    for content in kept:
        light.graph.node.add().ParseFromString(content)
    return len(values) > before
