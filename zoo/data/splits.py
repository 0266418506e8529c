"""Stratified splits of a data set, identical on every machine and verified by a hash."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stratified_split(labels: Tensor, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Draw disjoint index sets of the given sizes and, last, the rest, all with the class proportions of the data set.

    `labels` is (N,) int64; the parts are sorted int64 tensors. If a proportion is not a whole number, the largest
    remainders are rounded up. Raises ValueError if the sizes sum to N or more.
    """
    if sum(sizes) >= len(labels) or min(sizes, default=0) < 0:
        raise ValueError(f"cannot split {len(labels)} samples into parts of {list(sizes)} and leave some to train on")
    generator = np.random.RandomState(seed)
    classes = [generator.permutation(np.flatnonzero(labels.numpy() == c)) for c in range(int(labels.max()) + 1)]
    parts = []
    for size in sizes:
        counts = np.array([len(members) for members in classes])
        share = counts * size / counts.sum()
        take = share.astype(int)
        for c in np.argsort(take - share, kind="stable")[: size - take.sum()]:
            take[c] += 1
        parts.append(np.concatenate([members[:k] for members, k in zip(classes, take, strict=True)]))
        classes = [members[k:] for members, k in zip(classes, take, strict=True)]
    return [torch.from_numpy(np.sort(part)) for part in [*parts, np.concatenate(classes)]]


def fold_sizes(num: int, folds: int) -> list[int]:
    """Return sizes of `folds` folds of `num` samples, differing by at most 1; ValueError unless 2 <= folds <= num."""
    if not 2 <= folds <= num:
        raise ValueError(f"folds={folds}: expected 2 to {num} for {num} samples")
    return [(num + i) // folds for i in range(folds)]


def split_hash(parts: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Hash the images (uint8) and labels (int64) of all parts, in order: equal hashes mean the same samples in each."""
    digest = hashlib.sha256()
    for images, labels in parts:
        digest.update(str(tuple(images.shape)).encode())
        digest.update(images.contiguous().numpy().data)
        digest.update(labels.to(torch.int64).contiguous().numpy().data)
    return digest.hexdigest()[:16]
