"""A quantized net as a program in plain data, and back: a list of operations, and the tensors that they read.

An operation is its name and arguments. Of these, `{"result": 3}` is what the third operation after the inputs gives,
`{"tensor": name}` a tensor, and `{"dtype": name}` a type of numbers.
"""

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo.errors import BadInput

Program = Sequence[Sequence[Any]]
# What a program may ask for. No rule by pattern, since torch.ops.aten has operators that read and write files.
OPERATIONS = {
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


class QuantizedNet(fx.GraphModule):
    """Run a program in eval mode, whatever mode is asked for; it has no layers of its own to train or to hook into."""

    head_names = ()


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
    read = set(_tensors(program))
    tensors = {name: _tensor(graph, path).detach() for path, name in names.items() if name in read}
    return program, tensors


def rebuilt(program: Program, tensors: Mapping[str, Tensor], source: str) -> QuantizedNet:
    """Build the net of a program with its tensors; BadInput, naming the `source`, where the two are no net."""
    # Registers quantized_decomposed, which torchao has from here, too.
    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    graph = fx.Graph()
    results: list[Any] = []

    def value_of(part: Any) -> Any:
        if isinstance(part, list):
            return [value_of(one) for one in part]
        if not isinstance(part, Mapping):
            return part
        ((kind, what),) = part.items()
        if kind == "tensor":
            return graph.get_attr(what) if what in tensors else _refuse(f"there is no tensor '{what}'")
        return results[what] if kind == "result" else getattr(torch, what)

    def _refuse(why: str) -> Any:
        raise ValueError(why)

    try:
        if set(_tensors(program)) != tensors.keys():
            _refuse("its tensors are not those that it reads")
        for name, *arguments in program:
            if name == "input":
                results.append(graph.placeholder(f"x{len(results)}"))
            elif name == "output":
                graph.output(value_of(arguments[0]))
            else:
                keywords = arguments.pop()["keywords"] if _has_keywords(arguments) else {}
                values = tuple(value_of(part) for part in arguments)
                keywords = {key: value_of(part) for key, part in keywords.items()}
                results.append(graph.call_function(_function(name), values, keywords))
        graph.lint()
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise BadInput(f"{source} holds no program of a quantized net: {error}") from error
    return QuantizedNet({name: _held(tensor) for name, tensor in tensors.items()}, graph, "QuantizedNet").eval()


def _held(tensor: Tensor) -> Tensor:
    """Give a tensor as a net holds it: numbers that are no integers are parameters, and are trained no more."""
    return nn.Parameter(tensor, requires_grad=False) if tensor.is_floating_point() else tensor


def has_word(target: Any) -> bool:
    """Return whether a program can name an operator of a traced net."""
    room, _, rest = str(target).partition(".")
    return target is operator.getitem or rest in OPERATIONS.get(room, ())


def _operation(target: Any) -> str:
    if target is operator.getitem:
        return "operator.getitem"
    name = str(target)
    room, _, rest = name.partition(".")
    if rest not in OPERATIONS.get(room, ()):
        raise ValueError(f"a program has no word for {name}")
    return name


def _function(name: str) -> Any:
    room, _, rest = name.partition(".")
    if rest not in OPERATIONS.get(room, ()):
        raise ValueError(f"'{name}' is no operation of a net")
    if room == "operator":
        return operator.getitem
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, room), packet), overload)


def _has_keywords(arguments: Sequence[Any]) -> bool:
    return bool(arguments) and isinstance(arguments[-1], Mapping) and "keywords" in arguments[-1]


def _tensors(part: Any) -> Iterable[str]:
    """Name the tensors that a part of a program reads."""
    if isinstance(part, Mapping):
        if "tensor" in part:
            yield part["tensor"]
        else:
            yield from _tensors(list(part.values()))
    elif isinstance(part, list | tuple):
        for one in part:
            yield from _tensors(one)


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
