"""A quantized net as a program in plain data, and back: a list of operations, and the tensors they read.

An operation is its name and arguments. `{"result": 3}` refers to the result of step 3, counted from 0 with the inputs,
`{"tensor": name}` to a tensor, and `{"dtype": name}` to a dtype.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo import memory
from zoo.errors import BadInput, reason
from zoo.measure.bounds import check_activations
from zoo.quantize.operators import INT8, PROBLEMS, bind, has_keywords, name_of_operator, operator_of
from zoo.records.steps import MAX_STEPS

Program = Sequence[Sequence[Any]]
MANY = 64  # samples that a program is tried with, besides two
MAX_SIZES, MAX_FACTOR = 64, 2**16  # limits of arithmetic on sizes


class QuantizedNet(fx.GraphModule):
    """Run a program in eval mode, whatever mode is set; it has no layers to train or to hook into.

    With a `source`, the file that the program came from, the computation is checked on the meta device for each new
    shape of inputs before it takes any memory. Raises BadInput if it cannot be computed.
    """

    head_names = ()
    source: str | None = None  # lost in copies, such as compiled ones
    shapes_seen: set[tuple[torch.Size, ...]]

    def recompile(self) -> Any:
        """Recompile the graph's code, without fx's wrapped call, which prints the code on failure."""
        code = super().recompile()
        type(self).__call__ = QuantizedNet._checked_call  # type: ignore[method-assign]
        return code

    def _checked_call(self, *inputs: Any) -> Any:
        if self.source is None or torch.compiler.is_compiling() or inputs[0].is_meta:
            return nn.Module.__call__(self, *inputs)
        shapes = tuple(one.shape for one in inputs)
        try:
            if shapes not in self.shapes_seen:
                check_samples(self, [torch.empty_like(one, device="meta") for one in inputs])
                self.shapes_seen.add(shapes)
            return nn.Module.__call__(self, *inputs)
        except PROBLEMS as error:
            sizes = ", ".join(str(list(one)) for one in shapes)
            raise BadInput(f"{self.source} cannot be computed for inputs of {sizes}: {reason(error)}") from error


def serialize(graph: fx.GraphModule) -> tuple[list[list[Any]], dict[str, Tensor]]:
    """Return a graph in eval mode as a program, and its tensors, named after the layers that read them.

    Unused tensors and dropout are left out. Raises ValueError for anything that a program cannot express.
    """
    names: dict[str, str] = {}  # of tensors, by their place in the graph
    places: dict[fx.Node, Any] = {}
    program: list[list[Any]] = []

    for node in graph.graph.nodes:
        if node.op == "placeholder":
            places[node] = {"result": len(program)}
            program.append(["input"])
        elif node.op == "get_attr":
            if str(node.target) not in names:
                names[str(node.target)] = _unique(_name_of(node), names.values())
            places[node] = {"tensor": names[str(node.target)]}
        elif node.op == "output":
            (result,) = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
            program.append(["output", places[result]])
        elif node.target is torch.ops.aten.dropout.default:
            places[node] = places[node.args[0]]
        else:
            arguments = [_plain(value, places) for value in node.args]
            keywords = {key: _plain(value, places) for key, value in node.kwargs.items() if value is not None}
            places[node] = {"result": len(program)}
            program.append([name_of_operator(node.target), *arguments, *([{"keywords": keywords}] if keywords else [])])
    read = set(tensors_of(program))
    tensors = {name: _tensor(graph, path).detach() for path, name in names.items() if name in read}
    return program, tensors


def _plain(value: Any, places: Mapping[fx.Node, Any]) -> Any:
    if isinstance(value, fx.Node):
        return places[value]
    if isinstance(value, list | tuple):
        return [_plain(part, places) for part in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a program cannot contain {value!r}")


def deserialize(
    program: Program,
    tensors: Mapping[str, Tensor],
    source: str,
    example: Callable[[int], Sequence[Tensor]] | None = None,
    tables: Sequence[Mapping[str, Sequence[str]]] = (INT8,),
) -> QuantizedNet:
    """Build the net of a program with its tensors; raise BadInput, naming the `source`, if the two are not a net.

    The program is untrusted, so none of its text reaches the code that torch.fx generates: operators are looked up in
    `tables`, their arguments are checked against their schemas, and tensors are renamed. With an `example`, which
    returns the net's inputs for a number of samples on the meta device, the net is tried there before it may take any
    memory.
    """
    # Registers quantized_decomposed, as torchao does.
    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    try:
        net = QuantizedNet(*_graph_of(program, tensors, tables), "QuantizedNet").eval()
        if example:
            for num_samples in (2, MANY):
                check_samples(net, example(num_samples))
            net.source, net.shapes_seen = source, set()
    except PROBLEMS as error:
        raise BadInput(f"{source} does not hold a program of a net: {reason(error)}") from error
    return net


def check_samples(net: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Call a net on the meta device by `check_activations`; raise ValueError unless results are one per sample."""
    num_samples = len(inputs[0])
    found = check_activations(net, inputs, max(1, num_samples), memory.available_bytes())
    for one in found if isinstance(found, tuple) else (found,):
        if not isinstance(one, Tensor) or one.dim() == 0 or len(one) != num_samples:
            raise ValueError(f"it does not return one result for each of {num_samples} samples")


