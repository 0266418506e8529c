"""The probability of each decision on a weight, learnt from the previous ones, so that no table is stored.

A weight is more likely to survive if weights of its output, its input and its neighbours in the image or kernel do,
and more likely to have their sign. Reading repeats the arithmetic of writing bit by bit, on any machine:
probabilities are integer multiples of 1 / ONE, or floats that hold such values exactly.
"""

from dataclasses import dataclass

import numpy as np

from zoo.packed.range_coder import ONE, ONE_BITS, Array, Coder

MIN_PROBABILITY = ONE >> 12  # least probability of a flag
MAX_BITS = 14  # the probability of a symbol is at least 2^-14
TRIVIAL = 4096  # this many equal weights may take no bits at all
MANTISSA = 23  # bits of float32's mantissa; the sign comes first, then eight bits of exponent
OUTPUT_PRIOR, INPUT_PRIOR, PLACE_PRIOR = 16, 2, 1  # the first in inputs, the others in expected survivors
EXCESS_BITS = 12  # fraction bits of the ratio of found to expected survivors
NUM_LEVELS = 18
LEVEL = np.repeat(np.arange(NUM_LEVELS), [1, *(1 << bits for bits in range(NUM_LEVELS - 1))])  # a number's bit length
PLACE = (4 * LEVEL).astype(np.uint8)
FLAG = 1 << 33  # above the sum of a part's probabilities
# Parts of a row; tensors with LARGE weights use WIDE ones for speed.
CHUNKS, NARROW, WIDE, LARGE = 16, 16, 1024, 1 << 20


@dataclass(frozen=True)
class Floats:
    """The narrowest float format that holds some float32s: mantissa bits and a range of exponents."""

    mantissa: int
    lowest: int
    num_exponents: int

    @property
    def width(self) -> float:
        """The bits of such a float, with a sign and equally likely exponents."""
        return 1 + float(np.log2(self.num_exponents)) + self.mantissa


