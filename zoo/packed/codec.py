"""Lossless coding of tensors to few bytes and back: which weights survive, their signs and their values.

The probability of each, which sets its number of bits, is learnt from the previous ones by zoo.packed.context_model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor

from zoo.measure.entropy import entropy_bits, huffman_bits
from zoo.measure.layer_kinds import sides
from zoo.packed.context_model import MANTISSA, TRIVIAL, Floats, code_floats, code_integers, code_signs, code_symbols
from zoo.packed.range_coder import Array, Coder, Reader, Writer

DTYPES = (torch.float32, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
MOST_BY_CODE = (
    1 << 17
)  # weights per byte, since no probability exceeds 1 - MIN_PROBABILITY or 1 - 2^-MAX_BITS; more is refused
MOST_VALUES = 4096  # in a codebook
FARTHEST = 256  # inputs from a weight to its neighbour
TILE = 16  # inputs transposed together: as many as fit into a cache line


@dataclass
class Parts:
    """The coded parts of a tensor; its survivors are the nonzero weights, input by input."""

    dtype: torch.dtype = torch.float32
    masked: bool = False  # whether a mask of survivors is coded
    density: int = 0  # share of survivors, in units of 1 / TRIVIAL
    lag: int = 0  # inputs from a weight to its second neighbour, such as a row of pixels; the first is at 1
    shared: bool = False  # whether values come from a codebook
    floats: Floats = field(default_factory=lambda: Floats(0, 0, 1))
    codebook: Array = field(default_factory=lambda: np.zeros(0, np.uint32))  # bit patterns, positive values first
    signs: Array = field(default_factory=lambda: np.zeros((0, 0), np.int8))  # (inputs, outputs), 0 where none survives
    values: Array = field(default_factory=lambda: np.zeros(0, np.uint32))  # bit patterns, or indices into the codebook


@dataclass(frozen=True)
class Bits:
    """The size of a coded tensor in bits, next to that of simpler codes, for n survivors among N weights.

    `floor` is N·H(survives or not) + n·H(value), the entropy of independent weights with known frequencies; if values
    are not shared, H(value) is their width. Codes that use neighbours can go below it, and small tensors stay above it,
    since frequencies must be learned. `huffman` is the size of two Huffman codes, for gaps between survivors and for
    their values, as in Deep Compression, without code tables.
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
    """Encode tensors, floats as float32, and return the size of each; raise ValueError for an unsupported type."""
    writer = Writer()
    bits = []
    for tensor in tensors:
        parts = _taken_apart(tensor)
        bits.append(_counted(tensor, parts, *_code(writer, tuple(tensor.shape), parts)))
    return writer.code(), bits


