"""Choose and remove whole residual blocks, of which only the shortcut stays.

Removing one block of a trained net changes its outputs little (Veit, Wilber, Belongie, "Residual networks behave like
ensembles of relatively shallow networks", 2016). A block takes its time whatever the width of its layers, so that for
the same time a net without some blocks keeps more of its weights than one with narrower layers.
"""

import copy
import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.compress.rate_rounding import update_norms
from zoo.errors import BadInput
from zoo.models.stochastic_depth import StochasticDepth

log = logging.getLogger("zoo")


def removable_blocks(net: nn.Module) -> list[str]:
    """Return the names of the residual blocks that would be the identity without their residual branch."""
    return [
        name
        for name, module in net.named_modules()
        if isinstance(getattr(module, "survive", None), StochasticDepth) and getattr(module, "downsample", None) is None
    ]


def remove_blocks(net: nn.Module, names: Sequence[str]) -> None:
    """Replace blocks with the identity, in place; raise ValueError if a name is not that of a removable block."""
    for name in names:
        if name not in removable_blocks(net):
            raise ValueError(f"'{name}' is not a residual block with an identity shortcut")
        net.set_submodule(name, nn.Identity().train(net.training))


def without_blocks(net: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a copy of the net without some blocks."""
    net = copy.deepcopy(net)
    remove_blocks(net, names)
    return net


@torch.no_grad()
def choose_blocks(net: nn.Module, number: int, costs: Mapping[str, float], images: Sequence[Tensor]) -> list[str]:
    """Return the names of the `number` blocks to remove from a net, in the order in which they were chosen.

    Each time, the block with the smallest ratio of harm to cost is chosen. Its harm is the mean squared change of the
    outputs for batches of images (N, C, H, W) without it, where batch norms are measured on these images with and
    without it. Its cost is the sum of the `costs` of its layers, by name. Raises BadInput unless at least one block
    would remain.
    """
    blocks = removable_blocks(net)
    if number >= len(blocks):
        raise BadInput(
            f"compress.before_fit.channels.blocks={number}: this net has {len(blocks)} residual blocks with an "
            "identity shortcut, and at least one must remain"
        )
    net, batches = copy.deepcopy(net).eval(), [(part,) for part in images]
    update_norms(net, batches)
    expected = [_outputs(net, part) for part in images]
    of_block = {block: sum(cost for name, cost in costs.items() if name.startswith(f"{block}.")) for block in blocks}

    def harm(block: str) -> float:
        thin = without_blocks(net, [*chosen, block])
        update_norms(thin, batches)
        changes = [(_outputs(thin, part) - there).square().mean() for part, there in zip(images, expected, strict=True)]
        return float(torch.stack(changes).mean()) / of_block[block]

    chosen: list[str] = []
    while len(chosen) < number:
        chosen.append(min((block for block in blocks if block not in chosen), key=harm))
    log.info("The residual blocks %s are removed.", ", ".join(chosen))
    return chosen


def _outputs(net: nn.Module, images: Tensor) -> Tensor:
    output = net(images)
    return (output[0] if isinstance(output, tuple) else output).float()
