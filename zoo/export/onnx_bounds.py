"""The ONNX graphs that ONNX Runtime may open: operators of nets, on numbers that are stored in the file itself."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# The standard ONNX operators used in our files.
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
MAX_ATTRIBUTE = 2**20  # of an operator's integers; positions in a shape may also be negative
MAY_BE_NEGATIVE = frozenset(["axis", "axes", "start", "end", "value_int", "value_ints"])
MAX_NODES = 2**13  # ViTs of the zoo have 436, and several times as many in int8


def check_graph(model: "onnx.ModelProto", num_bytes: int) -> None:
    """Raise ValueError for a graph, from a file of `num_bytes`, that could read files, run other graphs or mislead.

    zoo.export.onnx_sizes checks the sizes of its results.
    """
    import onnx

    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ValueError("its graph has functions, training or sparse tensors")
    if not graph.input or not graph.output or not all(one.type.tensor_type.shape.dim for one in graph.input):
        raise ValueError("its graph has no inputs, no samples or no outputs")
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"its graph has {len(graph.node):,} operators")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise ValueError(f"its graph uses the operator '{node.domain[:80]}:{node.op_type[:80]}'")
        if node.op_type == "Split" and any(
            attribute.name == "num_outputs" and attribute.i != len(node.output) for attribute in node.attribute
        ):  # which crashes ONNX's shape inference
            raise ValueError("an operator of its graph splits into a wrong number of results")
        for attribute in node.attribute:  # bad values of some, such as GatherND's batch_dims, crash the process
            least = -MAX_ATTRIBUTE if attribute.name in MAY_BE_NEGATIVE else 0
            if any(not least <= number <= MAX_ATTRIBUTE for number in (attribute.i, *attribute.ints)):
                raise ValueError(f"an operator of its graph has {attribute.name[:80]} out of range")
    for tensor in _tensors(graph):
        if tensor.data_location != onnx.TensorProto.DEFAULT or tensor.external_data:
            raise ValueError("its graph reads numbers from another file")
        if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 2 * num_bytes:  # two int4 numbers per byte
            raise ValueError(f"its tensor '{tensor.name[:80]}' is larger than the file")
    names = [one.name for one in (*graph.input, *graph.initializer)]
    names += [name for node in graph.node for name in node.output if name]
    if len(set(names)) < len(names):
        raise ValueError("its graph has two results of the same name")


def _tensors(graph: "onnx.GraphProto") -> Iterator["onnx.TensorProto"]:
    """Yield all tensors of a graph; raise ValueError if an operator has a subgraph."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
                raise ValueError("an operator of its graph has a subgraph")
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
