"""Find which channels of a net must be pruned together, with torch-pruning's dependency graph (Fang et al., 2023).

The graph is built from a shadow of the net on the meta device, in which modules that torch-pruning cannot follow are
replaced by plain layers with the same dependencies, whatever they compute.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.attention import Attention
from zoo.models.lenet import TableConv2d, TrainablePool2d
from zoo.models.resnet import PadShortcut

Importance = Callable[[Any], Tensor | None]  # maps a torch-pruning group to one number per channel


@dataclass(frozen=True)
class Member:
    """A side of a module, `out` or `in`, or a parameter: the places in it of a group's `channels`, one by one.

    A linear layer after flattened maps has several places for each channel. Norms and parameters have only `out`.
    """

    name: str
    side: str
    places: Tensor
    channels: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed from all members together.

    They are removed in units of `unit` neighbours (attention heads, if it is not 1), and equally many from each of
    `blocks` equal parts, as grouped convolutions require. `score` is the importance of each unit.
    """

    members: tuple[Member, ...]
    num_channels: int
    unit: int
    blocks: int
    score: Tensor


@dataclass(frozen=True)
class Layer:
    """The cost of a convolution or linear layer for one sample: `macs` over a kernel of in × out channels.

    For attention queries, `pairs` is the number of token pairs, each of which adds two multiplications per channel.
    """

    num_in: int
    num_out: int
    macs: int
    pairs: int


class ShadowAttention(nn.Module):
    """Attention with three layers for queries, keys and values; their product ties corresponding channels together."""

    def __init__(self, original: Attention) -> None:
        super().__init__()
        inner, width = len(original.in_proj_weight) // 3, original.in_proj_weight.shape[1]
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.q(x) * self.k(x) * self.v(x))


class ShadowShortcut(nn.Module):
    """PadShortcut with a convolution that produces the appended maps."""

    def __init__(self, original: PadShortcut) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(1, original.stride)
        self.new = nn.Conv2d(1, original.num_new_maps, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return torch.cat([x, self.new(x.new_zeros(len(x), 1, *x.shape[2:]))], 1)


def shadow_of(net: nn.Module) -> nn.Module:
    """Copy the net to the meta device, with substitutes for the modules that torch-pruning does not know."""
    shadow = copy.deepcopy(net).to("meta")
    for module in list(shadow.modules()):
        for name, child in module.named_children():
            if isinstance(child, Attention):
                new: nn.Module = ShadowAttention(child)
            elif isinstance(child, PadShortcut):
                new = ShadowShortcut(child)
            elif isinstance(child, TableConv2d):
                new = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size[0])
            elif isinstance(child, TrainablePool2d):
                new = nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(len(child.weight)))
            elif isinstance(child, nn.LocalResponseNorm | nn.PReLU):  # mix no channels, or have one slope for all
                new = nn.Identity()
            else:
                continue
            module.add_module(name, new.to("meta"))
        if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.ELU | nn.SELU | nn.SiLU):
            module.inplace = False  # or torch-pruning does not see the layer before it, if that has more than one token
    for p in shadow.parameters():
        p.requires_grad_()
    return shadow


def cast_weights(net: nn.Module, shadow: nn.Module) -> None:
    """Copy the net's weights and gradients to the shadow for scoring; those missing in the net become zeros."""
    tensors: dict[str, tuple[Tensor, Tensor | None]] = {n: (p.detach(), p.grad) for n, p in net.named_parameters()}
    for name, module in net.named_modules():
        if isinstance(module, Attention):
            weight, grad = tensors[f"{name}.in_proj_weight"]
            grads = [None] * 3 if grad is None else grad.chunk(3)
            for part, pair in zip("qkv", zip(weight.chunk(3), grads, strict=True), strict=True):
                tensors[f"{name}.{part}.weight"] = pair
        elif isinstance(module, TableConv2d):
            weight, grad = tensors[f"{name}.weight"]
            tensors[f"{name}.weight"] = (module.dense(weight), None if grad is None else module.dense(grad))
        elif isinstance(module, TrainablePool2d):
            tensors[f"{name}.1.weight"] = tensors[f"{name}.weight"]
    for name, module in shadow.named_modules():
        for key, p in module.named_parameters(recurse=False):
            weight, grad = tensors.get(f"{name}.{key}", (torch.zeros(p.shape), torch.zeros(p.shape)))
            new = nn.Parameter(weight)
            new.grad = grad
            setattr(module, key, new)


