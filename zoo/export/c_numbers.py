"""Fixed-point numbers of the C file, computed from exact fractions.

A layer's output, in steps of its scale, is (Σ integer × factor + constant), rounded to the nearest, from the middle to
even. Factors and constants become integers in units of 2^-shift, with the largest shift for which no sum can leave 64
bits: the error is about 2^-30 steps, so results are those of exact arithmetic unless a value is as near to a middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from zoo.errors import BadInput

BITS = 61  # of a sum, without its sign and with one to spare


@dataclass(frozen=True)
class FixedPoint:
    """The integers of a layer: a factor of its product and a constant per channel, and a factor per other term."""

    shift: int
    factors: list[int]
    constants: list[int]
    others: list[int]


def fixed_point(
    factors: Sequence[Fraction], largest: Sequence[int], constants: Sequence[Fraction], others: Sequence[Fraction]
) -> FixedPoint:
    """Return the integers of a layer whose product in a channel is at most `largest`, and other terms at most 255.

    Raises BadInput for scales so far apart that 64 bits do not hold their ratio.
    """
    of_others = sum(255 * factor for factor in others)
    bounds = [abs(constant) + of_others for constant in constants]
    if factors:
        bounds = [bound + factor * most for bound, factor, most in zip(bounds, factors, largest, strict=True)]
    shift = BITS - int(max(bounds) + 1).bit_length()
    if shift < 1:
        raise BadInput("the scales of its layers are too far apart for 64-bit integers")
    integers = [[round(number * 2**shift) for number in several] for several in (factors, constants, others)]
    return FixedPoint(shift, *integers)


def requantized(value: Fraction, scale: float, zero_point: int) -> int:
    """Return the integer 0…255 of a value, rounded from the middle to even."""
    return min(255, max(0, round(value / Fraction(scale)) + zero_point))
