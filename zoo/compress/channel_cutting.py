"""Remove channels and attention heads from layers."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.compress.dependencies import Group, is_depthwise
from zoo.compress.recipe import set_tensor
from zoo.models.attention import Attention
from zoo.models.lenet import TableConv2d, TrainablePool2d
from zoo.models.resnet import PadShortcut

CUT_LAYERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.PReLU)  # torch's layers with weights


def places_lost(groups: Sequence[Group], kept: Sequence[int]) -> dict[tuple[str, str], Tensor]:
    """Return the places to remove, by layer name and side, so that the `kept` most important units of groups stay."""
    gone: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for group, num in zip(groups, kept, strict=True):
        blocks = group.score.view(group.blocks, -1)
        order = blocks.argsort(dim=1, descending=True, stable=True)
        stays = torch.zeros_like(blocks, dtype=torch.bool).scatter(1, order[:, : num // group.blocks], True)
        stays = stays.flatten().repeat_interleave(group.unit)
        for member in group.members:
            gone[member.name, member.side].append(member.places[~stays[member.channels]])
    lost = {side: torch.cat(places) for side, places in gone.items()}
    return {side: places for side, places in lost.items() if len(places)}


def remove(net: nn.Module, groups: Sequence[Group], kept: Sequence[int]) -> None:
    """Remove all but the `kept` most important units of each group from the net."""
    for (name, side), lost in places_lost(groups, kept).items():
        where, _, leaf = name.rpartition(".")
        owner = net.get_submodule(where)
        if isinstance(owner, Attention) and leaf in "qkv":
            if leaf == "q":  # k and v lose the same places
                _cut_attention(owner, side, lost)
        elif isinstance(owner, PadShortcut):
            owner.num_new_maps -= len(lost)
        elif isinstance(owner, TrainablePool2d):
            _cut_each(owner, ("weight", "bias"), lost)
        elif leaf in owner._parameters:  # such as a class token
            cut(owner, leaf, -1, lost)
        else:
            _cut_layer(owner.get_submodule(leaf), side, lost)


def cut(module: nn.Module, key: str, dim: int, lost: Tensor) -> None:
    """Remove places along one dimension of a module's parameter or buffer."""
    tensor = getattr(module, key)
    stays = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stays[lost] = False
    set_tensor(module, key, tensor.detach().index_select(dim, stays.nonzero().flatten()))


def _cut_each(module: nn.Module, keys: Sequence[str], lost: Tensor) -> None:
    for key in keys:
        if getattr(module, key) is not None:
            cut(module, key, 0, lost)


def _cut_attention(attention: Attention, side: str, lost: Tensor) -> None:
    if side == "in":
        cut(attention, "in_proj_weight", 1, lost)
        return
    inner = len(attention.in_proj_weight) // 3
    attention.num_heads -= len(lost) * attention.num_heads // inner
    of_all_three = torch.cat([lost + i * inner for i in range(3)])
    _cut_each(attention, ("in_proj_weight", "in_proj_bias"), of_all_three)


def _cut_layer(layer: nn.Module, side: str, lost: Tensor) -> None:
    if isinstance(layer, nn.BatchNorm2d):
        layer.num_features -= len(lost)
        _cut_each(layer, ("weight", "bias", "running_mean", "running_var"), lost)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (layer.normalized_shape[0] - len(lost),)
        _cut_each(layer, ("weight", "bias"), lost)
    elif isinstance(layer, TableConv2d):
        _cut_table(layer, side, lost)
    elif isinstance(layer, nn.Conv2d):
        _cut_convolution(layer, side, lost)
    elif isinstance(layer, nn.Linear):
        if side == "out":
            layer.out_features -= len(lost)
            _cut_each(layer, ("weight", "bias"), lost)
        else:
            layer.in_features -= len(lost)
            cut(layer, "weight", 1, lost)


def _cut_convolution(conv: nn.Conv2d, side: str, lost: Tensor) -> None:
    if side == "out":
        if is_depthwise(conv):
            conv.in_channels -= len(lost)
            conv.groups -= len(lost)
        conv.out_channels -= len(lost)
        _cut_each(conv, ("weight", "bias"), lost)
        return
    width = conv.in_channels // conv.groups
    stays = torch.ones(conv.in_channels, dtype=torch.bool)
    stays[lost] = False
    weight = conv.weight.detach()
    parts = [part[:, own] for part, own in zip(weight.chunk(conv.groups), stays.split(width), strict=True)]
    set_tensor(conv, "weight", torch.cat(parts))
    conv.in_channels -= len(lost)


def _cut_table(conv: TableConv2d, side: str, lost: Tensor) -> None:
    """Remove maps from a table of connections, with all their connections."""
    ends, size = ("outputs", "out_channels") if side == "out" else ("inputs", "in_channels")
    stays = torch.ones(getattr(conv, size), dtype=torch.bool)
    stays[lost] = False
    cut_off = (~stays[getattr(conv, ends)]).nonzero().flatten()
    _cut_each(conv, ("weight", "inputs", "outputs"), cut_off)
    new_places = stays.cumsum(0) - 1
    set_tensor(conv, ends, new_places[getattr(conv, ends)])
    setattr(conv, size, int(stays.sum()))
    if side == "out":
        _cut_each(conv, ("bias",), lost)
