"""Tensors to few bytes and back, without loss: which weights are left, of which sign, and which value each has.

Every decision is written under a chance learnt from those before it, so that no table is stored. A weight is likelier
left where the output it leads to, the input it comes from and its neighbours in the image or the kernel are left, and
likelier of their sign. Reading repeats the arithmetic of writing, so that all chances are fractions of whole numbers:
sums of floats differ in their last bit between machines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor

from zoo.compress.coder import ONE, ONE_BITS, Array, Coder, Reader, Writer
from zoo.measure.entropy import entropy_bits, huffman_bits

DTYPES = (torch.float32, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
LEAST = ONE >> 12  # of a flag
RAREST = 14  # a symbol's chance is 2^-14 at least
TRIVIAL = 4096  # weights that may take no bits at all, where all are equal
MOST_PER_BYTE = 1 << 17  # weights, as follows from the three above
MOST_VALUES = 4096  # in a codebook
MANTISSA = 23  # bits of float32's, of which the sign is the first and the exponent the next eight
FARTHEST = 256  # inputs from a weight to its neighbour
OUTPUT_PRIOR, INPUT_PRIOR, PLACE_PRIOR = 16, 2, 1  # the first in inputs, the others in survivors expected
NUM_LEVELS = 18
LEVEL = np.repeat(np.arange(NUM_LEVELS), [1, *(1 << bits for bits in range(NUM_LEVELS - 1))])  # a number's bit length
# Parts of a row; tensors of LARGE weights have WIDE ones, for speed.
CHUNKS, NARROW, WIDE, LARGE = 16, 16, 1024, 1 << 20


@dataclass(frozen=True)
class Floats:
    """The narrowest kind of float that holds some float32s: bits of the mantissa, and a range of exponents."""

    mantissa: int
    lowest: int
    num_exponents: int

    @property
    def width(self) -> float:
        """Bits of such a float: with a sign, and exponents that are all as likely."""
        return 1 + float(np.log2(self.num_exponents)) + self.mantissa


@dataclass
class Parts:
    """What a tensor is coded as; its survivors are the weights that are not zero, input by input."""

    dtype: torch.dtype = torch.float32
    masked: bool = False  # which weights survive is coded
    density: int = 0  # of survivors, in units of 1 / TRIVIAL
    lag: int = 0  # inputs from a weight to its second neighbour, such as a row of px; the first is one away
    shared: bool = False  # the values are those of a codebook
    floats: Floats = Floats(0, 0, 1)
    codebook: Array = field(default_factory=lambda: np.zeros(0, np.uint32))  # bit patterns, the positive values' first
    signs: Array = field(default_factory=lambda: np.zeros((0, 0), np.int8))  # (inputs, outputs), 0 where none survives
    values: Array = field(default_factory=lambda: np.zeros(0, np.uint32))  # bit patterns, or places in the codebook


@dataclass(frozen=True)
class Bits:
    """What a coded tensor takes, in bits, beside what simpler codes would take, of n survivors among N weights.

    `floor` is N·H(survives or not) + n·H(value), which no code of independent weights can go below. `huffman` codes the
    gaps between survivors and their values by two of Huffman's codes, as Deep Compression does, tables not counted.
    """

    num_weights: int
    num_survivors: int
    num_values: int
    mask: float
    codebook: float
    values: float
    floor: float
    huffman: float


def encode(tensors: Iterable[Tensor]) -> tuple[bytes, list[Bits]]:
    """Write tensors, those of floats as float32, and say what each takes; ValueError for a type that is not coded."""
    writer = Writer()
    bits = []
    for tensor in tensors:
        parts = _taken_apart(tensor)
        bits.append(_counted(tensor, parts, *_code(writer, tuple(tensor.shape), parts)))
    return writer.code(), bits


def decode(code: bytes, shapes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    """Read tensors of these shapes one by one; what `encode` did not write raises any exception, or gives anything."""
    reader = Reader(code)
    for shape in shapes:
        parts = Parts()
        _code(reader, shape, parts)
        yield _put_together(parts, shape)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Give the numbers of inputs and outputs: a convolution's inputs are all of its window, a vector has one."""
    sides = [side for side in shape if side != 1]
    outputs = sides[0] if len(sides) > 1 else prod(shape)
    return prod(sides[1:]), outputs


