"""A quantized net as a program in plain data, and back: a list of operations, and the tensors that they read.

An operation is its name and arguments. Of these, `{"result": 3}` is what the third operation after the inputs gives,
`{"tensor": name}` a tensor, and `{"dtype": name}` a type of numbers.
"""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo import memory
from zoo.errors import BadInput, reason
from zoo.measure.bounds import check_activations
from zoo.records.metadata import MAX_STEPS

Program = Sequence[Sequence[Any]]
# What operators raise that are called with what they cannot compute.
PROBLEMS = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError)
# What programs may ask for. No rule by pattern, since torch.ops.aten has operators that read and write files.
INT8 = {  # nets of images in int8; none of these computes a size or a place from numbers of a picture
    "quantized_decomposed": (
        "quantize_per_tensor.default",
        "dequantize_per_tensor.default",
        "quantize_per_channel.default",
        "dequantize_per_channel.default",
    ),
    "aten": (
        *("conv2d.default", "linear.default", "batch_norm.default", "layer_norm.default"),
        *("scaled_dot_product_attention.default", "relu.default", "leaky_relu.default", "prelu.default"),
        *("elu.default", "selu.default", "gelu.default", "silu.default", "tanh.default", "sigmoid.default"),
        *("softplus.default", "amax.default", "max_pool2d.default", "avg_pool2d.default", "avg_pool3d.default"),
        *("adaptive_avg_pool2d.default", "adaptive_max_pool2d.default", "pad.default", "cat.default"),
        *("add.Tensor", "mul.Tensor", "div.Tensor", "pow.Tensor_Scalar", "flatten.using_ints", "unflatten.int"),
        *("view.default", "expand.default", "select.int", "slice.Tensor", "transpose.int", "permute.default"),
        *("squeeze.dim", "unsqueeze.default", "sym_size.int", "relu6.default", "hardtanh.default", "hardswish.default"),
        *("hardsigmoid.default", "clamp.default", "mean.dim", "chunk.default", "split.Tensor"),
        *("split_with_sizes.default", "reshape.default", "contiguous.default", "clone.default"),
    ),
    "operator": ("getitem",),
}
EXPORTED = {  # beyond these, nets of all kinds in .pt2 files
    "aten": (
        *("__and__.Scalar", "__rshift__.Scalar", "_int_mm.default", "abs.default", "alias.default"),
        *("arange.default", "dropout.default", "embedding.default", "expand_as.default", "gather.default"),
        *("gt.Scalar", "index_put.default", "lstm.input", "ne.Scalar", "new_zeros.default", "relu_.default"),
        *("repeat_interleave.self_int", "round.default", "stack.default", "sub.Tensor", "sum.dim_IntList"),
        *("t.default", "to.dtype", "where.ScalarOther", "where.self", "zeros.default"),
    ),
    "operator": ("add", "mul"),  # of sizes, and with numbers, so that they grow as the batch does
}
MAX_LIST = 1024  # of numbers or tensors, in one argument
MANY = 64  # samples with which a program is tried, besides two
MAX_SIZES, MAX_FACTOR = 64, 2**16  # of arithmetic on sizes
MODES = ("constant", "reflect", "replicate", "circular", "none", "tanh")  # the texts that operators of nets take
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}
MEMORY_FORMATS = {
    str(form).removeprefix("torch."): form
    for form in (torch.contiguous_format, torch.preserve_format, torch.channels_last)
}


class QuantizedNet(fx.GraphModule):
    """Run a program in eval mode, whatever mode is asked for; it has no layers of its own to train or to hook into.

    With a `source`, the file that the program came from, what it computes is checked on the meta device for each new
    shape of inputs, before it takes any memory. BadInput where it cannot be computed.
    """

    head_names = ()
    source: str | None = None  # which copies lose, as those that are compiled
    shapes_seen: set[tuple[torch.Size, ...]]

    def recompile(self) -> Any:
        """Take the code of the graph, but not fx's own way to call it, which prints the code where it fails."""
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


def written(graph: fx.GraphModule) -> tuple[list[list[Any]], dict[str, Tensor]]:
    """Give a graph in eval mode as a program, and its tensors, named after the layers that read them.

    What no operation reads is left out, and so is dropout. ValueError for what a program has no word for.
    """
    names: dict[str, str] = {}  # of tensors, by where the graph has them
    places: dict[fx.Node, Any] = {}
    program: list[list[Any]] = []

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return places[value]
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ValueError(f"a program has no word for {value!r}")

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
            arguments = [plain(value) for value in node.args]
            keywords = {key: plain(value) for key, value in node.kwargs.items() if value is not None}
            places[node] = {"result": len(program)}
            program.append([_operation(node.target), *arguments, *([{"keywords": keywords}] if keywords else [])])
    read = set(tensors_of(program))
    tensors = {name: _tensor(graph, path).detach() for path, name in names.items() if name in read}
    return program, tensors


