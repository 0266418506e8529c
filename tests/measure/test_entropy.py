"""Entropy and Huffman coding, compared with SciPy and a textbook."""

import numpy as np
import pytest
import scipy.stats

from zoo.measure.entropy import entropy_bits, huffman_bits


def test_entropy_is_scipys():
    counts = np.random.default_rng(0).integers(0, 50, 40)
    assert entropy_bits(counts) == pytest.approx(counts.sum() * scipy.stats.entropy(counts, base=2))


@pytest.mark.parametrize("counts", [[7], [7, 0, 0]])
def test_a_certain_symbol_has_no_entropy_and_takes_huffman_a_bit(counts):
    assert entropy_bits(np.array(counts)) == 0
    assert huffman_bits(np.array(counts)) == 7


def test_nothing_takes_nothing():
    assert entropy_bits(np.array([0])) == 0
    assert huffman_bits(np.array([0])) == 0


@pytest.mark.parametrize(("counts", "bits_a_symbol"), [([25, 25, 20, 15, 15], 2.3), ([49, 26, 12, 4, 4, 3, 2], 2.02)])
def test_huffmans_code_is_as_long_as_published(counts, bits_a_symbol):
    """Cover and Thomas, "Elements of information theory", 2006, example 5.6.1 and problem 5.4."""
    assert huffman_bits(np.array(counts)) == round(bits_a_symbol * sum(counts))
