"""Infer how large the results of an ONNX graph are from the shapes of its inputs, before anything is computed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import reason
from zoo.measure.bounds import MAX_NUMBERS, MAX_NUMBERS_IN_ALL

if TYPE_CHECKING:
    import onnx

    Nodes = Sequence[onnx.NodeProto]

# Operators that compute sizes; those that take and return few integers are evaluated here.
FOLDED = frozenset(
    [
        *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity"),
        *("Max", "Min", "Mod", "Mul", "Not", "Range", "ReduceMax", "Reshape", "Size", "Slice", "Squeeze", "Sub"),
        *("Unsqueeze", "Where"),
    ]
)
GROWING = frozenset(["ConstantOfShape", "Expand", "Range"])  # their inputs are the sizes of their results
FLOATS = frozenset(["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"])
INTEGERS = frozenset(["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])
NUM_AS_SHAPE = 1024  # the values of a tensor this small may be sizes of other tensors
MAX_INFERRED = 2**16  # operators whose sizes are inferred, summed over all rounds of inference
SAMPLES = 2  # that the bounds are meant for; they scale with the number of samples
Shape = tuple[int, ...]
Values = dict[str, np.ndarray]
Results = dict[str, tuple[str, Shape | None]]  # the type of each and, if known, its shape


class Sizes:
    """The parts of a graph that determine the sizes of its results: all but its weights.

    Raises ValueError for a graph whose results are not numbers, or that divides integers by a possible 0.
    """

    def __init__(self, model: "onnx.ModelProto") -> None:
        import onnx

        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        kept = onnx.GraphProto(input=model.graph.input)  # a copy, so that the weights are not kept alive
        kept.node.extend(node for node in model.graph.node if _constant_of(node) is None)
        self.inputs, self.nodes = list(kept.input), list(kept.node)
        self.values: Values = {}
        self.light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        self.light.graph.name = "sizes"
        positive = set()
        for name, tensor in _constants(model.graph):
            if math.prod(tensor.dims) <= NUM_AS_SHAPE:
                value = self.values[name] = onnx.numpy_helper.to_array(tensor)
                if value.dtype.kind in "iu" and value.size and value.min() > 0:
                    positive.add(name)
            else:  # as an input, since inference would copy its values
                self.light.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        _add(self.light, self.values)
        for one in model.graph.output:  # without the shape in the file, which may be wrong
            kind = one.type.tensor_type.elem_type
            self.light.graph.output.append(onnx.helper.make_tensor_value_info(one.name, kind, None))
        self._check_kinds(positive)

    def _check_kinds(self, positive: set[str]) -> None:
        """Raise ValueError for results that are not numbers, and for integers not divided by a positive constant.

        Dividing an integer by 0, or the smallest integer by -1, crashes the process.
        """
        results = _inferred(self._given([None] * len(self.inputs)), self.nodes)
        for node in self.nodes:
            for name in filter(None, node.output):
                kind, _ = results.get(name, ("", None))
                if kind not in FLOATS | INTEGERS | {"BOOL"}:
                    raise ValueError(f"its result '{name[:80]}' is of {kind.lower() or 'no type'}, which no net uses")
                if kind in INTEGERS and node.op_type in ("Div", "Mod") and node.input[1] not in positive:
                    raise ValueError(f"its result '{name[:80]}' divides integers by a possible 0")

    def _given(self, shapes: Sequence[Sequence[int] | None]) -> "onnx.ModelProto":
        """Return the graph without its weights and operators, for inputs of these shapes."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.light)
        for one, shape in zip(self.inputs, shapes, strict=True):
            kind = one.type.tensor_type.elem_type
            model.graph.input.append(onnx.helper.make_tensor_value_info(one.name, kind, shape))
        return model

    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """Raise ValueError if results for inputs of these shapes are too large, or their sizes cannot be inferred."""
        model, values, times = self._given(shapes), dict(self.values), max(1.0, shapes[0][0] / SAMPLES)
        nodes: Nodes = self.nodes
        unknown: list[str] = []
        results: Results = {one.name: ("", tuple(shape)) for one, shape in zip(self.inputs, shapes, strict=True)}
        for number in range(max(2, MAX_INFERRED // max(1, len(nodes)))):
            nodes, computed = self._fold(nodes, results, values)
            if number and not computed:
                raise ValueError(f"the size of its result '{unknown[0][:80]}' is not known before it is computed")
            _add(model, computed)
            results = _inferred(model, nodes)
            _check_sizes(results, nodes, times)
            names = [name for node in nodes for name in node.output if name]
            unknown = [name for name in names if results.get(name, ("", None))[1] is None]
            if not unknown:
                return
        raise ValueError("its sizes depend on each other in more steps than those of any net")

    def _fold(self, nodes: "Nodes", results: Results, values: Values) -> tuple["Nodes", Values]:
        """Compute the few integers that follow from shapes and add them to `values`; return the rest and these."""
        from onnx.reference import ReferenceEvaluator

        left: list[onnx.NodeProto] = []
        computed: Values = {}
        for node in nodes:
            given = {name: values.get(name) for name in node.input if name}
            if node.op_type == "Shape" and (shape := results.get(node.input[0], ("", None))[1]) is not None:
                ends = {attribute.name: attribute.i for attribute in node.attribute}
                found = [np.array(shape[ends.get("start") : ends.get("end")], np.int64)]
            elif node.op_type in FOLDED and all(map(_is_whole, given.values())) and _is_small(node, results, given):
                evaluator: Any = ReferenceEvaluator(node, opsets=self.opsets)
                try:
                    with np.errstate(all="ignore"):
                        found = [np.asarray(one) for one in evaluator.run(None, given)]
                except Exception as error:  # exceptions of NumPy and ONNX have no common base class
                    raise ValueError(f"{node.op_type} of its graph cannot be computed: {reason(error)}") from error
            else:
                left.append(node)
                continue
            for name, value in zip(node.output, found, strict=True):
                values[name] = computed[name] = value
        return left, computed


def _constant_of(node: "onnx.NodeProto") -> "onnx.TensorProto | None":
    """Return the tensor of a Constant operator, or None for other operators."""
    is_tensor = node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]
    return node.attribute[0].t if is_tensor else None


def _constants(graph: "onnx.GraphProto") -> Iterator[tuple[str, "onnx.TensorProto"]]:
    """Yield the tensors that a graph holds, with their names."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from ((node.output[0], tensor) for node in graph.node if (tensor := _constant_of(node)) is not None)


def _add(model: "onnx.ModelProto", values: Values) -> None:
    import onnx

    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())


def _is_small(node: "onnx.NodeProto", results: Results, given: Mapping[str, np.ndarray | None]) -> bool:
    """Return whether an operator's results are small, judged by their shapes or, if unknown, by those of its inputs."""
    shapes = [results.get(name, ("", None))[1] for name in node.output if name]
    if node.op_type in GROWING or None not in shapes:
        return all(shape is not None and math.prod(shape) <= NUM_AS_SHAPE for shape in shapes)
    return math.prod(value.size for value in given.values() if value is not None) <= NUM_AS_SHAPE


def _is_whole(value: np.ndarray | None) -> bool:
    """Return whether values are integers, which ONNX Runtime computes as NumPy does."""
    return value is not None and value.dtype.kind in "iub"


def _inferred(model: "onnx.ModelProto", nodes: "Nodes") -> Results:
    """Return the types and inferred shapes of all values of a graph with these operators, by name.

    ONNX could also propagate sizes as data, but would allocate as much memory as the graph claims to need.
    """
    import onnx

    del model.graph.node[:]
    model.graph.node.extend(nodes)
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found: Results = {}
    for one in [*graph.input, *graph.value_info, *graph.output]:
        tensor = one.type.tensor_type
        is_known = tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim)
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        found[one.name] = kind, tuple(size.dim_value for size in tensor.shape.dim) if is_known else None
    for tensor in graph.initializer:
        found[tensor.name] = onnx.TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims)
    return found


def _check_sizes(results: Results, nodes: "Nodes", times: float) -> None:
    """Raise ValueError if one result, or all together, would be too large, or a size is negative."""
    total = 0
    for name in [name for node in nodes for name in node.output if name]:
        shape = results.get(name, ("", None))[1] or ()
        total += math.prod(shape)
        if max(math.prod(shape) / MAX_NUMBERS, total / MAX_NUMBERS_IN_ALL) > times or min(shape, default=0) < 0:
            raise ValueError(f"its result '{name[:80]}' would be of shape {str(shape)[:80]}, which no net has")