def rebuilt(
    program: Program,
    tensors: Mapping[str, Tensor],
    source: str,
    example: Callable[[int], Sequence[Tensor]] | None = None,
    tables: Sequence[Mapping[str, Sequence[str]]] = (INT8,),
) -> QuantizedNet:
    """Build the net of a program with its tensors; BadInput, naming the `source`, where the two are not a net.

    The program may come from anywhere, so that nothing of its text reaches the code that torch.fx generates: operators
    are keys of `tables`, their arguments are checked against their schemas, and tensors get names of ours. With an
    `example`, which returns what the net is called with for a number of samples, on the meta device, it is tried there
    before it may take any memory.
    """
    # Registers quantized_decomposed, which torchao has from here, too.
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
    """Call a net on the meta device as `check_activations` does; ValueError unless all it gives is one per sample."""
    num_samples = len(inputs[0])
    found = check_activations(net, inputs, max(1, num_samples), memory.available_bytes())
    for one in found if isinstance(found, tuple) else (found,):
        if not isinstance(one, Tensor) or one.dim() == 0 or len(one) != num_samples:
            raise ValueError(f"it does not give one result for each of {num_samples} samples")


def lstm(
    inputs: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """Compute torch.ops.aten.lstm.input; ValueError for sizes that do not fit, beside which its kernel would read."""
    both, rows = (2 if bidirectional else 1), [4 * states[0].shape[-1]]
    wanted = [[num_layers * both, inputs.shape[0 if batch_first else 1], states[0].shape[-1]]] * 2
    for layer in range(min(num_layers, len(weights))):
        columns = inputs.shape[-1] if layer == 0 else both * states[0].shape[-1]
        wanted += [[*rows, columns], [*rows, states[0].shape[-1]], *([rows, rows] if has_biases else [])] * both
    several = [inputs, *states, *weights]
    is_one_kind = len({one.dtype for one in several}) == 1 and inputs.is_floating_point()
    if inputs.dim() != 3 or [list(one.shape) for one in several[1:]] != wanted or not is_one_kind:
        raise ValueError("the states and weights of an LSTM do not fit its inputs")
    return torch.ops.aten.lstm.input(
        inputs, states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )


OURS = {"aten.lstm.input": lstm}  # in the place of operators that do not check what they are given


def _graph_of(
    program: Program, tensors: Mapping[str, Tensor], tables: Sequence[Mapping[str, Sequence[str]]]
) -> tuple[dict[str, Tensor], fx.Graph]:
    """Return the tensors of a program under names of ours, and its graph; ValueError for what is not a program."""
    if len(program) > MAX_STEPS:
        raise ValueError(f"it has {len(program):,} steps, and at most {MAX_STEPS:,} may be")
    if set(tensors_of(program)) != tensors.keys():
        raise ValueError("its tensors are not those that it reads")
    graph = fx.Graph()
    results: list[fx.Node] = []
    sizes: list[int] = []  # which of them are sizes
    places = {name: f"tensor_{number}" for number, name in enumerate(tensors)}
    nodes = {name: graph.get_attr(place) for name, place in places.items()}

    def referred(part: Mapping[str, Any]) -> fx.Node:
        """Return what `{"result": number}` and `{"tensor": name}` stand for."""
        match part:
            case {"tensor": str(name), **rest} if not rest and name in nodes:
                return nodes[name]
            case {"result": int(number), **rest} if not rest and 0 <= number < len(results):
                return results[number]
        raise ValueError(f"{str(part)[:80]} is neither a tensor nor an earlier result")

    for step in program:
        match step:
            case ["input"]:
                results.append(graph.placeholder(f"x{len(results)}"))
            case ["output", list(several)]:
                graph.output(tuple(referred(part) for part in several))
            case ["output", part]:
                graph.output(referred(part))
            case ["operator.add" | "operator.mul" as name, *arguments]:
                function, _ = _operator_of(name, tables)
                results.append(graph.call_function(function, _of_sizes(name, arguments, sizes, results)))
                sizes.append(len(results) - 1)
            case [str(name), *arguments]:
                if name == "aten.sym_size.int":
                    sizes.append(len(results))
                function, parameters = _operator_of(name, tables)
                keywords = arguments.pop()["keywords"] if _has_keywords(arguments) else {}
                values, named = bind(parameters, arguments, keywords, referred)
                results.append(graph.call_function(function, values, named))
            case _:
                raise ValueError("a step is not a list that begins with the name of an operator")
    graph.lint()
    return {places[name]: _held(tensor) for name, tensor in tensors.items()}, graph


def _of_sizes(name: str, arguments: Sequence[Any], sizes: Sequence[int], results: Sequence[fx.Node]) -> tuple[Any, ...]:
    """Return the arguments of arithmetic on sizes: one earlier size, and one number or, in a sum, another size."""
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


def bind(
    parameters: Mapping[str, str], arguments: Sequence[Any], keywords: Mapping[str, Any], referred: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, each checked against the kind of its parameter; ValueError where one differs."""
    if len(arguments) > len(parameters):
        raise ValueError(f"{len(arguments)} arguments were given to an operator that takes {len(parameters)}")
    names = list(parameters)
    values = tuple(_value(parameters[name], part, referred) for name, part in zip(names, arguments, strict=False))
    if not keywords.keys() <= set(names[len(values) :]):
        raise ValueError(f"an operator was given {str(list(keywords))[:80]}, and takes {', '.join(names)}")
    return values, {name: _value(parameters[name], keywords[name], referred) for name in names if name in keywords}


def _value(kind: str, part: Any, referred: Callable[[Any], Any]) -> Any:
    """Return an argument of a kind, by the words of operators' schemas; ValueError where it is of another."""
    if kind.startswith("Optional["):
        return None if part is None else _value(kind[9:-1], part, referred)
    if kind.startswith("List[") and isinstance(part, list) and len(part) <= MAX_LIST:
        return [_value(kind[5:-1], one, referred) for one in part]
    is_number = isinstance(part, int | float) and not isinstance(part, bool)
    match kind, part:
        case ("Tensor" | "int" | "number", {"tensor": _} | {"result": _}):
            return referred(part)
        case ("int", int()) if is_number and abs(part) < 2**63:
            return part
        case ("float" | "number" | "Tensor", int() | float()) if is_number:  # for which torch makes tensors of numbers
            return part
        case ("bool", bool()):
            return part
        case ("str", str()) if part in MODES:
            return part
        case ("ScalarType", {"dtype": str(name), **rest}) if not rest and name in DTYPES:
            return DTYPES[name]
        case ("MemoryFormat", {"memory_format": str(name), **rest}) if not rest and name in MEMORY_FORMATS:
            return MEMORY_FORMATS[name]
    raise ValueError(f"{str(part)[:80]} is not of the kind {kind}")


def _operator_of(name: str, tables: Sequence[Mapping[str, Sequence[str]]]) -> tuple[Callable[..., Any], dict[str, str]]:
    """Return an operator of a table, and the kinds of its parameters by name; ValueError where no table has it."""
    room, _, rest = name.partition(".")
    if not any(rest in table.get(room, ()) for table in tables):
        raise ValueError(f"'{name[:80]}' is not an operator of such a net")
    if room == "operator":
        return getattr(operator, rest), {"a": "Tensor", "b": "int"}  # of getitem
    packet, _, overload = rest.partition(".")
    function = getattr(getattr(getattr(torch.ops, room), packet), overload)
    kinds = {argument.name: str(argument.real_type) for argument in function._schema.arguments}
    return OURS.get(name, function), kinds


def _held(tensor: Tensor) -> Tensor:
    """Give a tensor as a net holds it: numbers that are no integers are parameters, and are trained no more."""
    return nn.Parameter(tensor, requires_grad=False) if tensor.is_floating_point() else tensor


def has_word(target: Any) -> bool:
    """Return whether a program of an int8 net can name an operator of a traced net."""
    room, _, rest = str(target).partition(".")
    return target is operator.getitem or rest in INT8.get(room, ())


def _operation(target: Any) -> str:
    if not has_word(target):
        raise ValueError(f"a program has no word for {target}")
    return "operator.getitem" if target is operator.getitem else str(target)


def _has_keywords(arguments: Sequence[Any]) -> bool:
    return bool(arguments) and isinstance(arguments[-1], Mapping) and "keywords" in arguments[-1]


def tensors_of(part: Any) -> Iterable[str]:
    """Name the tensors that a part of a program reads."""
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
    """Name a tensor after the layer that reads it, as conv1.weight and conv1.weight_scale, or after its own place."""
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
    """Give the name of the module that an operation of an exported net comes from, or None."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0].removeprefix("L['self'].") if stack and stack[-1][0] else None


def _unique(name: str, taken: Iterable[str]) -> str:
    num = Counter(other.partition("#")[0] for other in taken)[name]
    return f"{name}#{num}" if num else name
