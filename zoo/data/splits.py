"""Stratified splits of a data set, identical on every machine and verified by a hash."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.data.number_scale import are_numbers


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


def grouped_split(labels: Tensor, groups: Tensor, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Draw disjoint index sets as `stratified_split`, but of whole groups: sizes and proportions are approximate.

    `groups` is (N,) int64. The largest groups come first, those of one size in random order, and each goes to the part
    where it adds least to the sum, over the classes of each part and over its samples of any class, of
    (number - expected)² / expected. Raises ValueError if the sizes sum to N or more, or if there are too few groups
    for one to be left for each part.
    """
    if sum(sizes) >= len(labels) or min(sizes, default=0) < 0:
        raise ValueError(f"cannot split {len(labels)} samples into parts of {list(sizes)} and leave some to train on")
    wanted = np.array([*sizes, len(labels) - sum(sizes)])
    _, of_sample = np.unique(groups.numpy(), return_inverse=True)
    counts = np.zeros((of_sample.max() + 1, int(labels.max()) + 1))
    np.add.at(counts, (of_sample, labels.numpy()), 1)
    counts = np.column_stack([counts, counts.sum(1)])  # without samples of any class, small parts would stay empty
    expected = np.maximum(np.outer(wanted, counts.sum(0)) / len(labels), 1e-9)
    shuffled = np.random.RandomState(seed).permutation(len(counts))
    found, part_of = np.zeros_like(expected), np.zeros(len(counts), np.int64)
    for group in shuffled[np.argsort(-counts[shuffled].sum(1), kind="stable")]:
        cost = (counts[group] * (2 * (found - expected) + counts[group]) / expected).sum(1)
        part_of[group] = np.argmin(np.where(wanted > 0, cost, np.inf))
        found[part_of[group]] += counts[group]
    if empty := [size for size, num in zip(wanted, found.sum(1), strict=True) if size and not num]:
        raise ValueError(f"no group of {len(counts)} is left for a part of {empty[0]} samples: groups are kept whole")
    return [torch.from_numpy(np.flatnonzero(part_of[of_sample] == part)) for part in range(len(wanted))]


def strata(labels: Tensor) -> Tensor:
    """Return the class (N,) to stratify each sample by: its label or, with several (N, C), the rarest of them.

    Samples without labels are a class of their own, C. Numbers (N, C), float, are not classes: all samples have 0.
    """
    if are_numbers(labels):
        return torch.zeros(len(labels), dtype=torch.int64)
    if labels.ndim == 1:
        return labels
    num_classes = labels.shape[1]
    found = labels.new_full((len(labels),), num_classes, dtype=torch.int64)
    num = labels.sum(0, dtype=torch.int64).tolist()
    for label in sorted(range(num_classes), key=lambda one: (num[one], one), reverse=True):
        found[labels[:, label] > 0] = label
    return found


def fold_sizes(num: int, folds: int) -> list[int]:
    """Return sizes of `folds` folds of `num` samples, differing by at most 1; ValueError unless 2 <= folds <= num."""
    if not 2 <= folds <= num:
        raise ValueError(f"folds={folds}: expected 2 to {num} for {num} samples")
    return [(num + i) // folds for i in range(folds)]


def split_hash(parts: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Hash the images (uint8) and labels of all parts, in order: equal hashes mean the same samples in each.

    Labels are hashed as int64, or as float32 if they are numbers.
    """
    digest = hashlib.sha256()
    for images, labels in parts:
        digest.update(str(tuple(images.shape)).encode())
        digest.update(images.contiguous().numpy().data)
        kind = torch.float32 if are_numbers(labels) else torch.int64
        digest.update(labels.to(kind).contiguous().numpy().data)
    return digest.hexdigest()[:16]
