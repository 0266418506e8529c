import torch

from zoo.packed.paper_sizes import huffman_bytes, pruned_bytes, shared_bytes


def test_sizes_of_a_small_layer_by_hand():
    """Han et al., figure 2: distances of 5 bits in linear layers, and a filler zero where one is too long."""
    weight = torch.zeros(10, 10)
    weight.view(-1)[[1, 4, 50]] = torch.tensor([0.5, -0.5, 0.5])  # 45 zeros before the last: one filler
    net = {"fc.weight": weight, "fc.bias": torch.zeros(10)}
    assert pruned_bytes(net) == -(-(4 * (32 + 5) + 320) // 8)
    assert shared_bytes(net) == -(-(4 * (1 + 5) + 2 * 32 + 320) // 8)
    # Values: two, one and a filler; distances 1, 2, 31 (the filler's) and 13: all different.
    assert huffman_bytes(net) == -(-((2 * 1 + 1 * 2 + 1 * 2) + 4 * 2 + 2 * 32 + 320) // 8)


def test_filters_have_distances_of_eight_bits():
    weight = torch.zeros(1, 1, 10, 50)
    weight.view(-1)[[0, 250, 499]] = 1.0
    assert pruned_bytes({"conv.weight": weight}) == 3 * (32 + 8) // 8


def test_huffman_never_takes_more_than_plain_indices():
    torch.manual_seed(0)
    weight = (torch.randn(50, 50) * 2).round()
    assert huffman_bytes({"w": weight}) < shared_bytes({"w": weight}) < pruned_bytes({"w": weight})
