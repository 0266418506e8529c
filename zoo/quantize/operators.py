"""The operators that a program may call, and checks of their arguments against their schemas."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Exceptions that operators raise for arguments they cannot compute.
PROBLEMS = (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AssertionError)
# The operators allowed in programs. No patterns, since torch.ops.aten has operators that read and write files.
INT8 = {  # image nets in int8; none of these computes a size or an index from pixel values
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
        *("new_zeros.default", "index_put.default"),  # of LeNet-5's connection table of 1998
    ),
    "operator": ("getitem",),
}
EXPORTED = {  # in addition, for all kinds of nets in .pt2 files
    "aten": (
        *("__and__.Scalar", "__rshift__.Scalar", "_int_mm.default", "abs.default", "alias.default"),
        *("arange.default", "dropout.default", "embedding.default", "expand_as.default", "gather.default"),
        *("gt.Scalar", "lstm.input", "ne.Scalar", "relu_.default"),
        *("repeat_interleave.self_int", "round.default", "stack.default", "sub.Tensor", "sum.dim_IntList"),
        *("t.default", "to.dtype", "where.ScalarOther", "where.self", "zeros.default"),
    ),
    "operator": ("add", "mul"),  # of sizes and numbers, so that sizes grow with the batch
}
MAX_LIST = 1024  # numbers or tensors in one argument
MODES = ("constant", "reflect", "replicate", "circular", "none", "tanh")  # the strings that operators of nets take
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
    """Compute torch.ops.aten.lstm.input; raise ValueError for sizes with which its kernel would read out of bounds."""
    both, rows = (2 if bidirectional else 1), [4 * states[0].shape[-1]]
    expected = [[num_layers * both, inputs.shape[0 if batch_first else 1], states[0].shape[-1]]] * 2
    for layer in range(min(num_layers, len(weights))):
        columns = inputs.shape[-1] if layer == 0 else both * states[0].shape[-1]
        expected += [[*rows, columns], [*rows, states[0].shape[-1]], *([rows, rows] if has_biases else [])] * both
    several = [inputs, *states, *weights]
    is_one_kind = len({one.dtype for one in several}) == 1 and inputs.is_floating_point()
    if inputs.dim() != 3 or [list(one.shape) for one in several[1:]] != expected or not is_one_kind:
        raise ValueError("the states and weights of an LSTM do not fit its inputs")
    return torch.ops.aten.lstm.input(
        inputs, states, weights, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )


OURS = {"aten.lstm.input": lstm}  # replacements of operators that do not check their arguments


def bind(
    parameters: Mapping[str, str], arguments: Sequence[Any], keywords: Mapping[str, Any], referred: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, checked against the kinds of its parameters; raise ValueError if one differs."""
    if len(arguments) > len(parameters):
        raise ValueError(f"{len(arguments)} arguments were passed to an operator that takes {len(parameters)}")
    names = list(parameters)
    values = tuple(_value(parameters[name], part, referred) for name, part in zip(names, arguments, strict=False))
    if not keywords.keys() <= set(names[len(values) :]):
        raise ValueError(f"an operator got {str(list(keywords))[:80]}, and takes {', '.join(names)}")
    return values, {name: _value(parameters[name], keywords[name], referred) for name in names if name in keywords}


def _value(kind: str, part: Any, referred: Callable[[Any], Any]) -> Any:
    """Return an argument of a kind, named as in operator schemas; raise ValueError if it is of another."""
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
        case ("float" | "number" | "Tensor", int() | float()) if is_number:  # torch makes tensors of numbers
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


def operator_of(name: str, tables: Sequence[Mapping[str, Sequence[str]]]) -> tuple[Callable[..., Any], dict[str, str]]:
    """Return an operator of a table and the kinds of its parameters by name; raise ValueError if no table has it."""
    room, _, rest = name.partition(".")
    if not any(rest in table.get(room, ()) for table in tables):
        raise ValueError(f"'{name[:80]}' is not an operator of such a net")
    if room == "operator":
        return getattr(operator, rest), {"a": "Tensor", "b": "int"}  # of getitem
    packet, _, overload = rest.partition(".")
    function = getattr(getattr(getattr(torch.ops, room), packet), overload)
    kinds = {argument.name: str(argument.real_type) for argument in function._schema.arguments}
    return OURS.get(name, function), kinds


def has_word(target: Any) -> bool:
    """Return whether a program of an int8 net can contain an operator of a traced net."""
    room, _, rest = str(target).partition(".")
    return target is operator.getitem or rest in INT8.get(room, ())


def name_of_operator(target: Any) -> str:
    if not has_word(target):
        raise ValueError(f"a program cannot express {target}")
    return "operator.getitem" if target is operator.getitem else str(target)


def has_keywords(arguments: Sequence[Any]) -> bool:
    return bool(arguments) and isinstance(arguments[-1], Mapping) and "keywords" in arguments[-1]
