"""A recipe can be replayed on another net of the same kind, and on no other."""

import json

import pytest
import torch
from torch import nn

from zoo.compress.recipe import changes, layout, replay, set_tensor
from zoo.errors import BadInput
from zoo.models.lenet import LeNet5, LeNet300


def narrowed(num_classes: int = 10) -> tuple[nn.Module, list]:
    """Return a LeNet-300-100 with 60 units left in its second layer, and its recipe as stored in a file."""
    net = LeNet300(num_classes=num_classes)
    before = layout(net)
    net.layers[3].out_features = net.layers[5].in_features = 60
    set_tensor(net.layers[3], "weight", net.layers[3].weight[:60])
    set_tensor(net.layers[3], "bias", net.layers[3].bias[:60])
    set_tensor(net.layers[5], "weight", net.layers[5].weight[:, :60])
    return net, json.loads(json.dumps([{"pass": "prune_channels", "layout": changes(before, net)}]))


def test_a_bare_net_takes_the_shapes_and_then_the_weights():
    net, recipe = narrowed()
    other = LeNet300()
    replay(other, recipe)
    other.load_state_dict(net.state_dict())
    images = torch.randn(3, 1, 28, 28)
    assert other(images).equal(net(images))
    assert str(other) == str(net)  # which shows input and output features


def test_a_recipe_says_nothing_of_the_number_of_classes():
    _, recipe = narrowed()
    other = LeNet300(num_classes=7)
    replay(other, recipe)
    assert other(torch.randn(3, 1, 28, 28)).shape == (3, 7)


def test_a_frozen_weight_stays_frozen():
    _, recipe = narrowed()
    other = LeNet300()
    other.layers[3].weight.requires_grad_(False)
    replay(other, recipe)
    assert [p.requires_grad for p in other.parameters()] == [True, True, False, True, True, True]


def test_numbers_that_a_buffer_cannot_hold_are_refused():
    """The connections of LeNet-5's C3 are integers."""
    step = {"pass": "prune_channels", "layout": {"features.3": {"unsaved": {"inputs": [1e300]}}}}
    with pytest.raises(BadInput, match=r"does not fit this net at 'features\.3'"):
        replay(LeNet5(c3="table"), [step])


@pytest.mark.parametrize(
    ("name", "new", "problem"),
    [
        ("layers.9", {"sizes": {"in_features": 1}}, "layers.9"),
        ("layers.3", {"sizes": {"forward": 1}}, "it has no 'forward'"),
        ("layers.3", {"shapes": {"weight": [300_000_000, None]}}, "cannot become"),
        ("layers.3", {"shapes": {"weight": [0, None]}}, "cannot become"),
        ("layers.3", {"shapes": {"weight": [60.5, None]}}, "cannot become"),
        ("layers.3", {"shapes": {"weight": [60]}}, "shorter"),
        ("layers.3", {"shapes": {"scale": [60]}}, "scale"),
        ("layers.3", {"sizes": {"in_features": [1, 2]}}, r"in_features cannot become \[1, 2\]"),
    ],
)
def test_a_step_of_another_net_or_a_larger_one_is_refused(name, new, problem):
    with pytest.raises(BadInput, match=problem):
        replay(LeNet300(), [{"pass": "prune_channels", "layout": {name: new}}])
