"""Choose how many channels each group keeps, for a share of the dense net's measured time."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zoo.compress.channel_targets import TOLERANCE, check_share, granularity
from zoo.compress.dependencies import Group
from zoo.compress.latency_table import LatencyTable, TimedLayer
from zoo.errors import BadInput

LOOK_AHEAD = 4  # steps compared with one: kernels compute some widths in the same time
MOST_TRIES = 12  # measured nets per granularity
log = logging.getLogger("zoo")
Widths = tuple[int, ...]  # the number of units that each group keeps
Measure = Callable[[Sequence[int]], float]  # the time of the net with these widths, as a share of the dense net's


def solve_for_latency(
    groups: Sequence[Group],
    layers: Mapping[str, TimedLayer],
    share: float,
    scope: str,
    round_to: int,
    table: LatencyTable,
    measure: Measure,
) -> tuple[list[int], int, float]:
    """Return how many units of each group to keep, the step their widths are rounded to, and the measured share.

    Groups are narrowed one after another, each time the one that saves most time, by the table, for the importance
    that it loses: with scope `layer` the increase of the square of the share that it has lost, so that no group loses
    nearly all while others are whole; with `global` the importance as it is. On this path the net is searched whose
    measured time is the target. Raises BadInput if none is within 5 %.
    """
    lowest = measure([group.blocks for group in groups])
    if lowest > share * (1 + TOLERANCE):
        raise BadInput(
            f"compress.before_fit.channels.latency={share} cannot be reached: with one channel per layer this net "
            f"takes {lowest:.3g} of its time"
        )
    full = [len(group.score) for group in groups]
    start = measure(full)
    if start < 1 and start <= share * (1 + TOLERANCE):  # without some blocks
        check_share("latency", start, share)
        return full, round_to, start
    nearest = (start, full)
    while round_to:
        path = list(_Narrowing(groups, layers, table, scope, round_to).path())
        for found in _search(path, start, share, measure):
            nearest = min(nearest, found, key=lambda one: abs(one[0] - share))
        if abs(nearest[0] - share) <= TOLERANCE * share:
            return nearest[1], round_to, nearest[0]
        round_to //= 2
    raise BadInput(
        f"compress.before_fit.channels.latency={share} cannot be met within 5 %; the nearest that was measured is "
        f"{nearest[0]:.3g}"
    )


def _search(
    path: Sequence[tuple[float, Widths]], start: float, share: float, measure: Measure
) -> Iterator[tuple[float, list[int]]]:
    """Yield measured shares and widths on a path, whose first net takes the share `start`, until one is within 5 %.

    The time by the table is taken to be a linear function of the measured one between the nearest measured widths above
    and below the target; where that has led to the same side twice, the middle between them is measured.
    """
    first, last, sides = 0, len(path) - 1, [False, True]
    above, below = start, measure(path[last][1])
    yield below, list(path[last][1])
    for _ in range(MOST_TRIES):
        if last - first < 2 or below > share:
            return
        part = 0.5 if sides[-1] == sides[-2] else (above - share) / (above - below)
        target = path[first][0] + part * (path[last][0] - path[first][0])
        middle = min(range(first + 1, last), key=lambda i: abs(path[i][0] - target))
        found, widths = measure(path[middle][1]), list(path[middle][1])
        log.info("The net with %.3g of the time of its layers takes %.3g of its time.", path[middle][0], found)
        yield found, widths
        if abs(found - share) <= TOLERANCE * share:
            return
        sides.append(found > share)
        if found > share:
            first, above = middle, found
        else:
            last, below = middle, found


@dataclass(frozen=True)
class _Move:
    gain: float  # time saved per importance lost
    group: int
    units: int
    saved: float


class _Narrowing:
    """Groups of a net, narrowed from all their units to one step each."""

    def __init__(
        self,
        groups: Sequence[Group],
        layers: Mapping[str, TimedLayer],
        table: LatencyTable,
        scope: str,
        round_to: int,
    ) -> None:
        self.layers, self.table, self.scope = layers, table, scope
        self.steps = [granularity(group, round_to) for group in groups]
        self.full = [len(group.score) for group in groups]
        self.kept = list(self.full)
        self.importance = [_importance(group) for group in groups]
        self.sides: dict[str, list[tuple[int, str, float]]] = defaultdict(list)  # of layers: group, side, places
        self.touched: list[set[str]] = [set() for _ in groups]
        for i, group in enumerate(groups):
            for member in group.members:
                if member.name in layers:
                    self.sides[member.name].append((i, member.side, len(member.places) / len(group.score)))
                    self.touched[i].add(member.name)

    def path(self) -> Iterator[tuple[float, Widths]]:
        """Yield the time of the layers, as a share of the dense net's, and the widths after each move."""
        whole = left = sum(self._time(name) for name in self.layers)
        yield 1.0, tuple(self.kept)
        moves: dict[int, _Move | None] = {i: self._best_move(i) for i in range(len(self.kept))}
        while possible := [move for move in moves.values() if move is not None]:
            move = max(possible, key=lambda one: one.gain)
            self.kept[move.group] = move.units
            left -= move.saved
            yield left / whole, tuple(self.kept)
            near = {i for name in self.touched[move.group] for i, *_ in self.sides[name]} | {move.group}
            moves |= {i: self._best_move(i) for i in near}

    def _time(self, name: str) -> float:
        """Return the time of a layer with the widths that its groups have now."""
        layer = self.layers[name]
        width = {"in": float(layer.num_in), "out": float(layer.num_out)}
        for i, side, places in self.sides[name]:
            width[side] -= places * (self.full[i] - self.kept[i])
        return self.table.layer_ms(layer, round(width["in"]), round(width["out"]))

    def _best_move(self, i: int) -> _Move | None:
        before, step = self.kept[i], self.steps[i]
        now = sum(self._time(name) for name in self.touched[i])
        moves = []
        for ahead in range(LOOK_AHEAD):
            units = ((before - 1) // step - ahead) * step
            if units < step:
                break
            self.kept[i] = units
            saved = now - sum(self._time(name) for name in self.touched[i])
            moves.append(_Move(saved / self._lost(i, before, units), i, units, saved))
        self.kept[i] = before
        return max(moves, key=lambda move: move.gain, default=None)

    def _lost(self, i: int, before: int, after: int) -> float:
        whole, more, less = (self.importance[i][num] for num in (-1, before, after))
        if self.scope == "global":
            return max(more - less, 1e-12)
        return max((1 - less / whole) ** 2 - (1 - more / whole) ** 2, 1e-12)


def _importance(group: Group) -> list[float]:
    """Return the sum of the scores of the most important units, by their number."""
    best = group.score.double().view(group.blocks, -1).sort(dim=1, descending=True).values
    sums = best.mT.flatten().clamp_min(1e-12).cumsum(0)  # block by block, as they are removed
    return [0.0, *sums.tolist()]
