"""Share weights: the survivors of a layer take few values, which are the codebook, so none is stored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.errors import BadInput

Init = Literal["linear", "density", "random", "exact"]
MOST_BITS = 8


@dataclass(frozen=True)
class Codebook:
    """The codebook of a shared weight: the positions of its survivors, the value index of each, and the values."""

    positions: Tensor  # (survivors,) int64, in the flattened weight
    members: Tensor  # (survivors,) int64, an index of `values` each
    values: Tensor  # (clusters,)

    @classmethod
    def of(cls, weight: Tensor) -> "Codebook":
        """Return the codebook of a weight: equal survivors are members of one cluster."""
        flat = weight.detach().flatten()
        positions = flat.nonzero().flatten()
        values, members = flat[positions].unique(return_inverse=True)
        return cls(positions, members, values)

    @torch.no_grad()
    def tie_gradient(self, gradient: Tensor) -> None:
        """Sum the gradients of each cluster for all its members, in place; zeros get 0 (Han et al., 2015, 3.1)."""
        sums = torch.zeros_like(self.values).index_add_(0, self.members, gradient.flatten()[self.positions])
        gradient.copy_(self._spread(sums, gradient))

    @torch.no_grad()
    def tie(self, weight: Tensor) -> None:
        """Move every cluster by the mean movement of its members, in place, and reset zeros to zero.

        An elementwise optimizer has moved all members equally; Muon has not.
        """
        moved = weight.flatten()[self.positions] - self.values[self.members]
        num = torch.bincount(self.members, minlength=len(self.values))
        self.values.add_(torch.zeros_like(self.values).index_add_(0, self.members, moved) / num)
        weight.copy_(self._spread(self.values, weight))

    def _spread(self, values: Tensor, like: Tensor) -> Tensor:
        flat = torch.zeros(like.numel(), dtype=like.dtype, device=like.device)
        flat[self.positions] = values[self.members]
        return flat.view(like.shape)


def check_settings(bits: int | Mapping[str, int], mean_bits: float | None, rate: float) -> None:
    """Raise BadInput for settings that no codebook can have."""
    given = [*bits.values()] if isinstance(bits, Mapping) else [bits]
    if not all(type(one) is int and 1 <= one <= MOST_BITS for one in given):
        raise BadInput(f"compress.share.bits={bits}: a codebook has 1 to {MOST_BITS} bits")
    if mean_bits is not None and not (_is_number(mean_bits) and 1 <= mean_bits <= MOST_BITS):
        raise BadInput(f"compress.share.mean_bits={mean_bits} must be between 1 and {MOST_BITS}, or null to use `bits`")
    if not (_is_number(rate) and 0 <= rate < math.inf):
        raise BadInput(f"compress.share.rate={rate} is the price of a bit, in variances: at least 0, such as 0.005")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


@torch.no_grad()
def share(weight: Tensor, bits: int, init: Init = "linear", rate: float = 0.0, seed: int = 0) -> None:
    """Quantize the survivors of a weight to at most 2^bits values, in place: the means of as many clusters (k-means).

    With `rate`, the bits that a coder will use for a value count as well, at `rate` variances of the survivors per bit:
    a survivor gets the value with the least squared distance plus that price (entropy-constrained quantization, Chou et
    al., 1989; for nets, Choi et al., "Towards the limit of network quantization", 2017, section 5).
    """
    check_settings(bits, None, rate)
    flat = weight.flatten().clone()
    positions = flat.nonzero().flatten()
    survivors = flat[positions].double()
    if not len(survivors):
        return
    means = kmeans_exactly(survivors, 2**bits) if init == "exact" else kmeans(survivors, 2**bits, init, seed)
    if rate:
        means, cuts = clustered(survivors.sort().values, means, rate * float(survivors.var(correction=0)))
    else:
        cuts = borders(means)
    flat[positions] = means[torch.searchsorted(cuts, survivors)].to(flat.dtype)
    weight.copy_(flat.view(weight.shape))


def borders(means: Tensor, costs: Tensor | None = None) -> Tensor:
    """Return the numbers above which the next of the sorted means is cheaper, with `costs` added to squared distances.

    Where two borders cross, the interval between them is empty.
    """
    middle = (means[1:] + means[:-1]) / 2
    if costs is None:
        return middle
    return (middle + costs.diff() / (2 * means.diff())).cummax(0).values


def nearest(values: Tensor, means: Tensor) -> Tensor:
    """Return the index of the nearest of sorted means for each value."""
    return torch.searchsorted(borders(means), values.contiguous())


def kmeans(values: Tensor, num: int, init: Init = "linear", seed: int = 0) -> Tensor:
    """Cluster numbers (n,) around at most `num` means by Lloyd's algorithm until convergence; return the sorted means.

    They start evenly spread over the range (`linear`), over the sorted numbers (`density`), or at numbers drawn with
    `seed`. A round costs as much as looking up `num` borders in sorted numbers.
    """
    values = values.double().sort().values
    if init == "linear":
        start = torch.linspace(0, 1, num, dtype=values.dtype, device=values.device)
        means = values[0] + (values[-1] - values[0]) * start
    else:
        draw = torch.Generator().manual_seed(seed)
        ranks = (torch.arange(num) + 0.5) / num if init == "density" else torch.rand(num, generator=draw)
        means = values[(ranks * len(values)).long().to(values.device)]
    return clustered(values, means.unique())[0]


def clustered(values: Tensor, means: Tensor, price: float = 0.0, most_rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Move sorted means to those of their sorted numbers, round by round; return them and the borders between them.

    A number goes where squared distance plus `price` times bits is least; the bits are -log2 of the share of numbers
    that went there in the previous round. Empty clusters are dropped.
    """
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    costs = torch.zeros_like(means)
    for _ in range(most_rounds):
        middle = torch.searchsorted(values, borders(means, costs))
        cuts = torch.cat([middle.new_zeros(1), middle, middle.new_full((1,), len(values))])
        filled = cuts.diff() > 0
        counts = cuts.diff()[filled]
        moved = (sums[cuts[1:]] - sums[cuts[:-1]])[filled] / counts
        before, means, costs = (means, costs), moved, -price * (counts / len(values)).log2()
        if torch.equal(before[0], means) and torch.equal(before[1], costs):
            break
    return means, borders(means, costs)


