import math
from itertools import combinations, pairwise

import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from zoo.compress.sharing import Codebook, bits_by_budget, kmeans, kmeans_exactly, nearest, share, squared_error
from zoo.errors import BadInput


@pytest.fixture
def weight():
    torch.manual_seed(0)
    w = torch.randn(20, 30)
    return w * (w.abs() > 1)


def least_error(values, num):
    """Try every way to cut sorted numbers into clusters."""
    x = values.sort().values
    cuts = ((0, *inner, len(x)) for inner in combinations(range(1, len(x)), num - 1))
    return min(sum(float((x[a:b] - x[a:b].mean()).square().sum()) for a, b in pairwise(cut)) for cut in cuts)


@pytest.mark.parametrize(("n", "num"), [(9, 3), (10, 4), (8, 8), (7, 1), (12, 2)])
def test_exact_kmeans_finds_the_least_error_of_all_partitions(n, num):
    values = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    values = torch.cat([values, values[:2]])  # including equal numbers
    assert squared_error(values, kmeans_exactly(values, num)) == pytest.approx(least_error(values, num), abs=1e-12)


@pytest.mark.parametrize("init", ["linear", "density", "random"])
def test_kmeans_ends_near_the_optimum_and_never_below_it(init):
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    least = squared_error(values, kmeans_exactly(values, 16))
    assert least <= squared_error(values, kmeans(values, 16, init)) < 1.25 * least


def test_rounds_are_lloyds_as_in_scikit_learn():
    values = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = torch.linspace(float(values.min()), float(values.max()), 8, dtype=torch.float64)
    theirs = KMeans(8, init=start[:, None].numpy(), n_init=1, tol=0, algorithm="lloyd").fit(values[:, None].numpy())
    assert kmeans(values, 8).tolist() == pytest.approx(sorted(theirs.cluster_centers_[:, 0]))


def test_fewer_distinct_numbers_than_means_are_all_kept():
    values = torch.tensor([1.0, 2.0, 2.0, 5.0])
    for find in (kmeans, kmeans_exactly):
        means = find(values, 8)
        assert torch.equal(means[nearest(values.double(), means)].float(), values)


@pytest.mark.parametrize("init", ["linear", "density", "random", "exact"])
def test_survivors_share_few_values_near_their_own_and_zeros_stay(weight, init):
    before = weight.clone()
    share(weight, 3, init)
    assert torch.equal(weight == 0, before == 0)
    values = weight[weight != 0].unique()
    assert len(values) <= 8
    for value in values:  # each is the mean of its members and the nearest value to all of them
        members = before[weight == value]
        assert float(value) == pytest.approx(float(members.double().mean()), rel=1e-5)
        assert bool(((members[:, None] - values).abs().argmin(1) == (values == value).nonzero()).all())


def bits_and_decibels(before, after):
    """Return the entropy of the chosen values, and the signal-to-error ratio."""
    counts = after.unique(return_counts=True)[1].double()
    shares = counts / counts.sum()
    return -float((shares * shares.log2()).sum()), 10 * math.log10(
        before.square().mean() / (after - before).square().mean()
    )


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.03])
def test_a_price_on_bits_quantizes_as_well_as_entropy_coding_allows(rate):
    # Gish and Pierce, 1968: 1.53 dB below the bound of any code, 6.02 dB per bit; for a normal source from two bits on.
    before = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    share(after := before.clone(), 6, rate=rate)
    bits, decibels = bits_and_decibels(before, after)
    assert abs(decibels - (6.02 * bits - 1.53)) < 0.25
    share(plain := before.clone(), 4)
    bits, decibels = bits_and_decibels(before, plain)
    assert (bits, decibels) == (pytest.approx(3.765, abs=0.03), pytest.approx(20.22, abs=0.05))  # Max, 1960, table 1
    assert decibels < 6.02 * bits - 1.53 - 0.8


def test_a_codebook_of_nothing_or_of_nine_bits(weight):
    share(empty := torch.zeros(2, 2), 3)
    assert not empty.any()
    Codebook.of(empty).tie_gradient(torch.ones(2, 2))
    with pytest.raises(BadInput, match="bits=9"):
        share(weight, 9)


def test_summed_gradients_are_those_of_a_net_whose_parameters_are_the_values(weight):
    """Compare autograd's gradient through weight = values[members] with ours of the weight alone."""
    share(weight, 2)
    codebook = Codebook.of(weight)
    images, labels = torch.randn(16, 30), torch.randint(20, (16,))

    values = codebook.values.clone().requires_grad_()
    flat = torch.zeros(600).index_put((codebook.positions,), values[codebook.members])
    nn.functional.cross_entropy(images @ flat.view(20, 30).T, labels).backward()

    parameter = nn.Parameter(weight.clone())
    nn.functional.cross_entropy(images @ parameter.T, labels).backward()
    codebook.tie_gradient(parameter.grad)
    torch.testing.assert_close(parameter.grad.flatten()[codebook.positions], values.grad[codebook.members])
    assert not parameter.grad[weight == 0].any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_members_stay_equal_bit_for_bit_and_move_as_the_optimizer_has_them(memory_format):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=memory_format))
    share(weight, 2)
    codebook, values = Codebook.of(weight), nn.Parameter(Codebook.of(weight).values.clone())
    ours, theirs = torch.optim.AdamW([weight], lr=0.01), torch.optim.AdamW([values], lr=0.01)
    for _ in range(20):
        weight.grad = torch.randn(8, 4, 3, 3).to(memory_format=memory_format)
        codebook.tie_gradient(weight.grad)
        values.grad = torch.stack([weight.grad.flatten()[codebook.members == i][0] for i in range(4)])
        ours.step(), theirs.step()
        codebook.tie(weight)
    assert len(weight.unique()) == 4
    assert torch.equal(weight.flatten(), codebook.values[codebook.members])
    torch.testing.assert_close(codebook.values, values.detach(), rtol=1e-5, atol=1e-6)


def test_bits_go_where_they_take_away_most_error_and_keep_to_the_budget():
    torch.manual_seed(0)
    weights = {"wide": torch.randn(1000), "narrow": 0.01 * torch.randn(1000), "few": torch.randn(10)}
    bits = bits_by_budget(weights, 4.0)
    assert bits["wide"] > bits["narrow"]
    assert bits["few"] == 4  # enough for ten numbers to keep their own values
    assert sum(bits[name] * len(w) for name, w in weights.items()) <= 4 * 2010