def _taken_apart(tensor: Tensor) -> Parts:
    tensor = tensor.detach().cpu()
    if not tensor.dtype.is_floating_point:
        if tensor.dtype not in DTYPES:
            raise ValueError(f"there is no code for {tensor.dtype}")
        return Parts(tensor.dtype, values=tensor.reshape(-1).to(torch.int64).numpy())
    inputs, outputs = _sides(tuple(tensor.shape))
    weights = tensor.float().reshape(outputs, inputs).numpy().T.copy()
    weights += 0  # makes -0, as a mask leaves it of negative weights, 0
    patterns = weights.view(np.uint32)
    left = patterns != 0
    values = patterns[left]
    parts = Parts(signs=left.astype(np.int8), values=values, floats=_narrowest(values))
    if len(np.unique(values[: 16 * MOST_VALUES])) <= MOST_VALUES:
        codebook = np.unique(values)
        parts.shared = 0 < len(codebook) <= MOST_VALUES and (
            len(values) * np.log2(len(codebook)) < (len(values) - len(codebook)) * parts.floats.width
        )
        if parts.shared:
            parts.codebook, parts.values = codebook, np.searchsorted(codebook, values)
            parts.signs[patterns >> 31 == 1] = -1
    parts.masked = len(values) < weights.size or (len(parts.codebook) == 1 and weights.size > TRIVIAL)
    parts.density = min(max(round(TRIVIAL * len(values) / max(weights.size, 1)), 1), TRIVIAL - 1)
    parts.lag = _lag(parts.signs)
    return parts


def _narrowest(patterns: Array) -> Floats:
    if not len(patterns):
        return Floats(0, 0, 1)
    exponents = patterns >> MANTISSA & 255
    used = int(np.bitwise_or.reduce(patterns)) & ((1 << MANTISSA) - 1)
    unused = (used & -used).bit_length() - 1 if used else MANTISSA
    lowest = int(exponents.min())
    return Floats(MANTISSA - unused, lowest, int(exponents.max()) - lowest + 1)


def _lag(signs: Array) -> int:
    """Find how far behind a weight lies the input, beside the one before, whose weights resemble it most."""
    some = signs[: 16 * FARTHEST, :64].astype(np.float32)
    alike = [
        float((some[lag:] * some[:-lag]).sum() + (np.abs(some[lag:]) * np.abs(some[:-lag])).sum())
        for lag in range(2, min(FARTHEST, len(some)))
    ]
    return 2 + int(np.argmax(alike)) if alike else 1


def _put_together(parts: Parts, shape: tuple[int, ...]) -> Tensor:
    if parts.dtype != torch.float32:
        return torch.from_numpy(parts.values).to(parts.dtype).reshape(shape)
    inputs, outputs = _sides(shape)
    patterns = parts.codebook[parts.values] if parts.shared else parts.values
    if parts.masked:
        weights = np.zeros((inputs, outputs), np.uint32)
        weights[parts.signs != 0] = patterns
    else:
        weights = patterns.reshape(inputs, outputs)
    return torch.from_numpy(weights.view(np.float32)).T.reshape(shape).contiguous()