def layers_of(shadow: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Layer]:
    """Count the operations of the shadow's layers for one sample in eval mode, without substitutes for padding."""
    found: dict[str, Layer] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def after(module: Any, args: Any, output: Tensor) -> None:
            num_out, num_in = len(module.weight), args[0].shape[-1 if isinstance(module, nn.Linear) else 1]
            owner = shadow.get_submodule(name.rpartition(".")[0])
            asks = isinstance(owner, ShadowAttention) and module is owner.q
            found[name] = Layer(
                num_in=num_in,
                num_out=num_out,
                macs=module.weight.numel() * output.numel() // num_out,
                pairs=output.shape[1] ** 2 if asks else 0,
            )

        return after

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in shadow.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and not isinstance(shadow.get_submodule(name.rpartition(".")[0]), ShadowShortcut)
    ]
    with torch.no_grad():
        shadow.eval()(*example)
    for hook in hooks:
        hook.remove()
    return found


def groups_of(net: nn.Module, shadow: nn.Module, example: tuple[Tensor, ...], importance: Importance) -> list[Group]:
    """Return all groups of removable channels with scores; the net's input and its heads' outputs stay."""
    import torch_pruning

    def in_train_mode(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        return model.train()(*inputs)  # with its auxiliary heads

    two = tuple(torch.cat([x, x]) for x in example)  # a batch norm has no statistics of one sample
    graph = torch_pruning.DependencyGraph().build_dependency(shadow, two, forward_fn=in_train_mode, verbose=False)
    names: dict[Any, str] = {thing: name for name, thing in [*shadow.named_modules(), *shadow.named_parameters()]}
    cast_weights(net, shadow)
    heads = {shadow.get_submodule(str(name)) for name in net.head_names}  # type: ignore[union-attr]
    num_heads = {f"{name}.q": m.num_heads for name, m in net.named_modules() if isinstance(m, Attention)}
    reached: set[tuple[nn.Module, int]] = set()
    groups = []
    for root in [m for m in graph.module2node if isinstance(m, nn.Conv2d | nn.Linear)]:
        left = [i for i in range(graph.get_out_channels(root)) if (root, i) not in reached]
        for channels in _alike(graph, root, left):
            found = _together(graph, root, channels)
            members, unit, blocks, is_head = [], 1, 1, False
            for item in found:
                module, gives = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
                if gives and isinstance(module, nn.Conv2d | nn.Linear):
                    reached |= {(module, i) for i in item.idxs}
                    is_head |= module in heads
                if module in names:  # and is not an operation
                    name = names[module]
                    if gives and name in num_heads:
                        unit = len(channels) // num_heads[name]
                    if not is_depthwise(module):  # it loses whole groups of one channel each
                        blocks = max(blocks, getattr(module, "groups", 1))
                    places, of_channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
                    members.append(Member(name, "out" if gives else "in", places, of_channels))
            if not is_head:
                score = importance(found)
                assert score is not None
                groups.append(Group(tuple(members), len(channels), unit, blocks, score.view(-1, unit).mean(1)))
    return groups


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution is depthwise: one output channel for each input channel."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels


def _alike(graph: Any, root: nn.Module, channels: list[int]) -> list[list[int]]:
    """Split channels by the layers they reach, which differ for example after a concatenation."""
    if not channels:
        return []
    reach: dict[int, list[int]] = {i: [] for i in range(len(channels))}
    for number, item in enumerate(_together(graph, root, channels)):
        for i in set(item.root_idxs):
            reach[i].append(number)
    parts: dict[tuple[int, ...], list[int]] = {}
    for i, numbers in reach.items():
        parts.setdefault(tuple(numbers), []).append(channels[i])
    return list(parts.values())


def _together(graph: Any, root: nn.Module, channels: list[int]) -> Any:
    """Return torch-pruning's group of a layer's output channels, numbered from 0 as its scores require."""
    found = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, channels)
    order = {channel: i for i, channel in enumerate(channels)}
    for item in found:
        item.root_idxs = [order[channel] for channel in item.root_idxs]
    return found
