"""ONNX graphs that crash a process, fill its memory or cannot be computed; each adds `more` to logits.

They use `images` (N, 1, 28, 28) and `before`, the logits (N, 10); `shape` is that of images, `num` is N, and
`whole` are the logits as int64.
"""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

Node = helper.make_node
FIRST = [
    Node("Shape", ["images"], ["shape"]),
    Node("Slice", ["shape", "[0]", "[1]"], ["num"]),
    Node("Cast", ["before"], ["whole"], to=TensorProto.INT64),
]
LEAST = -(2**63)


def constants(nodes):
    """Yield the constants of operators by their content as JSON: `7`, `[1, 2]` and, with a decimal point, floats."""
    for name in sorted({name for node in nodes for name in node.input if name and name[0] in "-[0123456789"}):
        values = np.array(json.loads(name))
        yield onnx.numpy_helper.from_array(values.astype(np.float32) if values.dtype.kind == "f" else values, name)
    for name, rows in (("of_input", 10), ("of_state", 4)):
        yield onnx.numpy_helper.from_array(np.zeros((1, 16, rows), np.float32), name)


def one(operator, *inputs, **attributes):
    return [Node(operator, inputs, ["more"], **attributes)]


def filled(size):
    return [*size, *one("ConstantOfShape", "size")]


# The smallest integer divided by -1, and integers by 0, which crash the process
DIVISIONS = {
    "divide_by_result": one("Div", "whole", "whole"),
    "divide_by_0": one("Div", "whole", "0"),
    "divide_least": [
        Node("Add", ["num", f"[{LEAST + 1}]"], ["near"]),
        Node("Sub", ["near", "num"], ["least"]),
        *one("Div", "least", "-1"),
    ],
    "modulo_result": one("Mod", "whole", "whole"),
    "modulo_size": [Node("Sub", ["num", "[4]"], ["zero"]), *one("Mod", "num", "zero")],
    "modulo_small": [Node("Cast", ["before"], ["small"], to=TensorProto.INT32), *one("Mod", "small", "small")],
}
# Much memory for some number of images, or for any
SIZES = {
    "large_for_4": filled([Node("Sub", ["num", "[2]"], ["over"]), Node("Mul", ["over", f"[{2**29}]"], ["size"])]),
    "large_for_just_4": filled(
        [Node("Equal", ["num", "[4]"], ["is"]), Node("Where", ["is", f"[{2**40}]", "[1]"], ["size"])]
    ),
    "range": one("Range", "0", f"{2**40}", "1"),
    "range_of_floats": one("Range", "0.0", "1e30", "1e-30"),
    "range_of_nothing": one("Range", "0", "10", "0"),
    "padded": one("Pad", "images", f"[0, 0, {2**40}, 0, 0, 0, 0, 0]"),
    "padded_pooled": one("AveragePool", "images", kernel_shape=[2, 2], pads=[2**30] * 4),
    "squared": filled([Node("Mul", ["num", "num"], ["square"]), Node("Mul", ["square", f"[{2**24}]"], ["size"])]),
    "negative_size": one("Expand", "0.0", f"[-{2**40}, -3]"),
    "negative_padding": one("Pad", "images", "[0, 0, -100, 0, 0, 0, 0, 0]"),
    "shape_of_no_shape": one("Reshape", "images", f"{2**63 - 1}"),
    "unknown_size": [Node("Squeeze", ["whole"], ["size"]), *one("Reshape", "before", "size")],
}
# Refused by operators: some in ONNX's shape inference, others in ONNX Runtime
REFUSED = {
    "no_such_column": one("Gather", "before", "[10]", axis=1),
    "index_of_nan": [
        Node("Div", ["before", "0.0"], ["odd"]),
        Node("Cast", ["odd"], ["index"], to=TensorProto.INT64),
        *one("Gather", "before", "index"),
    ],
    "no_such_place": one("ScatterND", "before", "[[0, 10]]", "[1.0]"),
    "negative_batch": one("GatherND", "images", "[[0, 0, 1, 1]]", batch_dims=-(2**31)),
    "no_such_row": one("GatherND", "before", "[[5]]"),
    "no_groups": one("Conv", "images", "[[[[1.0]]]]", group=0),
    "no_step": one("MaxPool", "images", kernel_shape=[2, 2], strides=[0, 0]),
    "no_kernel": one("AveragePool", "images", kernel_shape=[0, 0]),
    "no_dilation": one("MaxPool", "images", kernel_shape=[2, 2], dilations=[0, 0]),
    "far_reflection": one("Pad", "images", "[0, 0, 100, 0, 0, 0, 0, 0]", mode="reflect"),
    "lstm_of_other_size": [
        Node("Unsqueeze", ["before", "[0]"], ["sequence"]),
        *one("LSTM", "sequence", "of_input", "of_state", hidden_size=5),
    ],
    "lstm_of_negative_length": [
        Node("Unsqueeze", ["before", "[0]"], ["sequence"]),
        Node("Mul", ["num", "[-5]"], ["negative"]),
        Node("Cast", ["negative"], ["length"], to=TensorProto.INT32),
        *one("LSTM", "sequence", "of_input", "of_state", "", "length", hidden_size=4),
    ],
    "no_parts": one("Split", "before", num_outputs=0),
    "fewer_parts": [Node("Split", ["before"], ["more", "other"], num_outputs=1)],
    "odd_parts": [Node("Split", ["before", "[-4, 14]"], ["more", "other"], axis=1)],
    "two_unknown_sizes": one("Reshape", "before", "[-1, -1]"),
    "matrices_apart": one("MatMul", "before", "[[1.0]]"),
    "axis_out_of_range": one("QuantizeLinear", "images", "[1.0, 1.0, 1.0]", axis=77),
    "texts": [Node("Cast", ["before"], ["text"], to=TensorProto.STRING), *one("Cast", "text", to=TensorProto.FLOAT)],
    "twice": [Node("Relu", ["before"], ["more"]), Node("Relu", ["before"], ["more"])],
    "many_operators": [Node("Relu", ["before"], [f"x{i}"]) for i in range(9000)] + one("Relu", "before"),
}
ADDED = DIVISIONS | SIZES | REFUSED