def _code(coder: Coder, shape: tuple[int, ...], parts: Parts) -> tuple[float, float, float]:
    """Code a tensor's parts, filling in those that are read, and give the bits of mask, codebook and values."""

    def number(size: int, given: int) -> int:
        return int(coder.numbers(size, 1, np.array([given]))[0])

    start = coder.num_bits()
    size = prod(shape)
    parts.dtype = DTYPES[number(len(DTYPES), DTYPES.index(parts.dtype))]
    if parts.dtype != torch.float32:
        parts.values = _code_integers(coder, size, parts.values)
        return 0.0, 0.0, coder.num_bits() - start
    parts.masked, parts.shared = bool(number(2, parts.masked)), bool(number(2, parts.shared))
    sizes = zip((MANTISSA + 1, 256, 257), astuple(parts.floats), strict=True)
    parts.floats = Floats(*(number(size, given) for size, given in sizes))
    codebook_start = coder.num_bits()
    if parts.shared:
        length = number(MOST_VALUES, len(parts.codebook) - 1) + 1
        parts.codebook = _code_floats(coder, length, parts.floats, parts.codebook)
    codebook_end = coder.num_bits()
    num_positive = int(np.count_nonzero(parts.codebook >> 31 == 0))
    signed = 0 < num_positive < len(parts.codebook)
    if parts.masked:
        parts.density = number(TRIVIAL, parts.density)
    if parts.masked or signed:
        parts.lag = number(FARTHEST, parts.lag)
        parts.signs = parts.signs if parts.signs.size else np.zeros(_sides(shape), np.int8)
        sign_bits = _code_signs(coder, parts, signed)
    else:
        sign_bits = 0.0
    mask_end = coder.num_bits()
    num = int(np.count_nonzero(parts.signs)) if parts.masked else size
    if not parts.shared:
        parts.values = _code_floats(coder, num, parts.floats, parts.values)
    elif not signed:
        parts.values = _code_symbols(coder, len(parts.codebook), num, parts.values)
    else:
        parts.values = parts.values if parts.values.size else np.zeros(num, np.int64)
        signs = parts.signs[parts.signs != 0]
        for of_sign, first, last in ((signs > 0, 0, num_positive), (signs < 0, num_positive, len(parts.codebook))):
            given = parts.values[of_sign] - first
            parts.values[of_sign] = _code_symbols(coder, last - first, len(given), given) + first
    codebook_bits = codebook_end - codebook_start
    value_bits = coder.num_bits() - mask_end + sign_bits
    return mask_end - start - sign_bits - codebook_bits, codebook_bits, value_bits


