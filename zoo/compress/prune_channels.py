"""Remove whole channels, attention heads and residual blocks, which leaves an ordinary, smaller net.

Fang et al., "DepGraph: towards any structural pruning", 2023. Channels go by zoo.compress.importance, blocks by
zoo.compress.remove_blocks.
"""

import contextlib
import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from zoo.compress.channel_cutting import CUT_LAYERS, places_lost, remove
from zoo.compress.channel_targets import cost_of, round_width, solve_for_macs, target_widths
from zoo.compress.context import Context
from zoo.compress.dependencies import Group, groups_of, is_depthwise, layers_of, shadow_of
from zoo.compress.importance import ImportanceName, scorer, with_gradients
from zoo.compress.latency_table import LatencyTable, timed_layers
from zoo.compress.latency_targets import solve_for_latency
from zoo.compress.recipe import Step, changes, layout
from zoo.compress.refit import Repair, first_images
from zoo.compress.refit import repair as repair_net
from zoo.compress.remove_blocks import choose_blocks, remove_blocks, without_blocks
from zoo.errors import BadInput
from zoo.measure.counts import count_macs_of, count_parameters
from zoo.measure.latency import Runtime
from zoo.models.activations import Maxout
from zoo.models.attention import Attention
from zoo.models.lenet import TableConv2d
from zoo.paths import LATENCIES
from zoo.ranges import Between, Index
from zoo.ranges import Count as Positive
from zoo.records.steps import Count, Layout, Name, Names, Record, Size, Text

INSTEAD = "compress=prune removes single weights of any net"
IMAGES_FOR_BLOCKS = 256  # on which blocks are compared


class StepRecord(Record, frozen=True, kw_only=True):
    """`latency` is the measured share of the dense net's time, `accuracy` that on validation images before training.

    `blocks` has the names of the blocks that were removed.
    """

    importance: Name
    scope: Name
    round_to: Size
    macs_before: Count
    macs: Count
    params_before: Count
    params: Count
    layout: dict[Text, Layout]
    latency: Annotated[float, Meta(gt=0, le=1e15)] | None = None
    latency_batch: Size | None = None
    latency_runtime: Name | None = None
    repair: Name = "none"
    accuracy: dict[Name, Annotated[float, Meta(ge=0, le=1)]] | None = None
    blocks: Names | None = None


def prune_channels(
    net: nn.Module,
    context: Context,
    *,
    ratio: Between | None = None,
    macs: Between | None = None,
    latency: Between | None = None,
    latency_batch: Positive = 16,
    latency_runtime: Runtime = "eager",
    latency_table: str | None = None,
    blocks: Index = 0,
    importance: ImportanceName = "magnitude",
    scope: Literal["layer", "global"] = "layer",
    round_to: Positive = 8,
    repair: Repair = "none",
) -> Step:
    """Prune `ratio` of all channels, by default half, or as many as leave a share of `macs` or `latency` within 5 %.

    First, as many residual blocks are removed as `blocks` says, those that change the outputs least for what they cost
    (zoo.compress.remove_blocks). The targets include them, and `ratio` is then 0 by default.
    With scope `layer` all groups lose the same share; with `global` the least important channels of the net go.
    Widths of at least 16 become multiples of `round_to`, or of half of it, and so on, if the target requires it.
    Inputs, classes and at least one channel or head of each group stay. Importance `taylor` takes batches of images and
    labels from the context, and so do `blocks` and `repair` (zoo.compress.refit).

    `latency` is a share of the time that the net takes on this machine's CPU for `latency_batch` images with
    `latency_runtime`. The times of layers are measured, and kept in the context's folder; those in the file
    `latency_table` are taken over. Raises BadInput for a net or target that does not allow it.
    """
    example = context.example
    _check(net, example)
    if latency is not None and (ratio is not None or macs is not None):
        other = "ratio" if macs is None else "macs"
        raise BadInput(f"compress.before_fit.channels.latency: expected no other target, and {other} is one")
    before, macs_before, params_before = layout(net), count_macs_of(net, example), count_parameters(net)
    table = None if latency is None else _latency_table(context, latency_batch, latency_runtime, latency_table)
    removed = _blocks_to_remove(net, blocks, table, context)
    thin = without_blocks(net, removed) if removed else net
    shadow = shadow_of(thin)
    layers = layers_of(shadow, example)
    timed = {} if latency is None else timed_layers(shadow, example, latency_batch)
    groups = groups_of(
        with_gradients(thin, context.batches) if importance == "taylor" else thin,
        shadow,
        example,
        scorer(thin, importance),
    )
    reached: dict[str, Any] = {}
    if table is not None and latency is not None:
        measure = functools.partial(_share_of_time, net, thin, groups, table)
        kept, round_to, share = solve_for_latency(groups, timed, latency, scope, round_to, table, measure)
        table.save()
        reached = {"latency": share, "latency_batch": latency_batch, "latency_runtime": latency_runtime}
    elif macs is not None:
        whole = cost_of([], layers_of(shadow_of(net), example) if removed else layers)([])
        kept, round_to = solve_for_macs(groups, layers, macs, scope, round_to, whole)
    else:
        widths = target_widths(groups, (0.0 if blocks else 0.5) if ratio is None else ratio, scope)
        kept = [round_width(group, units, round_to) for group, units in zip(groups, widths, strict=True)]
    _check_dependencies(thin, example, groups, kept)
    dense = copy.deepcopy(net)
    remove_blocks(net, removed)
    remove(net, groups, kept)
    lost = places_lost(groups, kept)
    if removed:
        lost = {(name, "in"): torch.tensor([], dtype=torch.int64) for name in layers} | lost
    accuracies = repair_net(net, dense, lost, repair, context.batches, context.accuracy)
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
        **reached,
        **({"blocks": removed} if removed else {}),
        "repair": repair,
        **({"accuracy": accuracies} if accuracies else {}),
    }


