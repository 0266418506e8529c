"""Remove channels that nothing reads: those whose outgoing weights are all zero."""

import torch
from torch import Tensor, nn

from zoo.compress.channel_cutting import remove
from zoo.compress.dependencies import Group, groups_of, shadow_of
from zoo.compress.recipe import Step, changes, layout
from zoo.measure.counts import count_macs_of
from zoo.models.attention import Attention
from zoo.models.lenet import TableConv2d
from zoo.records.steps import Count, Layout, Record, Text

MIXES_CHANNELS = (nn.LayerNorm, nn.LocalResponseNorm, nn.GroupNorm)  # read a channel also where no weight does


class StepRecord(Record, frozen=True, kw_only=True):
    macs_before: Count
    macs: Count
    layout: dict[Text, Layout]


def remove_unread(net: nn.Module, example: tuple[Tensor, ...]) -> Step | None:
    """Remove all channels and heads that nothing reads, which changes no output; return None if there are none.

    Removing one can leave an earlier one unread, so this is repeated. At least one of each group stays. Nets for
    sequences, and channels that norms mix with others, stay as they are.
    """
    before, macs_before = layout(net), count_macs_of(net, example)
    while len(example) == 1 and not any(isinstance(module, nn.LocalResponseNorm) for module in net.modules()):
        groups = groups_of(net, shadow_of(net), example, lambda found: torch.zeros(len(found[0].idxs)))
        groups = [with_score for group in groups if (with_score := _scored(net, group)) is not None]
        kept = [_num_read(group) for group in groups]
        if kept == [len(group.score) for group in groups]:
            break
        remove(net, groups, kept)
    found = changes(before, net)
    if not found:
        return None
    macs = count_macs_of(net, example)
    return {"pass": "remove_unread", "macs_before": macs_before, "macs": macs, "layout": found}


def _scored(net: nn.Module, group: Group) -> Group | None:
    """Return the group with 1 for each unit that is read and 0 for the others; None if that cannot be known."""
    read = torch.zeros(group.num_channels)
    readers = [member for member in group.members if member.side == "in"]
    for member in group.members:
        if isinstance(_owner(net, member.name), MIXES_CHANNELS):
            return None
    for member in readers:
        strengths = _strengths(net, member.name)
        if strengths is None:
            return None
        read.index_add_(0, member.channels, strengths[member.places])
    score = (read.view(-1, group.unit).sum(1) > 0).float()
    return Group(group.members, group.num_channels, group.unit, group.blocks, score) if readers else None


def _num_read(group: Group) -> int:
    """Return how many units to keep: as many in each block as the one with the most that are read, at least one."""
    return group.blocks * max(1, int(group.score.view(group.blocks, -1).sum(1).max()))


def _owner(net: nn.Module, name: str) -> nn.Module | None:
    try:
        return net.get_submodule(name)
    except AttributeError:  # a parameter, or a part of an attention
        return None


def _strengths(net: nn.Module, name: str) -> Tensor | None:
    """Return the sum of the sizes of the weights by which a layer reads each input; None for an unknown layer."""
    where, _, leaf = name.rpartition(".")
    owner, layer = net.get_submodule(where), _owner(net, name)
    if isinstance(owner, Attention) and leaf in "qkv":
        return owner.in_proj_weight.detach().abs().sum(0)
    if isinstance(layer, TableConv2d):
        sizes = layer.weight.detach().abs().flatten(1).sum(1)
        return torch.zeros(layer.in_channels).index_add_(0, layer.inputs, sizes)
    if isinstance(layer, nn.Conv2d):
        return torch.cat([part.detach().abs().sum((0, 2, 3)) for part in layer.weight.chunk(layer.groups)])
    return layer.weight.detach().abs().sum(0) if isinstance(layer, nn.Linear) else None