class _Survivors:
    """Which weights survive, input by input; `density` is the share of survivors, in units of 1 / TRIVIAL.

    The probability to survive starts as the share of survivors among the output's weights so far, times the ratio of
    found to expected survivors of this input, times that ratio for all weights of similar probability and neighbours.
    """

    def __init__(self, inputs: int, outputs: int, density: int) -> None:
        chunk = max(NARROW, -(-outputs // CHUNKS)) if inputs * outputs < LARGE else WIDE
        self._starts = np.arange(0, outputs, chunk)
        self._parts = [slice(start, start + chunk) for start in self._starts.tolist()]
        self._of_output = np.full(outputs, float(OUTPUT_PRIOR * density * (ONE // TRIVIAL)))  # in units of 1 / ONE
        self._num_inputs = OUTPUT_PRIOR
        self._found = np.full(4 * NUM_LEVELS, PLACE_PRIOR)
        self._expected = np.full(4 * NUM_LEVELS, PLACE_PRIOR << ONE_BITS)

    def code(self, coder: Coder, left: Array, first: Array, second: Array) -> Array:
        """Code the survivors of the next input, given those of its two neighbours."""
        rates = np.floor(self._of_output / self._num_inputs)
        sums = np.add.reduceat(rates, self._starts)
        neighbours = first + 2 * second.view(np.uint8)
        coded = np.empty(len(left), bool)
        found, expected = INPUT_PRIOR, INPUT_PRIOR << ONE_BITS
        for part, sum_ in zip(self._parts, sums.tolist(), strict=True):
            guess = rates[part] * (((found << ONE_BITS + EXCESS_BITS) // expected) / (1 << EXCESS_BITS))
            np.minimum(np.floor(guess, out=guess), ONE - MIN_PROBABILITY, out=guess)
            place = np.add(PLACE.take(guess.astype(np.intp)), neighbours[part], dtype=np.intp)
            excesses = ((self._found << ONE_BITS + EXCESS_BITS) // self._expected) / (1 << EXCESS_BITS)
            probabilities = excesses.take(place)
            probabilities *= guess
            flags = coder.flags(_clip(np.floor(probabilities, out=probabilities)), left[part])
            coded[part] = flags
            sums_of_place = np.bincount(place, guess + FLAG * flags, 4 * NUM_LEVELS).astype(np.int64)
            self._found += sums_of_place // FLAG
            self._expected += sums_of_place % FLAG
            found += int(np.count_nonzero(flags))
            expected += int(sum_)
        self._of_output += ONE * coded
        self._num_inputs += 1
        return coded


class _Signs:
    """The signs of survivors, given those of both neighbours."""

    def __init__(self) -> None:
        self._positive, self._negative = np.ones(9, np.int64), np.ones(9, np.int64)

    def code(self, coder: Coder, up: Array, first: Array, second: Array) -> Array:
        kind = 3 * first.astype(np.intp) + second + 4
        probabilities = _clip((self._positive << ONE_BITS) // (self._positive + self._negative))
        up = coder.flags(probabilities[kind], up)
        both = np.bincount(kind, minlength=9)
        positive = np.bincount(kind[up], minlength=9)
        self._positive += positive
        self._negative += both - positive
        return up


def code_signs(coder: Coder, signs: Array, lag: int, density: int | None, signed: bool) -> float:
    """Code which weights survive (all, without a density) and, with `signed`, their signs; return the latter's bits.

    `signs` are (inputs, outputs), 0 where none survives; they are filled in when reading.
    """
    inputs, outputs = signs.shape
    survivors = None if density is None else _Survivors(inputs, outputs, density)
    up = _Signs()
    nothing = np.zeros(outputs, np.int8)
    bits = 0.0
    for i, row in enumerate(signs):
        first = signs[i - 1] if i else nothing
        second = signs[i - lag] if i >= lag else nothing
        left = np.ones(outputs, bool) if survivors is None else survivors.code(coder, row != 0, first != 0, second != 0)
        if not signed:
            row[left] = 1
            continue
        before = coder.num_bits()
        places = np.flatnonzero(left)
        row[places] = np.where(up.code(coder, row[places] > 0, first[places], second[places]), 1, -1)
        bits += coder.num_bits() - before
    return bits


def _clip(probabilities: Array) -> Array:
    return np.minimum(np.maximum(probabilities, MIN_PROBABILITY), ONE - MIN_PROBABILITY)


def code_symbols(coder: Coder, size: int, num: int, given: Array, step: int = 2) -> Array:
    """Code symbols by their frequency so far, updated after increasingly long stretches."""
    symbols = np.zeros(num, np.int64)
    counts = np.ones(size, np.int64)
    done = 0 if size > 1 else num
    while done < num:
        part = slice(done, min(num, done + max(16, done // 8)))
        likely = np.maximum(counts, counts.sum() >> MAX_BITS)
        symbols[part] = coder.symbols(likely, part.stop - done, given[part])
        counts += step * np.bincount(symbols[part], minlength=size)
        done = part.stop
    return symbols


def code_floats(coder: Coder, num: int, floats: Floats, given: Array) -> Array:
    """Code bit patterns of floats: exponents and signs as symbols; mantissas, nearly random, as plain numbers."""
    exponents = (given >> MANTISSA & 255) - floats.lowest
    high = code_symbols(coder, 2 * floats.num_exponents, num, exponents << 1 | given >> 31, step=16)
    patterns = (high & 1) << 31 | (high >> 1) + floats.lowest << MANTISSA
    if floats.mantissa:
        unused = MANTISSA - floats.mantissa
        low = (given & ((1 << MANTISSA) - 1)) >> unused
        patterns |= coder.numbers(1 << floats.mantissa, num, low).astype(np.int64) << unused
    return patterns.astype(np.uint32)


def code_integers(coder: Coder, num: int, given: Array) -> Array:
    """Code int64s with as many bytes each as the longest needs, with the sign in the last bit."""
    folded = (given << 1 ^ given >> 63).view(np.uint64)
    longest = (int(folded.max(initial=0)).bit_length() + 7) // 8
    width = int(coder.numbers(9, 1, np.array([max(longest, num > TRIVIAL)]))[0])
    low_bytes = folded.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    coded = coder.numbers(256, num * width, low_bytes.reshape(-1)).reshape(num, width)
    folded = np.pad(coded.astype(np.uint8), ((0, 0), (0, 8 - width))).view("<u8").reshape(-1)
    return (folded >> 1).astype(np.int64) ^ -(folded & 1).astype(np.int64)
