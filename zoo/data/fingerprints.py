"""Fingerprints of pictures, and the groups of those that are copies of each other: exact ones, or nearly."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy import ndarray

SIDE = 16  # of a fingerprint, with one column more, since a difference hash compares neighbours
FRACTIONS = 64  # of a grey level
REDUCED_PX = 256
# Copies of photographs differ in at most 9 bits and correlate by at least 0.999 if they were compressed at a quality of
# 10, reduced to 28 px, or had their contrast changed, but not if a part was cut off or painted over.
MOST_BITS = 10  # of 256
LEAST_CORRELATION = 0.998
FLAT = 1.0  # standard deviation in grey levels below which a picture has one colour
MOST_NEIGHBOURS = 2000  # that a picture is compared with, in each of the bands
MOST_PAIRS = 1 << 20  # found before they are merged
Groups = list[list[int]]


def fingerprint(pictures: Tensor) -> Tensor:
    """Reduce pictures (..., C, height, width), uint8, to (..., 16, 17) grey levels in 64ths, int16, antialiased."""
    from torchvision.transforms.v2 import functional as F

    if max(pictures.shape[-2:]) > REDUCED_PX:  # in integers, which is faster
        pictures = F.resize(pictures, [min(side, REDUCED_PX) for side in pictures.shape[-2:]], antialias=True)
    grey = F.rgb_to_grayscale(pictures.float())
    return (FRACTIONS * F.resize(grey, [SIDE, SIDE + 1], antialias=True)).round().to(torch.int16).squeeze(-3)


def difference_hash(prints: Tensor) -> "ndarray":
    """Return 256 bits for each fingerprint, as (N, 4) uint64: is a pixel brighter than its left neighbour?"""
    import numpy as np

    bits = (prints[:, :, 1:] > prints[:, :, :-1]).flatten(1).numpy()
    return np.packbits(bits, axis=1).view(np.uint64)


def flat(prints: Tensor) -> Tensor:
    """Return a mask (N,) of pictures of one colour, whose hashes mean nothing."""
    return prints.flatten(1).float().std(1) < FLAT * FRACTIONS


def exact_groups(digests: Sequence[bytes]) -> Groups:
    """Return the numbers of all samples whose digests others have, grouped by them."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        places[digest].append(i)
    return [several for several in places.values() if len(several) > 1]


def near_groups(prints: Tensor) -> Groups:
    """Return groups of fingerprints (N, 16, 17) that are nearly equal, each to another of its group.

    They differ in at most 10 bits of their difference hashes, and their grey levels correlate by at least 0.998. If two
    differ in 10 bits, they have one of 11 bands of bits in common, so only those are compared that share a band: all of
    them, unless thousands do. Pictures of one colour are in no group.
    """
    import numpy as np

    kept = (~flat(prints)).nonzero().flatten()
    if len(kept) < 2:
        return []
    hashes, levels = difference_hash(prints[kept]), _normalised(prints[kept])
    group = np.arange(len(kept))
    for one, other in _candidates(hashes, group):
        is_near = (levels[one] * levels[other]).sum(1) >= LEAST_CORRELATION
        group[:] = _merged(group, one[is_near], other[is_near])
    order = np.argsort(group, kind="stable")
    parts = np.split(kept.numpy()[order], np.flatnonzero(np.diff(group[order])) + 1)
    return sorted(part.tolist() for part in parts if len(part) > 1)


def _normalised(prints: Tensor) -> "ndarray":
    """Return grey levels (N, 272), float32, so that the sum of products of two is their correlation."""
    levels = prints.flatten(1).float()
    levels -= levels.mean(1, keepdim=True)
    return (levels / levels.norm(dim=1, keepdim=True)).numpy()


def _candidates(hashes: "ndarray", group: "ndarray") -> Iterator[tuple["ndarray", "ndarray"]]:
    """Yield pairs whose hashes differ in at most 10 bits, if they are not in one group yet."""
    import numpy as np

    for keys in _bands(hashes):
        order = np.argsort(keys, kind="stable")
        keys, of_key, group_of = keys[order], hashes[order], group[order]
        live = np.arange(len(keys))
        found, num = [], 0
        for step in range(1, MOST_NEIGHBOURS + 1):
            live = live[: np.searchsorted(live, len(keys) - step)]
            live = live[keys[live] == keys[live + step]]  # sorted, so that what ends here has no further neighbours
            if not len(live):
                break
            one = live[group_of[live] != group_of[live + step]]
            near = one[np.bitwise_count(of_key[one] ^ of_key[one + step]).sum(1) <= MOST_BITS]
            found.append((order[near], order[near + step]))
            num += len(near)
            if num > MOST_PAIRS:
                yield _joined(found)
                found, num = [], 0
        if num:
            yield _joined(found)


def _joined(pairs: Sequence[tuple["ndarray", "ndarray"]]) -> tuple["ndarray", "ndarray"]:
    import numpy as np

    one, other = zip(*pairs, strict=True)
    return np.concatenate(one), np.concatenate(other)


def _bands(hashes: "ndarray") -> Iterator["ndarray"]:
    """Yield 11 bands of 23 or 24 bits each, as numbers; bits that tell pictures apart are dealt out evenly."""
    import numpy as np

    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    by_balance = np.argsort(np.abs(bits.mean(0) - 0.5), kind="stable")
    for start in range(MOST_BITS + 1):
        band = bits[:, by_balance[start :: MOST_BITS + 1]].astype(np.int64)
        yield band @ (1 << np.arange(band.shape[1]))


def _merged(group: "ndarray", one: "ndarray", other: "ndarray") -> "ndarray":
    """Return the numbers of groups after those of the pairs were united."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(one), bool), (group[one], group[other])), shape=(len(group), len(group)))
    _, joined = connected_components(edges, directed=False)
    return joined[group]