def _code_signs(coder: Coder, parts: Parts, signed: bool) -> float:
    """Code which weights survive and, if there are two, their signs, and give the bits of the latter.

    The chance to survive is at first the share of survivors so far among the output's weights, times how many more of
    this input's were found than expected; and then times the same for all weights of such a chance and such neighbours.
    """
    inputs, outputs = parts.signs.shape
    chunk = max(NARROW, -(-outputs // CHUNKS)) if inputs * outputs < LARGE else WIDE
    density = parts.density * (ONE // TRIVIAL)
    of_output = np.zeros(outputs, np.int64)
    found, expected = np.zeros(4 * NUM_LEVELS, np.int64), np.zeros(4 * NUM_LEVELS, np.int64)
    positive, negative = np.ones(9, np.int64), np.ones(9, np.int64)
    nothing = np.zeros(outputs, np.int8)
    left = np.ones(outputs, bool)
    sign_bits = 0.0
    for i, row in enumerate(parts.signs):
        first = parts.signs[i - 1] if i else nothing
        second = parts.signs[i - parts.lag] if i >= parts.lag else nothing
        if parts.masked:
            neighbours = (first != 0) + 2 * (second != 0).astype(np.int64)
            rates = (of_output * ONE + OUTPUT_PRIOR * density) // (i + OUTPUT_PRIOR)
            found_here = expected_here = 0
            for j in range(0, outputs, chunk):
                part = slice(j, j + chunk)
                rate = rates[part]
                excess = ((found_here + INPUT_PRIOR) << 28) // (expected_here + (INPUT_PRIOR << ONE_BITS))
                guess = np.minimum(rate * excess >> 12, ONE - LEAST)
                place = 4 * LEVEL[guess] + neighbours[part]
                excesses = ((found + PLACE_PRIOR) << 28) // (expected + (PLACE_PRIOR << ONE_BITS))
                chances = (guess * excesses[place] >> 12).clip(LEAST, ONE - LEAST)
                left[part] = flags = coder.flags(chances, row[part] != 0)
                found += np.bincount(place[flags], minlength=len(found))
                expected += np.bincount(place, guess, len(found)).astype(np.int64)  # whole numbers, exact below 2^53
                found_here += int(np.count_nonzero(flags))
                expected_here += int(rate.sum())
            of_output += left
        if not signed:
            row[left] = 1
            continue
        kind = 3 * first[left].astype(np.int64) + second[left] + 4
        before = coder.num_bits()
        chances = ((positive << ONE_BITS) // (positive + negative)).clip(LEAST, ONE - LEAST)
        up = coder.flags(chances[kind], row[left] > 0)
        sign_bits += coder.num_bits() - before
        row[left] = np.where(up, 1, -1)
        positive += np.bincount(kind[up], minlength=9)
        negative += np.bincount(kind[~up], minlength=9)
    return sign_bits


def _code_symbols(coder: Coder, size: int, num: int, given: Array, step: int = 2) -> Array:
    """Code symbols as likely as they came before, counted anew after ever longer stretches."""
    symbols = np.zeros(num, np.int64)
    counts = np.ones(size, np.int64)
    done = 0 if size > 1 else num
    while done < num:
        part = slice(done, min(num, done + max(16, done // 8)))
        likely = np.maximum(counts, counts.sum() >> RAREST)
        symbols[part] = coder.symbols(likely, part.stop - done, given[part])
        counts += step * np.bincount(symbols[part], minlength=size)
        done = part.stop
    return symbols


def _code_floats(coder: Coder, num: int, floats: Floats, given: Array) -> Array:
    """Code bit patterns of floats: exponents and signs as symbols, and mantissas, as good as random, as they are."""
    exponents = (given >> MANTISSA & 255) - floats.lowest
    high = _code_symbols(coder, 2 * floats.num_exponents, num, exponents << 1 | given >> 31, step=16)
    patterns = (high & 1) << 31 | (high >> 1) + floats.lowest << MANTISSA
    if floats.mantissa:
        unused = MANTISSA - floats.mantissa
        low = (given & ((1 << MANTISSA) - 1)) >> unused
        patterns |= coder.numbers(1 << floats.mantissa, num, low).astype(np.int64) << unused
    return patterns.astype(np.uint32)


def _code_integers(coder: Coder, num: int, given: Array) -> Array:
    """Code int64s by as many bytes each as the longest needs, its sign in the last bit."""
    folded = (given << 1 ^ given >> 63).view(np.uint64)
    longest = (int(folded.max(initial=0)).bit_length() + 7) // 8
    width = int(coder.numbers(9, 1, np.array([max(longest, num > TRIVIAL)]))[0])
    low_bytes = folded.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    coded = coder.numbers(256, num * width, low_bytes.reshape(-1)).reshape(num, width)
    folded = np.pad(coded.astype(np.uint8), ((0, 0), (0, 8 - width))).view("<u8").reshape(-1)
    return (folded >> 1).astype(np.int64) ^ -(folded & 1).astype(np.int64)


def _counted(tensor: Tensor, parts: Parts, mask: float, codebook: float, values: float) -> Bits:
    size, num = tensor.numel(), len(parts.values)
    if parts.shared:
        counts = np.bincount(parts.values)
        floor, huffman = entropy_bits(counts), float(huffman_bits(counts))
    else:
        width = parts.floats.width if tensor.is_floating_point() else 8 * tensor.element_size()
        floor = huffman = num * width
    if parts.masked:
        gaps = np.diff(np.flatnonzero(tensor.detach().cpu().numpy().reshape(-1)), prepend=-1)
        fillers = int((gaps // 256).sum())  # zeros that count as survivors where a gap is too long for a byte
        floor += entropy_bits(np.array([num, size - num]))
        huffman += huffman_bits(np.append(np.bincount(gaps % 256), fillers))
    return Bits(size, num, len(parts.codebook), mask, codebook, values, floor, huffman)