def kmeans_exactly(values: Tensor, num: int) -> Tensor:
    """Cluster numbers (n,) around at most `num` means with minimal squared error; return the sorted means.

    Dynamic programming over the sorted numbers: the start of the last cluster never decreases as numbers are added, so
    each round of bisection searches only between solved cases (Grønlund et al., "Fast exact k-means", 2017). Takes time
    proportional to num · n · log n: some seconds for 100,000 numbers and 32 means.
    """
    x, counts = np.unique(values.double().cpu().numpy(), return_counts=True)
    n = len(x)
    weight, first, second = (np.concatenate([[0.0], np.cumsum(counts * x**power)]) for power in (0, 1, 2))

    def error(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Return the error of one cluster, x[start:stop]."""
        return second[stop] - second[start] - (first[stop] - first[start]) ** 2 / (weight[stop] - weight[start])

    least = np.full(n + 1, np.inf)  # error of the first 0, 1, …, n numbers
    least[1:] = error(np.zeros(n, dtype=np.int64), np.arange(1, n + 1))
    begins = []  # starts of the last cluster by number of values, for 2, 3, … clusters
    for clusters in range(2, min(num, n) + 1):
        ends, begin, errors = np.array([clusters - 1, n + 1]), np.array([clusters - 1, n - 1]), np.full(2, np.inf)
        while len(gaps := np.flatnonzero(np.diff(ends) > 1)):
            todo = (ends[gaps] + ends[gaps + 1]) // 2
            low, high = begin[gaps], np.minimum(begin[gaps + 1], todo - 1)
            sizes = high - low + 1
            offsets = np.cumsum(sizes) - sizes
            start = np.arange(sizes.sum()) - np.repeat(offsets - low, sizes)
            cost = least[start] + error(start, np.repeat(todo, sizes))
            found = np.minimum.reduceat(cost, offsets)
            hits = np.flatnonzero(cost == np.repeat(found, sizes))
            ends = np.insert(ends, gaps + 1, todo)
            begin = np.insert(begin, gaps + 1, start[hits[np.searchsorted(hits, offsets)]])
            errors = np.insert(errors, gaps + 1, found)
        least = np.full(n + 1, np.inf)
        least[ends[1:-1]] = errors[1:-1]
        begins.append(dict(zip(ends.tolist(), begin.tolist(), strict=True)))
    borders = [n]
    for begin_of in reversed(begins):
        borders.insert(0, begin_of[borders[0]])
    cut = np.array([0, *borders])
    means = np.diff(first[cut]) / np.diff(weight[cut])
    return torch.from_numpy(means).to(values.device)


def squared_error(values: Tensor, means: Tensor) -> float:
    """Return the sum of squared distances of numbers to their nearest means."""
    return float((values - means[nearest(values, means)]).square().sum())


def bits_by_budget(weights: Mapping[str, Tensor], mean_bits: float) -> dict[str, int]:
    """Distribute bits so that survivors have at most `mean_bits` on average and the squared error is small.

    Each layer starts with one bit; the next goes to the layer where it reduces the error most per bit spent.
    """
    survivors = {name: w[w != 0].double() for name, w in weights.items()}
    survivors = {name: values for name, values in survivors.items() if len(values)}
    errors = {
        name: [squared_error(v, kmeans(v, 2**bits)) for bits in range(1, MOST_BITS + 1)]
        for name, v in survivors.items()
    }
    given = dict.fromkeys(survivors, 1)
    left = (mean_bits - 1) * sum(len(values) for values in survivors.values())
    while True:
        gains = {
            name: (errors[name][given[name] - 1] - errors[name][given[name]]) / len(values)
            for name, values in survivors.items()
            if given[name] < MOST_BITS and len(values) <= left
        }
        most = max(gains, key=gains.__getitem__, default=None)
        if most is None or gains[most] <= 0:
            return given
        given[most] += 1
        left -= len(survivors[most])
