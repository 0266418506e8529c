"""Remove whole channels and attention heads, so that what is left is an ordinary, smaller net.

Fang et al., "DepGraph: towards any structural pruning", 2023. Importance is a mean over all layers that a channel
touches, relative to that of the channels which go by the same rule. Magnitude: squared weights. Batch norm: the size of
its scales (Liu et al., "Network slimming", 2017). Taylor: the change of the loss to first order (Molchanov et al.,
2019). LAMP: squared weights over the sum of those not smaller (Lee et al., 2020), of use with scope `global`.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.compress.dependencies import Group, Importance, Layer, groups_of, is_depthwise, layers_of, shadow_of
from zoo.compress.recipe import Step, changes, layout, put
from zoo.errors import BadInput
from zoo.measure.counts import count_macs_of, count_parameters
from zoo.models.activations import Maxout
from zoo.models.attention import Attention
from zoo.models.lenet import TableConv2d, TrainablePool2d
from zoo.models.resnet import PadShortcut
from zoo.ranges import Between, Count

TOLERANCE = 0.05  # of a target of MACs
LEAST_ROUNDED = 16  # channels: what is narrower is pruned one by one
INSTEAD = "compress=prune takes single weights of any net"
NUM_SAMPLES = 512  # for Taylor's gradients
CUT = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.PReLU)  # layers of torch's with weights
Name = Literal["magnitude", "batch_norm", "taylor", "lamp"]


def prune_channels(
    net: nn.Module,
    *,
    example: tuple[Tensor, ...],
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    ratio: Between = 0.5,
    macs: Between | None = None,
    importance: Name = "magnitude",
    scope: Literal["layer", "global"] = "layer",
    round_to: Count = 8,
) -> Step:
    """Prune `ratio` of all channels or, with `macs`, as many as leave that share of multiply-accumulates within 5 %.

    With scope `layer` all groups lose the same share; with `global` the least important channels go, wherever they are.
    Widths of 16 and more become multiples of `round_to`, or of its half, and so on, where `macs` is not to be met else.
    Inputs, classes and at least one channel or head of each group stay. `example` is what the net is called with for
    one sample, on the meta device; `batches` of images and labels are for importance `taylor`. BadInput for a net or a
    target that does not allow it.
    """
    _check(net, example)
    shadow = shadow_of(net)
    layers = layers_of(shadow, example)
    groups = groups_of(
        _with_gradients(net, batches) if importance == "taylor" else net, shadow, example, _scorer(net, importance)
    )
    before, macs_before, params_before = layout(net), count_macs_of(net, example), count_parameters(net)
    if macs is None:
        kept = [
            nearest(group, units, round_to) for group, units in zip(groups, ideal(groups, ratio, scope), strict=True)
        ]
    else:
        kept, round_to = meet(groups, layers, macs, scope, round_to)
    _check_dependencies(net, example, groups, kept)
    remove(net, groups, kept)
    return {
        "pass": "prune_channels",
        "importance": importance,
        "scope": scope,
        "round_to": round_to,
        "macs_before": macs_before,
        "macs": count_macs_of(net, example),
        "params_before": params_before,
        "params": count_parameters(net),
        "layout": changes(before, net),
    }


def _check(net: nn.Module, example: tuple[Tensor, ...]) -> None:
    if len(example) > 1:
        raise BadInput(f"compress=prune_channels is for nets of images, and {type(net).__name__} reads sequences")
    if any(isinstance(module, Maxout) for module in net.modules()):
        raise BadInput("compress=prune_channels cannot part the pairs of model.activation=maxout; any other will do")
    for name, module in net.named_modules():
        if _is_foreign(module):
            raise BadInput(f"compress=prune_channels cannot cut '{name}', a {module}; {INSTEAD}")


def _is_foreign(module: nn.Module) -> bool:
    """Return whether `remove` would leave a layer of torch's as it is, or get it wrong."""
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
        return module.groups in (module.in_channels, module.out_channels)  # several channels that go with one
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    has_tensors = any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    return has_tensors and type(module).__module__.startswith("torch.") and not isinstance(module, CUT)


