"""What codes would take that know how often each symbol comes, and nothing of where."""

import heapq

import numpy as np
from numpy.typing import NDArray


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Return the bits below which no code of independent symbols can go, for all of them together (Shannon, 1948)."""
    seen = counts[counts > 0].astype(np.float64)
    return float((seen * np.log2(seen.sum() / seen).clip(0)).sum())


def huffman_bits(counts: NDArray[np.int64]) -> int:
    """Return the bits that Huffman's code takes for all symbols, its table not counted; never under one a symbol."""
    heap = [int(count) for count in counts if count]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, both)
        bits += both  # every symbol below this node is a bit longer
    return bits
