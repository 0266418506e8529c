"""The sizes of weights in the formats of Han et al., "Deep compression", 2015, which are never written to files."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.measure.entropy import huffman_bits

GAP_BITS = {4: 8}  # bits of the distance between survivors in convolution filters; 5 in all else


def pruned_bytes(weights: Mapping[str, Tensor]) -> int:
    """Return the size of pruned weights: 32 bits per survivor plus its distance from the previous one (table 4, P).

    Where a distance does not fit its bits, a zero is inserted. Biases and all else take 32 bits per number.
    """
    return _bytes(sum(_entries(w) * (32 + _gap_bits(w)) if w.ndim > 1 else 32 * w.numel() for w in weights.values()))


def shared_bytes(weights: Mapping[str, Tensor]) -> int:
    """Return the size of pruned weights whose survivors are indices into a codebook of 32-bit values (P+Q)."""
    bits = 0
    for weight in weights.values():
        if weight.ndim > 1:
            num_values = len(weight[weight != 0].unique())
            index = max(1, math.ceil(math.log2(max(1, num_values))))
            bits += _entries(weight) * (index + _gap_bits(weight)) + 32 * num_values
        else:
            bits += 32 * weight.numel()
    return _bytes(bits)


def huffman_bytes(weights: Mapping[str, Tensor]) -> int:
    """Return the size of shared weights with indices and distances Huffman-coded, without the code tables (P+Q+H)."""
    bits = 0
    for weight in weights.values():
        if weight.ndim > 1:
            survivors = weight[weight != 0]
            values, counts = survivors.unique(return_counts=True)
            gaps = _gaps(weight)
            fillers = _entries(weight) - len(survivors)
            _, of_values = torch.cat([gaps.new_full((fillers,), -1), _members(counts)]).unique(return_counts=True)
            span = 1 << _gap_bits(weight)
            _, of_gaps = torch.cat([gaps.new_full((fillers,), span - 1), gaps % span]).unique(return_counts=True)
            bits += huffman_bits(of_values.numpy()) + huffman_bits(of_gaps.numpy()) + 32 * len(values)
        else:
            bits += 32 * weight.numel()
    return _bytes(bits)


def _members(counts: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), counts)


def _gap_bits(weight: Tensor) -> int:
    return GAP_BITS.get(weight.ndim, 5)


def _gaps(weight: Tensor) -> Tensor:
    """Return the number of zeros before each survivor."""
    positions = weight.flatten().nonzero().flatten()
    return positions.diff(prepend=positions.new_tensor([-1])) - 1


def _entries(weight: Tensor) -> int:
    """Count survivors and the zeros inserted where a distance is too long."""
    gaps = _gaps(weight)
    return len(gaps) + int((gaps >> _gap_bits(weight)).sum())


def _bytes(bits: int) -> int:
    return math.ceil(bits / 8)
