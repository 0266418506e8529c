"""Checks of pictures and labels before training, from a survey of all of them; each returns a verdict."""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from zoo.data.file_checks import names_of
from zoo.data.fingerprints import Groups
from zoo.data.module import SPLITS
from zoo.data.survey import Survey
from zoo.errors import counted
from zoo.ranges import height_width, plain_size
from zoo.report.verdicts import Verdict

MOST_TIMES = 10  # that a class may be larger than another
MOST_SMALL = 0.05  # share of pictures that are enlarged
LONG = 2.0  # ratio to the shape of the net's images, above which a centre crop has less than half of the picture


def check_apart(survey: Survey) -> Verdict:
    """Look for pictures that are in two splits: of equal bytes or pixels, or nearly the same to the eye."""
    problems = []
    for first, second in itertools.combinations(SPLITS, 2):
        equal = survey.shared(survey.exact, first, second)
        rows = {row for row, _ in equal}
        near = [(row, other) for row, other in survey.shared(survey.near, first, second) if row not in rows]
        for pairs, what in ((equal, "are in"), (near, "are nearly the same as one in")):
            if pairs:
                num, (row, other) = survey.splits.count(second), pairs[0]
                places = f"such as {survey.place(row)} as {survey.place(other)}"
                problems.append(f"{len(pairs):,} of {num:,} {second} images {what} {first}, {places}")
    if problems:
        is_exact = any(survey.shared(survey.exact, *pair) for pair in itertools.combinations(SPLITS, 2))
        what = f"{'; '.join(problems)}: metrics measured on copies are too good; remove them"
        return Verdict("splits", "warn" if is_exact else "look", what)
    return Verdict("splits", "pass", f"{len(survey.splits):,} images, none in two of train, val and test")


def check_readable_pictures(survey: Survey) -> Verdict:
    """Name the files that cannot be read."""
    if not survey.unreadable:
        return Verdict("files", "pass", f"all {len(survey.splits):,} can be read")
    row, why = next(iter(survey.unreadable.items()))
    num = f"{len(survey.unreadable):,} of {counted(len(survey.splits), 'picture')} cannot be read"
    return Verdict("files", "warn", f"{num}, such as {survey.place(row)} ({why}); training leaves them out")


def check_labels_of_copies(survey: Survey, labels: Tensor, classes: Sequence[str]) -> Verdict:
    """Look for copies of a picture with different labels."""
    odd = [group for group in copies(survey) if len(label_names(labels, classes, group)) > 1]
    if not odd:
        return Verdict("labels", "pass", "no two copies of a picture have different labels")
    row, other = _different(odd[0], labels, classes)
    names = names_of(labels[[row, other]], classes)
    places = f"{survey.place(row)} ('{names[0]}') and {survey.place(other)} ('{names[1]}')"
    what = f"copies of {counted(len(odd), 'picture')} have different labels, such as {places}"
    return Verdict("labels", "warn", f"{what}: correct or remove them")


def check_copies(survey: Survey) -> Verdict:
    """Count the copies of pictures within a split."""
    exact, both = (_within(survey, groups) for groups in (survey.exact, copies(survey)))
    if not both:
        return Verdict("copies", "pass", "no picture is in a split twice")
    what = f"{exact:,} exact and {both - exact:,} near duplicates of pictures in the same split"
    return Verdict("copies", "look", f"{what}, which count more than others")


def check_classes(survey: Survey, counts: dict[str, dict[str, int]], several: bool) -> Verdict:
    """Compare the numbers of pictures of the classes in each split."""
    used = [split for split in SPLITS if split in survey.splits]
    for split in used:
        missing = [name for name, of_split in counts.items() if not of_split[split]]
        if missing:
            what = f"{counted(len(missing), 'class')} of {len(counts):,} without a picture in {split}"
            return Verdict("classes", "warn", f"{what}, such as '{missing[0]}': add some, or move some there")
    least, most = (pick(counts, key=lambda name: counts[name]["train"]) for pick in (min, max))
    few, many = (counts[name]["train"] for name in (least, most))
    found = f"{few:,} training pictures per class"
    if many > few:
        found = f"{few:,} ('{least}') to {many:,} ('{most}') training pictures per class"
    if many > MOST_TIMES * few:
        ways = "task.loss=asymmetric" if several else "task.class_weights=balanced or data.sampler=balanced"
        return Verdict("classes", "look", f"{found}: {ways} makes up for that")
    return Verdict("classes", "pass", found)


def check_sides(survey: Survey, image_size: int | Sequence[int]) -> Verdict:
    """Compare sizes and aspect ratios with those that the net gets."""
    sides = survey.sides[survey.sides.amin(1) > 0]
    if not len(sides):
        return Verdict("sizes", "fail", "no picture can be read")
    size = plain_size(image_size)
    times = sides / torch.tensor(height_width(image_size))
    num_small = int((times.amin(1) < 1).sum())
    num_long = int((times.amax(1) > LONG * times.amin(1)).sum())
    problems = []
    if num_small > MOST_SMALL * len(sides):
        problems.append(f"{num_small / len(sides):.0%} have a side below data.image_size={size} px, and are enlarged")
    if num_long:
        relative = "" if isinstance(size, int) else ", relative to the net's images,"
        long = f"{counted(num_long, 'picture')} with one side{relative} more than {LONG:g} times the other"
        problems.append(f"{long}, of which evaluation sees less than half, the centre")
    if len(survey.flat):
        flat = f"{counted(len(survey.flat), 'picture')} of one colour, such as {survey.place(survey.flat[0])}"
        problems.append(flat)
    if problems:
        return Verdict("sizes", "look", "; ".join(problems))
    return Verdict("sizes", "pass", f"none far from the {size} px that the net gets")


def copies(survey: Survey) -> Groups:
    """Return all groups of copies: near ones, which include exact copies, and then exact ones in no near group."""
    covered = {row for group in survey.near for row in group}
    return [*survey.near, *(group for group in survey.exact if group[0] not in covered)]


def label_names(labels: Tensor, classes: Sequence[str], rows: Iterable[int]) -> set[str]:
    """Return the different labels of some pictures."""
    return set(names_of(labels[list(rows)], classes))


def _different(group: Sequence[int], labels: Tensor, classes: Sequence[str]) -> tuple[int, int]:
    """Return the first two rows of a group that have different labels."""
    names = names_of(labels[list(group)], classes)
    return group[0], next(row for row, name in zip(group, names, strict=True) if name != names[0])


def _within(survey: Survey, groups: Groups) -> int:
    """Return how many pictures are copies of an earlier one of their split."""
    return sum(len(group) - len({survey.splits[row] for row in group}) for group in groups)
