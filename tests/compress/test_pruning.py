import pytest
import torch
from torch import nn

from zoo.compress.pruning import by_layer, cubic, lamp, magnitude, prunable, prune, regrow, sparsity_of, taylor
from zoo.errors import BadInput


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(8, 4, 3, 3), "fc.weight": 0.1 * torch.randn(10, 72)}


def test_the_cubic_of_zhu_and_gupta_at_its_ends_and_in_the_middle():
    assert [cubic(progress) for progress in (0.0, 0.5, 1.0)] == [0.0, 1 - 0.5**3, 1.0]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.777, 0.999])
@pytest.mark.parametrize("score", [magnitude, lamp])
def test_exactly_so_many_are_zero_as_were_asked_for(weights, sparsity, score):
    total = sum(w.numel() for w in weights.values())
    prune(weights, {name: score(w) for name, w in weights.items()}, sparsity)
    assert sum(int((w == 0).sum()) for w in weights.values()) == round(sparsity * total)
    assert sparsity_of(weights) == pytest.approx(round(sparsity * total) / total)


def test_each_layer_has_its_own_share_and_what_is_not_named_stays(weights):
    conv = weights["conv.weight"].clone()
    prune(weights, {name: magnitude(w) for name, w in weights.items()}, {"fc.weight": 0.9})
    assert int((weights["fc.weight"] == 0).sum()) == 648
    assert torch.equal(weights["conv.weight"], conv)


def test_the_smallest_of_all_layers_go_as_in_torchs_own_global_pruning(weights):
    from torch.nn.utils import prune as theirs

    net = nn.ModuleDict({"conv": nn.Conv2d(4, 8, 3), "fc": nn.Linear(72, 10)})
    net.load_state_dict({**weights, "conv.bias": torch.zeros(8), "fc.bias": torch.zeros(10)})
    pairs = [(net["conv"], "weight"), (net["fc"], "weight")]
    theirs.global_unstructured(pairs, theirs.L1Unstructured, amount=0.6)
    prune(weights, {name: magnitude(w) for name, w in weights.items()}, 0.6)
    for (module, _), weight in zip(pairs, weights.values(), strict=True):
        assert torch.equal(module.weight, weight)


def test_channels_last_filters_are_pruned_in_place(weights):
    plain = {name: w.clone() for name, w in weights.items()}
    laid_out = {
        "conv.weight": weights["conv.weight"].to(memory_format=torch.channels_last),
        "fc.weight": weights["fc.weight"],
    }
    for both in (plain, laid_out):
        prune(both, {name: magnitude(w) for name, w in both.items()}, 0.5)
    assert torch.equal(plain["conv.weight"], laid_out["conv.weight"])
    assert laid_out["conv.weight"].is_contiguous(memory_format=torch.channels_last)


def test_what_is_zero_stays_so_whatever_its_score(weights):
    prune(weights, {name: magnitude(w) for name, w in weights.items()}, 0.5)
    zeros = {name: w == 0 for name, w in weights.items()}
    prune(weights, {name: (w == 0).float() for name, w in weights.items()}, 0.6)
    assert all(bool((weights[name] == 0)[zeros[name]].all()) for name in weights)
    assert sparsity_of(weights) == pytest.approx(0.6, abs=1e-3)


def test_lamp_of_four_weights_by_hand():
    scores = lamp(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    assert scores.flatten().tolist() == pytest.approx([1 / 14, 4 / 13, 1.0, 0.0])  # w² / sum of those not smaller


def test_taylor_is_what_a_linear_loss_changes_by_squared():
    weight, slope = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    losses = [float(slope @ (weight * keep)) for keep in (torch.tensor([0.0, 1]), torch.tensor([1.0, 0]))]
    expected = [(float(slope @ weight) - loss) ** 2 for loss in losses]
    assert taylor(weight, slope).tolist() == pytest.approx(expected)


def test_regrowth_moves_survivors_from_the_smallest_to_the_largest_gradients():
    weight = torch.tensor([[0.0, 0.0, 5.0, 1.0], [0.0, 0.0, -4.0, -2.0]])
    gradient = torch.tensor([[0.1, -9.0, 7.0, 0.2], [8.0, 0.0, 7.0, 7.0]])
    grown = regrow({"w": weight}, {"w": gradient}, 0.5)["w"]
    assert weight.tolist() == [[0, 0, 5, 0], [0, 0, -4, 0]]
    assert grown.tolist() == [[False, True, False, False], [True, False, False, False]]


def test_biases_norms_and_what_is_frozen_are_never_pruned():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    net[0].weight.requires_grad_(False)
    assert list(prunable(net)) == ["3.weight"]


def test_settings_by_pattern_and_the_first_that_matches(weights):
    assert by_layer(0.5, weights, "x") == {"conv.weight": 0.5, "fc.weight": 0.5}
    assert by_layer({"conv": 0.1, "*": 0.9}, weights, "x") == {"conv.weight": 0.1, "fc.weight": 0.9}
    assert by_layer({"f*": 3}, weights, "x") == {"fc.weight": 3}
    with pytest.raises(BadInput, match=r"no layer of this net is named 'cnv'; did you mean conv\?"):
        by_layer({"cnv": 0.1}, weights, "x")