def _latency_table(context: Context, batch: int, runtime: Runtime, file: str | None) -> LatencyTable:
    """Return a table with the times in a file, or else in the run's folder if the run was stopped before training."""
    path = context.folder and context.folder / LATENCIES
    table = LatencyTable(context.example, batch, runtime, path)
    if file is not None:
        table.take(Path(file))
    elif path is not None and path.exists():
        with contextlib.suppress(BadInput):  # from another machine or other settings
            table.take(path)
    return table


def _share_of_time(
    net: nn.Module, thin: nn.Module, groups: Sequence[Group], table: LatencyTable, kept: Sequence[int]
) -> float:
    """Return the time of a copy of the thin net without all but the `kept` units, as a share of the net's."""
    narrow = copy.deepcopy(thin)
    remove(narrow, groups, kept)
    return table.share(narrow, net)


def _blocks_to_remove(net: nn.Module, number: int, table: LatencyTable | None, context: Context) -> list[str]:
    """Return the blocks that change the outputs least for their time, or without a table for their MACs."""
    if not number:
        return []
    shadow = shadow_of(net)
    if table is None:
        costs: dict[str, float] = {name: layer.macs for name, layer in layers_of(shadow, context.example).items()}
    else:
        layers = timed_layers(shadow, context.example, table.batch)
        costs = {name: table.layer_ms(layer, layer.num_in, layer.num_out) for name, layer in layers.items()}
    return choose_blocks(net, number, costs, first_images(context.batches, IMAGES_FOR_BLOCKS))


def replay(net: nn.Module, step: Step) -> None:
    """Remove the blocks named in a step; raise BadInput if one of them is not a removable block of the net."""
    try:
        remove_blocks(net, step.get("blocks") or [])
    except ValueError as error:
        raise BadInput(f"the recipe's step prune_channels does not fit this net: {error}") from error


def _check(net: nn.Module, example: tuple[Tensor, ...]) -> None:
    if len(example) > 1:
        raise BadInput(f"compress=prune_channels is for image nets, and {type(net).__name__} reads sequences")
    if any(isinstance(module, Maxout) for module in net.modules()):
        raise BadInput("compress=prune_channels cannot split the pairs of model.activation=maxout; use another one")
    for name, module in net.named_modules():
        if _is_foreign(module):
            raise BadInput(f"compress=prune_channels cannot cut '{name}', a {module}; {INSTEAD}")


def _is_foreign(module: nn.Module) -> bool:
    """Return whether `remove` would leave one of torch's layers unchanged, or cut it wrongly."""
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
        return module.groups in (module.in_channels, module.out_channels)  # one channel takes several others with it
    if isinstance(module, nn.PReLU):
        return module.num_parameters > 1
    has_tensors = any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
    return has_tensors and type(module).__module__.startswith("torch.") and not isinstance(module, CUT_LAYERS)


def _check_dependencies(
    net: nn.Module, example: tuple[Tensor, ...], groups: Sequence[Group], kept: Sequence[int]
) -> None:
    """Raise BadInput if channels were not followed to all layers that read them, for example through a channel shuffle.

    A copy whose layers ignore the channels to remove must compute the same without them. Inputs of layer norms are
    excluded, since removing them changes the statistics.
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
        for (name, side), lost in places_lost(groups, kept).items():
            if side == "in":
                _ignore(net, name, lost)
        before = net(images)
        remove(net, groups, kept)
        try:
            off = float((net(images) - before).abs().max())
        except RuntimeError:  # sizes do not fit
            off = float("inf")
    if off > 1e-6 * float(before.abs().max()):
        raise BadInput(
            f"compress=prune_channels cannot follow the channels of {type(net).__name__} to all layers that read them, "
            f"for example where they are shuffled; {INSTEAD}"
        )


def _ignore(net: nn.Module, name: str, lost: Tensor) -> None:
    """Set the weights with which a layer reads some of its inputs to 0."""
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