def _graph_of(
    program: Program, tensors: Mapping[str, Tensor], tables: Sequence[Mapping[str, Sequence[str]]]
) -> tuple[dict[str, Tensor], fx.Graph]:
    """Return the renamed tensors of a program and its graph; raise ValueError if it is not a program."""
    if len(program) > MAX_STEPS:
        raise ValueError(f"it has {len(program):,} steps, expected at most {MAX_STEPS:,}")
    if set(tensors_of(program)) != tensors.keys():
        raise ValueError("its tensors are not the ones it reads")
    graph = fx.Graph()
    results: list[fx.Node] = []
    sizes: list[int] = []  # indices of results that are sizes
    places = {name: f"tensor_{number}" for number, name in enumerate(tensors)}
    nodes = {name: graph.get_attr(place) for name, place in places.items()}

    referred = functools.partial(_referred, nodes, results)
    for step in program:
        match step:
            case ["input"]:
                results.append(graph.placeholder(f"x{len(results)}"))
            case ["output", list(several)]:
                graph.output(tuple(referred(part) for part in several))
            case ["output", part]:
                graph.output(referred(part))
            case ["operator.add" | "operator.mul" as name, *arguments]:
                function, _ = operator_of(name, tables)
                results.append(graph.call_function(function, _of_sizes(name, arguments, sizes, results)))
                sizes.append(len(results) - 1)
            case [str(name), *arguments]:
                if name == "aten.sym_size.int":
                    sizes.append(len(results))
                function, parameters = operator_of(name, tables)
                keywords = arguments.pop()["keywords"] if has_keywords(arguments) else {}
                values, named = bind(parameters, arguments, keywords, referred)
                results.append(graph.call_function(function, values, named))
            case _:
                raise ValueError("a step is not a list that begins with the name of an operator")
    graph.lint()
    return {places[name]: _held(tensor) for name, tensor in tensors.items()}, graph


def _referred(nodes: Mapping[str, fx.Node], results: Sequence[fx.Node], part: Mapping[str, Any]) -> fx.Node:
    """Return what `{"result": number}` or `{"tensor": name}` stands for."""
    match part:
        case {"tensor": str(name), **rest} if not rest and name in nodes:
            return nodes[name]
        case {"result": int(number), **rest} if not rest and 0 <= number < len(results):
            return results[number]
    raise ValueError(f"{str(part)[:80]} is neither a tensor nor an earlier result")


def _of_sizes(name: str, arguments: Sequence[Any], sizes: Sequence[int], results: Sequence[fx.Node]) -> tuple[Any, ...]:
    """Return the arguments of arithmetic on sizes: an earlier size and a number or, in a sum, another size."""
    values: list[Any] = []
    for part in arguments:
        if isinstance(part, Mapping) and part.keys() == {"result"} and part["result"] in sizes:
            values.append(results[part["result"]])
        elif type(part) is int and 0 <= part <= MAX_FACTOR:
            values.append(part)
        else:
            raise ValueError(f"{str(part)[:80]} is neither a size nor a small number")
    squares = name == "operator.mul" and not any(isinstance(value, int) for value in values)
    if squares or len(values) != 2 or len(sizes) > MAX_SIZES:
        raise ValueError("it computes with more sizes than any net does")
    return tuple(values)


def _held(tensor: Tensor) -> Tensor:
    """Return a tensor as a net holds it: floating-point tensors become frozen parameters."""
    return nn.Parameter(tensor, requires_grad=False) if tensor.is_floating_point() else tensor


def tensors_of(part: Any) -> Iterable[str]:
    """Yield the names of the tensors that a part of a program reads."""
    if isinstance(part, Mapping):
        if "tensor" in part:
            yield part["tensor"]
        else:
            yield from tensors_of(list(part.values()))
    elif isinstance(part, list | tuple):
        for one in part:
            yield from tensors_of(one)


def _tensor(graph: fx.GraphModule, path: str) -> Tensor:
    owner, _, leaf = path.rpartition(".")
    return getattr(graph.get_submodule(owner), leaf)


def _name_of(node: fx.Node) -> str:
    """Return a tensor's name from the layer that reads it, such as conv1.weight_scale, or its name in the graph."""
    user = next(iter(node.users), node)
    role = ""
    if "dequantize_per_channel" in str(user.target):
        role = ("", "_scale", "_zero_point")[user.args.index(node)]
        user, node = next(iter(user.users)), user
    layer = layer_of(user)
    if layer is None or node not in user.args:
        return str(node.target)
    kinds = {1: "weight", 2: "bias"} if str(user.target) in ("aten.conv2d.default", "aten.linear.default") else {}
    kind = kinds.get(user.args.index(node))
    return f"{layer}.{kind}{role}" if kind else str(node.target)


def layer_of(node: fx.Node) -> str | None:
    """Return the name of the module that an operation of an exported net belongs to, or None."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].removeprefix("L['self'].") if stack and stack[-1][0] else None


def _unique(name: str, taken: Iterable[str]) -> str:
    num = Counter(other.partition("#")[0] for other in taken)[name]
    return f"{name}#{num}" if num else name
