"""Edit distance between outputs and references."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class Edits(NamedTuple):
    """Minimum number of insertions, deletions and substitutions to any reference, and that reference's length."""

    errors: int
    length: int


def edits(written: Sequence[Hashable], references: Sequence[Sequence[Hashable]]) -> Edits:
    """Compare with the nearest reference; among ties, the longest, whose length is the denominator of PER."""
    found = (Edits(Levenshtein.distance(written, one), len(one)) for one in references)
    return min(found, key=lambda one: (one.errors, -one.length))
