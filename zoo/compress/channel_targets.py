"""Choose how many channels each group keeps, for a share of all channels or of the multiply-accumulates."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from zoo.compress.dependencies import Group, Layer
from zoo.errors import BadInput

TOLERANCE = 0.05  # of a target of MACs
LEAST_ROUNDED = 16  # channels; narrower groups are pruned one by one


def target_widths(groups: Sequence[Group], ratio: float, scope: str) -> list[float]:
    """Return how many units of each group would stay, as a fraction, if `ratio` of all channels were removed."""
    if scope == "layer":
        return [(1 - ratio) * len(group.score) for group in groups]
    scores = torch.cat([group.score for group in groups])
    channels = torch.cat([torch.full((len(group.score),), group.unit) for group in groups])
    order = scores.argsort(stable=True)
    gone = int((channels[order].cumsum(0) <= ratio * channels.sum()).sum())
    stays = torch.ones(len(scores), dtype=torch.bool)
    stays[order[:gone]] = False
    return [float(part.sum()) for part in stays.split([len(group.score) for group in groups])]


def granularity(group: Group, round_to: int) -> int:
    """Return the step, in units, by which a group is pruned, so that its blocks stay equal and its width is rounded."""
    wide = group.unit == 1 and group.num_channels // group.blocks >= LEAST_ROUNDED
    return group.blocks * (round_to if wide else 1)


def round_width(group: Group, units: float, round_to: int) -> int:
    """Round a number of units to a valid width of the group: at least one step, at most all units."""
    step = granularity(group, round_to)
    return min(max(round(units / step), 1) * step, len(group.score))


def solve_for_macs(
    groups: Sequence[Group], layers: dict[str, Layer], share: float, scope: str, round_to: int, whole: float
) -> tuple[list[int], int]:
    """Return how many units of each group to keep for a share of `whole` MACs, and the step widths are rounded to."""
    cost = cost_of(groups, layers)
    target, full = share * whole, [len(group.score) for group in groups]
    if cost(full) < whole and cost(full) <= target * (1 + TOLERANCE):  # without some blocks
        check_share("macs", cost(full) / whole, share)
        return full, round_to
    best: list[int] = []
    while round_to:
        kept = _settle(groups, cost, target, scope, round_to)
        if not best or abs(cost(kept) - target) < abs(cost(best) - target):
            best = kept
        if abs(cost(kept) - target) <= TOLERANCE * target:
            return kept, round_to
        round_to //= 2
    raise BadInput(
        f"compress.before_fit.channels.macs={share} cannot be met within 5 %; the nearest this net allows is "
        f"{cost(best) / whole:.3g}"
    )


def check_share(target: str, reached: float, share: float) -> None:
    """Raise BadInput if a net without some blocks is below the target before any channel is removed."""
    if reached < share * (1 - TOLERANCE):
        raise BadInput(
            f"compress.before_fit.channels.blocks: without these blocks, the net has only {reached:.3g} of the "
            f"original {target}, which is less than {target}={share}; remove fewer blocks"
        )


def _settle(
    groups: Sequence[Group], cost: Callable[[Sequence[float]], float], target: float, scope: str, round_to: int
) -> list[int]:
    """Find the ratio that meets the target by bisection, round all widths up, and then down one after another.

    The group furthest above the width given by the ratio loses the next step; the last step is where it fits best.
    """
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        over = (
            cost([max(u, g.blocks) for g, u in zip(groups, target_widths(groups, middle, scope), strict=True)]) > target
        )
        low, high = (middle, high) if over else (low, middle)
    widths = target_widths(groups, high, scope)
    steps = [granularity(group, round_to) for group in groups]
    kept = [min(-int(-u // s) * s or s, len(g.score)) for g, u, s in zip(groups, widths, steps, strict=True)]
    previous = kept
    while cost(kept) > target:
        previous = list(kept)
        excess = [(k - u) / s if k > s else -1 for k, u, s in zip(kept, widths, steps, strict=True)]
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
    """Return a function that computes the MACs of the net from the number of units that each group keeps."""
    shares: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)  # by side: groups, places per unit
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