def decode(code: bytes, shapes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    """Yield decoded tensors of these shapes; foreign code may raise any exception or return anything."""
    reader = Reader(code)
    for shape in shapes:
        parts = Parts()
        _code(reader, shape, parts)
        yield _put_together(parts, shape)


def _taken_apart(tensor: Tensor) -> Parts:
    tensor = tensor.detach().cpu()
    if not tensor.dtype.is_floating_point:
        if tensor.dtype not in DTYPES:
            raise ValueError(f"there is no code for {tensor.dtype}")
        return Parts(tensor.dtype, values=tensor.reshape(-1).to(torch.int64).numpy())
    inputs, outputs = sides(tuple(tensor.shape))
    weights = tensor.float().reshape(outputs, inputs).numpy().T.copy()
    weights += 0  # turns -0, which a mask leaves of negative weights, into 0
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
    """Return the distance, above 1, to the earlier input whose weights are most similar."""
    some = signs[: 16 * FARTHEST, :64].astype(np.float32)
    alike = [
        float((some[lag:] * some[:-lag]).sum() + (np.abs(some[lag:]) * np.abs(some[:-lag])).sum())
        for lag in range(2, min(FARTHEST, len(some)))
    ]
    return 2 + int(np.argmax(alike)) if alike else 1


def _put_together(parts: Parts, shape: tuple[int, ...]) -> Tensor:
    if parts.dtype != torch.float32:
        return torch.from_numpy(parts.values).to(parts.dtype).reshape(shape)
    inputs, outputs = sides(shape)
    patterns = parts.codebook[parts.values] if parts.shared else parts.values
    weights = np.empty((outputs, inputs), np.uint32)
    done = 0
    for start in range(0, inputs, TILE):
        tile = np.zeros((min(TILE, inputs - start), outputs), np.uint32)
        left = parts.signs[start : start + TILE] != 0 if parts.masked else np.ones(tile.shape, bool)
        num = int(np.count_nonzero(left))
        tile[left] = patterns[done : done + num]
        weights[:, start : start + TILE] = tile.T
        done += num
    return torch.from_numpy(weights.view(np.float32)).reshape(shape)


def _code(coder: Coder, shape: tuple[int, ...], parts: Parts) -> tuple[float, float, float]:
    """Code a tensor's parts, filling them in when reading, and return the bits of mask, codebook and values."""

    def number(size: int, given: int) -> int:
        return int(coder.numbers(size, 1, np.array([given]))[0])

    start = coder.num_bits()
    size = prod(shape)
    parts.dtype = DTYPES[number(len(DTYPES), DTYPES.index(parts.dtype))]
    if parts.dtype != torch.float32:
        parts.values = code_integers(coder, size, parts.values)
        return 0.0, 0.0, coder.num_bits() - start
    parts.masked, parts.shared = bool(number(2, parts.masked)), bool(number(2, parts.shared))
    sizes = zip((MANTISSA + 1, 256, 257), astuple(parts.floats), strict=True)
    parts.floats = Floats(*(number(size, given) for size, given in sizes))
    codebook_start = coder.num_bits()
    if parts.shared:
        length = number(MOST_VALUES, len(parts.codebook) - 1) + 1
        parts.codebook = code_floats(coder, length, parts.floats, parts.codebook)
    codebook_end = coder.num_bits()
    num_positive = int(np.count_nonzero(parts.codebook >> 31 == 0))
    signed = 0 < num_positive < len(parts.codebook)
    if parts.masked:
        parts.density = number(TRIVIAL, parts.density)
    if parts.masked or signed:
        parts.lag = number(FARTHEST, parts.lag)
        parts.signs = parts.signs if parts.signs.size else np.zeros(sides(shape), np.int8)
        sign_bits = code_signs(coder, parts.signs, parts.lag, parts.density if parts.masked else None, signed)
    else:
        sign_bits = 0.0
    mask_end = coder.num_bits()
    num = int(np.count_nonzero(parts.signs)) if parts.masked else size
    if not parts.shared:
        parts.values = code_floats(coder, num, parts.floats, parts.values)
    elif not signed:
        parts.values = code_symbols(coder, len(parts.codebook), num, parts.values)
    else:
        parts.values = parts.values if parts.values.size else np.zeros(num, np.int64)
        signs = parts.signs[parts.signs != 0]
        for of_sign, first, last in ((signs > 0, 0, num_positive), (signs < 0, num_positive, len(parts.codebook))):
            given = parts.values[of_sign] - first
            parts.values[of_sign] = code_symbols(coder, last - first, len(given), given) + first
    codebook_bits = codebook_end - codebook_start
    value_bits = coder.num_bits() - mask_end + sign_bits
    return mask_end - start - sign_bits - codebook_bits, codebook_bits, value_bits


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
        fillers = int((gaps // 256).sum())  # zeros coded as survivors where a gap is too long for a byte
        floor += entropy_bits(np.array([num, size - num]))
        huffman += huffman_bits(np.append(np.bincount(gaps % 256), fillers))
    return Bits(size, num, len(parts.codebook), mask, codebook, values, floor, huffman)
