"""Compare the contents of a file with its net on the meta device, where that takes no memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint.stored_config import stored_shape
from zoo.compress.recipe import replay
from zoo.errors import BadInput, reason
from zoo.quantize.graph_ir import tensors_of
from zoo.quantize.pt2e import program_of
from zoo.quantize.qat_int8 import is_trained_in_int8
from zoo.quantize.weight_only import apply_weight_only

RANGES = (".min_val", ".max_val")  # of fake quantizers: from inf to -inf before the first batch


def shape_of(facts: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> nn.Module:
    """Build the net that a file describes on the meta device, in eval mode; raise BadInput if its weights do not fit.

    A net that trains in int8 is returned as it was before preparation, and is not compared.
    """
    net = stored_shape(facts["config"]["model"], weights, source).eval()
    replay(net, facts["recipe"])
    apply_weight_only(net, facts["recipe"])
    if not is_trained_in_int8(facts["recipe"]):
        check_shapes(net, weights, source)
    return net


def check_promised(facts: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], source: str) -> None:
    """Raise BadInput unless these shapes are those of the net that a file describes.

    This check precedes decoding; the tensors of an int8 program are compared when it is built.
    """
    try:
        if program := program_of(facts["recipe"]):
            if set(tensors_of(program)) != shapes.keys():
                raise ValueError("they are not the ones its program reads")
            return
        promised = {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}
    except (RuntimeError, ValueError, OverflowError) as error:
        raise BadInput(f"{source} has no tensors of a net: {reason(error)}") from error
    shape_of(facts, promised, source)


def check_shapes(net: nn.Module, weights: Mapping[str, Tensor], source: str, replace_head: bool = False) -> list[str]:
    """Return the names of weights that belong to heads of another size; raise BadInput for weights of another net.

    Without `replace_head`, a head of another size counts as another net.
    """
    own = net.state_dict()
    heads: Any = net.head_names
    odd = sorted(own.keys() ^ weights.keys())
    wrong = [name for name in own if name not in odd and own[name].shape != weights[name].shape]
    left = [name for name in wrong if replace_head and name.rpartition(".")[0] in heads]
    if odd or wrong != left:
        name = (odd or [name for name in wrong if name not in left])[0]
        here, there = (tuple(w[name].shape) if name in w else "nothing" for w in (own, weights))
        raise BadInput(
            f"{source} holds the weights of another net: '{name}' is {there} in the file and {here} in this "
            f"{type(net).__name__}"
        )
    return left


def check_kinds(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise BadInput if dtypes differ from the net's, unless both are floating-point."""
    own = net.state_dict()
    for name, weight in weights.items():
        dtype = own[name].dtype
        if weight.dtype != dtype and not (weight.is_floating_point() and dtype.is_floating_point):
            raise BadInput(f"{source}: expected {dtype} of '{name}', got {weight.dtype}")


def check_numbers(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise BadInput for weights that are not finite, which make every output wrong."""
    for name, weight in weights.items():
        if not weight.is_floating_point():
            continue
        odd = "NaN" if weight.isnan().any() else "infinity" if weight.isinf().any() else None
        if odd == "NaN" or (odd and not name.endswith(RANGES)):
            raise BadInput(f"{source}: '{name}' holds {odd}, so the net cannot work; use an earlier file")
