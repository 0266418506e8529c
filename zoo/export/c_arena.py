"""Places of tensors in one array, the arena: tensors that are alive at the same time do not overlap."""

from collections.abc import Sequence

from zoo.export.c_terms import Bytes, Step


def planned(steps: Sequence[Step]) -> tuple[dict[Bytes, int], int]:
    """Return the offset of each tensor in the arena, and the bytes of the arena.

    First fit, the largest tensors first. A tensor lives from the first step that writes it to the last that reads it.
    """
    lives: dict[Bytes, tuple[int, int]] = {}
    for number, step in enumerate(steps):
        for one in (*step.sources, step.out):
            if one is not None:
                lives[one] = lives.get(one, (number, number))[0], number
    places: dict[Bytes, int] = {}
    for one in sorted(lives, key=lambda one: -one.size):
        begin, end = lives[one]
        taken = sorted(
            (place, place + other.size)
            for other, place in places.items()
            if lives[other][0] <= end and begin <= lives[other][1]
        )
        place = 0
        for start, stop in taken:
            if place + one.size <= start:
                break
            place = max(place, stop)
        places[one] = place
    return places, max((place + one.size for one, place in places.items()), default=0)
