"""Checks of image files before training: unreadable files, and duplicates across splits."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from zoo import escape
from zoo.data.image_files import ImageFiles
from zoo.data.number_scale import are_numbers
from zoo.errors import BadInput, counted

log = logging.getLogger("zoo")


def check_readable(files: Mapping[str, ImageFiles], classes: Sequence[str], labels_of: Mapping[str, Tensor]) -> None:
    """Raise BadInput if no file of a training class, of the validation set or of the test set can be read."""
    groups: list[tuple[str, str, Tensor]] = []
    for split in files:
        labels = labels_of[split]
        if split == "train" and not are_numbers(labels):
            of_classes = _members(labels, len(classes))
            names = (f"training picture of class '{name}'" for name in classes)
            groups += [(split, name, members) for name, members in zip(names, of_classes, strict=True)]
        elif len(labels):
            name = {"train": "training", "val": "validation", "test": "test"}[split]
            groups.append((split, f"{name} picture", torch.arange(len(labels))))

    def can_read(group: tuple[str, str, Tensor]) -> bool:
        split, _, members = group
        return any(map(files[split].can_read, members.tolist()))

    with ThreadPoolExecutor() as pool:
        for (split, name, members), able in zip(groups, pool.map(can_read, groups), strict=True):
            if not len(members):
                raise BadInput(
                    f"data.num_validation: expected at least one {name} to be left, got none; add pictures, "
                    "use fewer for validation and test, or remove the class"
                )
            if not able:
                raise BadInput(
                    f"{files[split].setting}: expected at least one {name} that can be read, got "
                    f"{counted(len(members), 'file')}, none of them readable; fix or add some, or remove them"
                )


def _members(labels: Tensor, num_classes: int) -> Sequence[Tensor]:
    """Return the numbers of the pictures of each class."""
    if labels.ndim == 2:
        return [column.nonzero().flatten() for column in labels.unbind(1)]
    return labels.argsort(stable=True).split(labels.bincount(minlength=num_classes).tolist())


def warn_of_shared(
    files: Mapping[str, ImageFiles], contents: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str]
) -> None:
    """Warn about validation and test pictures that are byte-for-byte copies of training pictures.

    So are training pictures that are in two classes; `labels` are those of the training pictures.
    """
    rows = {name: [row.tobytes() for row in digests.numpy()] for name, digests in contents.items()}
    train = rows.pop("train")
    names = names_of(labels, classes)
    trained = dict(zip(train, names, strict=True))
    paths, unreadable = files["train"].paths, files["train"].unreadable
    several = [
        (path, name, trained[digest])
        for path, digest, name in zip(paths, train, names, strict=True)
        if trained[digest] != name and path not in unreadable
    ]
    if several:
        path, *both = several[0]
        named = " and ".join(f"'{escape.line(name)}'" for name in both)
        what = counted(len(several), "training picture")
        which = "With two labels" if are_numbers(labels) else "In two classes"
        log.warning("%s, byte for byte: %s, such as %s in %s.", which, what, escape.line(path), named)
    for name, digests in rows.items():
        paths, unreadable = files[name].paths, files[name].unreadable
        pairs = zip(paths, digests, strict=True)
        shared = [path for path, digest in pairs if digest in trained and path not in unreadable]
        if shared:
            what = f"{len(shared):,} of {counted(len(paths), f'{name} picture')}"
            log.warning("Also in the training set, byte for byte: %s, such as %s.", what, escape.line(shared[0]))


def names_of(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the name of each label (N,), or the names of all labels of a sample (N, C), separated by commas.

    Of numbers (N, C), float, each is named with its value.
    """
    if are_numbers(labels):
        return [", ".join(f"{name} {one:g}" for name, one in zip(classes, row, strict=True)) for row in labels.tolist()]
    if labels.ndim == 1:
        return [classes[label] for label in labels.tolist()]
    return [", ".join(classes[i] for i in row.nonzero().flatten().tolist()) for row in labels]