def with_more(model, nodes):
    """Return a copy of a graph with extra operators whose `more` is summed and added to its logits."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    graph.node[-1].output[0] = "before"
    nodes = [*FIRST, *nodes, Node("Cast", ["more"], ["float"], to=TensorProto.FLOAT)]
    graph.node.extend(nodes)
    graph.node.append(Node("ReduceSum", ["float"], ["sum"], keepdims=0))
    graph.node.append(Node("Add", ["before", "sum"], [graph.output[0].name]))
    graph.initializer.extend(constants(nodes))
    return copied


def with_other_ends(model):
    """Yield graphs with inputs or outputs other than images and logits, by name."""
    images, logits = model.graph.input[0], model.graph.output[0]

    def changed(nodes=(), takes=(images,), gives=(logits,)):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        copied.graph.node[-1].output[0] = "before"
        copied.graph.node.extend(nodes)
        del copied.graph.input[:], copied.graph.output[:]
        copied.graph.input.extend(takes)
        copied.graph.output.extend(gives)
        return copied

    def end(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    same = Node("Identity", ["before"], ["logits"])
    yield "takes_two", changed([same], takes=(images, end("other", TensorProto.FLOAT, "batch")))
    yield "takes_three_images", changed([same], takes=(end("images", TensorProto.FLOAT, 3, 1, 28, 28),))
    yield "takes_a_number", changed([same], takes=(end("images", TensorProto.FLOAT),))
    yield "takes_texts", changed([same], takes=(images, end("other", TensorProto.STRING, "batch")))
    yield "gives_nothing", changed([same], gives=())
    yield "gives_two", changed([same], gives=(logits, end("before", TensorProto.FLOAT, "batch", 10)))
    for name in ("INT64", "STRING", "FLOAT16", "DOUBLE"):
        kind = TensorProto.DataType.Value(name)
        cast = Node("Cast", ["before"], ["logits"], to=kind)
        yield f"gives_{name.lower()}", changed([cast], gives=(end("logits", kind, "batch", 10),))
    yield "gives_each_twice", changed([Node("Concat", ["before", "before"], ["logits"], axis=0)])
    yield "gives_each_class_twice", changed([Node("Concat", ["before", "before"], ["logits"], axis=1)])
    constant = changed([Node("Identity", ["[[1.0]]"], ["logits"])], takes=())
    constant.graph.initializer.extend(constants(constant.graph.node[-1:]))
    yield "takes_nothing", constant
