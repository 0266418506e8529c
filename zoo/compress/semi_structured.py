"""Set two of every four weights to zero, which CUDA's sparse matrix products leave out (Mishra et al., 2021, "2:4").

The zeros are the mask, and nothing else is kept of it.
"""

import copy

import torch
from torch import Tensor, nn

from zoo.compress.context import Context
from zoo.compress.recipe import Step
from zoo.errors import BadInput
from zoo.records.steps import Names, Record

SIDE = 16  # what both sides of a matrix must be a multiple of for the kernels


class StepRecord(Record, frozen=True):
    layers: Names


def semi_structured(net: nn.Module, context: Context) -> Step:
    """Keep of every four weights that follow each other along a linear layer's inputs the two largest.

    That is done to all layers whose shapes the kernels take and that run in eval mode; attention's queries, keys and
    values, which are one matrix cut in three, stay dense.
    BadInput for a net without such a layer.
    """
    names = _fitting(net, context.example)
    if not names:
        raise BadInput(
            f"compress=semi_structured is for linear layers whose sides are multiples of {SIDE}, and "
            f"{type(net).__name__} has none here; take compress=prune or prune_channels"
        )
    for name in names:
        weight = net.get_parameter(f"{name}.weight")
        weight.data = weight.data * mask_of(weight.data)
    return {"pass": "semi_structured", "layers": names}


def mask_of(weight: Tensor) -> Tensor:
    """Mark the two largest of every four weights along a matrix's rows, of equal ones the first; True stays."""
    fours = weight.abs().unflatten(1, (-1, 4))
    order = fours.argsort(dim=2, descending=True, stable=True)
    return torch.zeros_like(fours, dtype=torch.bool).scatter(2, order[..., :2], True).flatten(1)


def _fitting(net: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
    """Name the linear layers with sides that the kernels take, in the order in which eval mode calls them."""
    ghost = copy.deepcopy(net).to("meta").eval()
    called: dict[str, None] = {}  # in the order of calls
    for name, module in ghost.named_modules():
        if isinstance(module, nn.Linear) and not (module.in_features % SIDE or module.out_features % SIDE):
            module.register_forward_hook(lambda module, args, output, name=name: called.setdefault(name))
    with torch.no_grad():
        ghost(*example)
    return list(called)


def use_sparse_kernels(net: nn.Module) -> int:
    """Turn a net on CUDA to fp16, and its layers of 2:4 weights to torch's semi-structured tensors; count these.

    A layer stays dense where this card's kernels do not take its shape.
    """
    net.half()
    net.register_forward_pre_hook(lambda net, args: tuple(x.half() if x.is_floating_point() else x for x in args))
    num = 0
    for layer in half_empty(net):
        try:
            sparse = torch.sparse.to_sparse_semi_structured(layer.weight.detach())
        except RuntimeError:
            continue
        layer.weight = nn.Parameter(sparse, requires_grad=False)
        num += 1
    return num


def half_empty(net: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of whose weights two in every four are zero."""
    layers = [m for m in net.modules() if isinstance(m, nn.Linear) and m.in_features % 4 == 0]
    return [layer for layer in layers if (layer.weight.unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2]
