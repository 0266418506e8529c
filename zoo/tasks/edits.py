"""Hold what a net wrote against what might have been written."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class Edits(NamedTuple):
    """The fewest insertions, deletions and substitutions to any reference, and that reference's length."""

    errors: int
    length: int


def edits(written: Sequence[Hashable], references: Sequence[Sequence[Hashable]]) -> Edits:
    """Compare with the nearest reference; of equally near ones the longest, which PER divides by."""
    found = (Edits(Levenshtein.distance(written, one), len(one)) for one in references)
    return min(found, key=lambda one: (one.errors, -one.length))
