"""Code decisions of given probabilities to bytes and back: a range coder (Martin, 1979), that of constriction.

A model calls a `Writer` and a `Reader` in the same way, so that reading cannot differ from writing.
"""

from typing import Any, Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ONE_BITS = 16
ONE = 1 << ONE_BITS  # probabilities are integer multiples of 1 / ONE


class Coder(Protocol):
    """Write the given values, or read values and ignore the given ones; models do not need to know which."""

    def flags(self, probabilities: Array, given: Array) -> Array:
        """Code flags, each true with probability chance / ONE."""

    def symbols(self, counts: Array, num: int, given: Array) -> Array:
        """Code `num` integers below len(counts), with probabilities proportional to their counts."""

    def numbers(self, size: int, num: int, given: Array) -> Array:
        """Code `num` integers below `size`, at most 2^23, all equally likely."""

    def num_bits(self) -> float:
        """Return the number of bits written so far."""


class Writer:
    """Write into a range coder."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def flags(self, probabilities: Array, given: Array) -> Array:
        return self._encode(given, constriction.stream.model.Bernoulli(perfect=False), _shares(probabilities))

    def symbols(self, counts: Array, num: int, given: Array) -> Array:
        return self._encode(given, constriction.stream.model.Categorical(counts.astype(np.float64), perfect=False))

    def numbers(self, size: int, num: int, given: Array) -> Array:
        return self._encode(given, constriction.stream.model.Uniform(size))

    def num_bits(self) -> float:
        words, (_, width) = self._coder.pos()
        return 32 * words + 64 - float(np.log2(float(width)))

    def code(self) -> bytes:
        """Return everything written, without zeros at the end of the last word, which a reader restores."""
        words = self._coder.get_compressed().astype(">u4").tobytes()
        return words[:-3] + words[-3:].rstrip(b"\0")

    def _encode(self, given: Array, *model: Any) -> Array:
        self._coder.encode(given.astype(np.int32), *model)
        return given


class Reader:
    """Read what a `Writer` wrote."""

    def __init__(self, code: bytes) -> None:
        words = np.frombuffer(code + bytes(-len(code) % 4), ">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def flags(self, probabilities: Array, given: Array) -> Array:
        model = constriction.stream.model.Bernoulli(perfect=False)
        return self._coder.decode(model, _shares(probabilities)).astype(bool)

    def symbols(self, counts: Array, num: int, given: Array) -> Array:
        model = constriction.stream.model.Categorical(counts.astype(np.float64), perfect=False)
        return self._coder.decode(model, num)

    def numbers(self, size: int, num: int, given: Array) -> Array:
        return self._coder.decode(constriction.stream.model.Uniform(size), num)

    def num_bits(self) -> float:
        return 0.0


def _shares(probabilities: Array) -> Array:
    return probabilities.astype(np.float32) / np.float32(ONE)  # exact, since ONE is a power of two
