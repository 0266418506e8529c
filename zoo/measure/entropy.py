"""Code lengths for symbols with known frequencies, ignoring their order."""

import heapq

import numpy as np
from numpy.typing import NDArray


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Return the entropy of all symbols in bits, the minimum for any code of independent symbols (Shannon, 1948)."""
    seen = counts[counts > 0].astype(np.float64)
    return float((seen * np.log2(seen.sum() / seen).clip(0)).sum())


def huffman_bits(counts: NDArray[np.int64]) -> int:
    """Return the bits of a Huffman code for all symbols, without its table; at least one bit per symbol."""
    heap = [int(count) for count in counts if count]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, both)
        bits += both  # every symbol below this node gets one bit longer
    return bits