def _check_dependencies(
    net: nn.Module, example: tuple[Tensor, ...], groups: Sequence[Group], kept: Sequence[int]
) -> None:
    """Raise BadInput where channels were not followed to all that reads them, as through a channel shuffle.

    A copy whose layers do not read what goes must compute the same once it is gone. What layer norms read is left out
    of this, since their statistics change with it.
    """
    net = copy.deepcopy(net).double().eval()
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LocalResponseNorm):
                setattr(module, name, nn.Identity())
    norms = {name for name, module in net.named_modules() if isinstance(module, nn.LayerNorm)}
    kept = [
        len(group.score) if norms & {member.name for member in group.members} else num
        for group, num in zip(groups, kept, strict=True)
    ]
    images = torch.randn(2, *example[0].shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for (name, side), lost in _lost(groups, kept).items():
            if side == "in":
                _ignore(net, name, lost)
        before = net(images)
        remove(net, groups, kept)
        try:
            off = float((net(images) - before).abs().max())
        except RuntimeError:  # sizes that do not fit
            off = float("inf")
    if off > 1e-6 * float(before.abs().max()):
        raise BadInput(
            f"compress=prune_channels cannot follow the channels of {type(net).__name__} to all layers that read them, "
            f"as where they are shuffled; {INSTEAD}"
        )


def _ignore(net: nn.Module, name: str, lost: Tensor) -> None:
    """Set the weights to 0 with which a layer reads some of its inputs."""
    where, _, leaf = name.rpartition(".")
    owner = net.get_submodule(where)
    if isinstance(owner, Attention) and leaf in "qkv":
        owner.in_proj_weight[:, lost] = 0
        return
    layer = owner.get_submodule(leaf)
    if isinstance(layer, TableConv2d):
        layer.weight[torch.isin(layer.inputs, lost)] = 0
    elif isinstance(layer, nn.Conv2d):
        width = layer.in_channels // layer.groups
        for i, part in enumerate(layer.weight.chunk(layer.groups)):
            part[:, lost[lost // width == i] % width] = 0
    elif isinstance(layer, nn.Linear):
        layer.weight[:, lost] = 0


def _scorer(net: nn.Module, importance: Name) -> Importance:
    from torch_pruning import importance as known

    if importance == "taylor":
        return known.GroupTaylorImportance()
    if importance == "lamp":
        return known.LAMPImportance()
    magnitude = known.GroupMagnitudeImportance()
    if importance == "magnitude":
        return magnitude
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        raise BadInput(f"importance=batch_norm: {type(net).__name__} has no batch norms here; magnitude will do")
    scale = known.BNScaleImportance()

    def by_scale(group: Any) -> Tensor | None:
        score = scale(group)
        return magnitude(group) if score is None else score  # of heads that have no norm

    return by_scale


def _with_gradients(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> nn.Module:
    """Copy the net, with the gradients of its loss, over all heads, on some training samples."""
    net, num = copy.deepcopy(net).train(), 0
    for parameter in net.parameters():
        parameter.requires_grad_()
    for images, labels in batches:
        output = net(images)
        heads = (output[0], *output[1]) if isinstance(output, tuple) else (output,)
        if not labels.is_floating_point() and labels.max() >= heads[0].shape[1]:
            raise BadInput("importance=taylor wants a net that names the classes of these data; magnitude will do")
        losses = [nn.functional.cross_entropy(head, labels, reduction="sum") for head in heads]
        torch.stack(losses).sum().backward()
        num += len(images)
        if num >= NUM_SAMPLES:
            break
    return net


def ideal(groups: Sequence[Group], ratio: float, scope: str) -> list[float]:
    """Give how many units of each group would stay, in fractions of one, if `ratio` of all channels went."""
    if scope == "layer":
        return [(1 - ratio) * len(group.score) for group in groups]
    scores = torch.cat([group.score for group in groups])
    channels = torch.cat([torch.full((len(group.score),), group.unit) for group in groups])
    order = scores.argsort(stable=True)
    gone = int((channels[order].cumsum(0) <= ratio * channels.sum()).sum())
    stays = torch.ones(len(scores), dtype=torch.bool)
    stays[order[:gone]] = False
    return [float(part.sum()) for part in stays.split([len(group.score) for group in groups])]


def grain(group: Group, round_to: int) -> int:
    """Give in steps of how many units a group is pruned, so that its blocks stay even and its width round."""
    wide = group.unit == 1 and group.num_channels // group.blocks >= LEAST_ROUNDED
    return group.blocks * (round_to if wide else 1)


def nearest(group: Group, units: float, round_to: int) -> int:
    """Round a number of units to what may stay of the group: at least one step, and no more than there are."""
    step = grain(group, round_to)
    return min(max(round(units / step), 1) * step, len(group.score))


def meet(
    groups: Sequence[Group], layers: dict[str, Layer], share: float, scope: str, round_to: int
) -> tuple[list[int], int]:
    """Give how many units of each group to keep for a share of the MACs, and what their widths are rounded to."""
    cost = cost_of(groups, layers)
    target = share * cost([len(group.score) for group in groups])
    best: list[int] = []
    while round_to:
        kept = _settle(groups, cost, target, scope, round_to)
        if not best or abs(cost(kept) - target) < abs(cost(best) - target):
            best = kept
        if abs(cost(kept) - target) <= TOLERANCE * target:
            return kept, round_to
        round_to //= 2
    raise BadInput(
        f"compress.before_fit.channels.macs={share} cannot be met within 5 %; the nearest that this net allows is "
        f"{share * cost(best) / target:.3g}"
    )


def _settle(
    groups: Sequence[Group], cost: Callable[[Sequence[float]], float], target: float, scope: str, round_to: int
) -> list[int]:
    """Find the ratio that meets the target by halving intervals, round all widths up, and then down one after another.

    The next to lose a step is the one furthest above what the ratio would leave it, and the last whichever fits best.
    """
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        over = cost([max(u, g.blocks) for g, u in zip(groups, ideal(groups, middle, scope), strict=True)]) > target
        low, high = (middle, high) if over else (low, middle)
    wanted = ideal(groups, high, scope)
    steps = [grain(group, round_to) for group in groups]
    kept = [min(-int(-u // s) * s or s, len(g.score)) for g, u, s in zip(groups, wanted, steps, strict=True)]
    previous = kept
    while cost(kept) > target:
        previous = list(kept)
        excess = [(k - u) / s if k > s else -1 for k, u, s in zip(kept, wanted, steps, strict=True)]
        i = max(range(len(groups)), key=excess.__getitem__)
        if excess[i] <= -1:
            break
        kept[i] = (kept[i] - 1) // steps[i] * steps[i]
    lower = [
        [*previous[:i], (k - 1) // step * step, *previous[i + 1 :]]
        for i, (k, step) in enumerate(zip(previous, steps, strict=True))
        if k > step
    ]
    return min([kept, previous, *lower], key=lambda units: abs(cost(units) - target))


def cost_of(groups: Sequence[Group], layers: dict[str, Layer]) -> Callable[[Sequence[float]], float]:
    """Give the function from the number of each group's units that stay to the MACs of the net."""
    shares: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)  # of a side: groups, places a unit
    for i, group in enumerate(groups):
        for member in group.members:
            shares[member.name, member.side].append((i, len(member.places) / len(group.score)))

    def cost(kept: Sequence[float]) -> float:
        total = 0.0
        for name, layer in layers.items():
            width = {"out": float(layer.num_out), "in": float(layer.num_in)}
            for side in width:
                width[side] -= sum(places * (len(groups[i].score) - kept[i]) for i, places in shares[name, side])
            total += layer.macs * (width["out"] / layer.num_out) * (width["in"] / layer.num_in)
            total += 2 * layer.pairs * width["out"]
        return total

    return cost


def _lost(groups: Sequence[Group], kept: Sequence[int]) -> dict[tuple[str, str], Tensor]:
    """Return, by name and side of layers, which places go where the `kept` most important units of groups stay."""
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
    """Take all but the `kept` most important units of each group out of the net."""
    for (name, side), lost in _lost(groups, kept).items():
        where, _, leaf = name.rpartition(".")
        owner = net.get_submodule(where)
        if isinstance(owner, Attention) and leaf in "qkv":
            if leaf == "q":  # the others lose the same
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
    """Take places of one dimension out of a module's parameter or buffer."""
    tensor = getattr(module, key)
    stays = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stays[lost] = False
    put(module, key, tensor.detach().index_select(dim, stays.nonzero().flatten()))


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
    of_all = torch.cat([lost + i * inner for i in range(3)])
    _cut_each(attention, ("in_proj_weight", "in_proj_bias"), of_all)


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
    put(conv, "weight", torch.cat(parts))
    conv.in_channels -= len(lost)


def _cut_table(conv: TableConv2d, side: str, lost: Tensor) -> None:
    """Take maps out of a table of connections, with all connections they had."""
    ends, size = ("outputs", "out_channels") if side == "out" else ("inputs", "in_channels")
    stays = torch.ones(getattr(conv, size), dtype=torch.bool)
    stays[lost] = False
    cut_off = (~stays[getattr(conv, ends)]).nonzero().flatten()
    _cut_each(conv, ("weight", "inputs", "outputs"), cut_off)
    new_places = stays.cumsum(0) - 1
    put(conv, ends, new_places[getattr(conv, ends)])
    setattr(conv, size, int(stays.sum()))
    if side == "out":
        _cut_each(conv, ("bias",), lost)
