"""Set two of every four weights to zero, which CUDA's sparse matrix products skip (Mishra et al., 2021, "2:4").

The zeros are the mask; no other is stored.
"""

import copy

import torch
from torch import Tensor, nn

from zoo.compress.context import Context
from zoo.compress.recipe import Step
from zoo.errors import BadInput
from zoo.records.steps import Names, Record

SIDE = 16  # the kernels need both sides of a matrix to be multiples of this


class StepRecord(Record, frozen=True):
    layers: Names


def semi_structured(net: nn.Module, context: Context) -> Step:
    """Keep the two largest of every four consecutive weights along a linear layer's inputs.

    This applies to all layers that run in eval mode and whose shapes the kernels support; attention's queries, keys
    and values, which are one matrix split in three, stay dense.
    Raises BadInput for a net without such a layer.
    """
    names = _fitting(net, context.example)
    if not names:
        raise BadInput(
            f"compress=semi_structured is for linear layers whose sides are multiples of {SIDE}, and "
            f"{type(net).__name__} has none here; use compress=prune or prune_channels"
        )
    for name in names:
        weight = net.get_parameter(f"{name}.weight")
        weight.data = weight.data * mask_of(weight.data)
    return {"pass": "semi_structured", "layers": names}


def mask_of(weight: Tensor) -> Tensor:
    """Return the mask of the two largest of every four weights along a matrix's rows; the first wins among equals."""
    fours = weight.abs().unflatten(1, (-1, 4))
    order = fours.argsort(dim=2, descending=True, stable=True)
    return torch.zeros_like(fours, dtype=torch.bool).scatter(2, order[..., :2], True).flatten(1)


def _fitting(net: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
    """Return the names of linear layers with sides that the kernels support, in the order of calls in eval mode."""
    ghost = copy.deepcopy(net).to("meta").eval()
    called: dict[str, None] = {}  # in the order of calls
    for name, module in ghost.named_modules():
        if isinstance(module, nn.Linear) and not (module.in_features % SIDE or module.out_features % SIDE):
            module.register_forward_hook(lambda module, args, output, name=name: called.setdefault(name))
    with torch.no_grad():
        ghost(*example)
    return list(called)


def use_sparse_kernels(net: nn.Module) -> int:
    """Convert a net on CUDA to fp16, and its 2:4 layers to torch's semi-structured tensors; return how many.

    A layer stays dense if the kernels of this GPU do not support its shape.
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
    """Return the linear layers in which at least two of every four weights are zero."""
    layers = [m for m in net.modules() if isinstance(m, nn.Linear) and m.in_features % 4 == 0]
    return [layer for layer in layers if (layer.weight.unflatten(1, (-1, 4)) != 0).sum(2).max() <= 2]
