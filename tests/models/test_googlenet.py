import itertools

import pytest
import torch
import torchvision
from conftest import exchange_weights

from zoo.measure.counts import count_macs, count_parameters
from zoo.models.googlenet import TABLE, GoogLeNet


@pytest.fixture(scope="module")
def pair():
    """Our net and torchvision's with the same weights, and no dropout, whose draws would differ."""
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(init_weights=False, aux_logits=True, dropout=0.0, dropout_aux=0.0)
    ours = GoogLeNet(dropout=0.0, aux_dropout=0.0)
    exchange_weights(ours, theirs)
    return ours, theirs


def test_parameters_and_macs_are_torchvisions():
    net = GoogLeNet(aux_heads=False)
    assert count_parameters(net) == 6_624_904
    assert round(count_macs(net, (3, 224, 224)) / 1e9, 3) == 1.498


def test_eval_logits_are_torchvisions(pair):
    ours, theirs = (net.eval() for net in pair)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=0)


def test_auxiliary_logits_in_train_mode_are_torchvisions(pair):
    ours, theirs = (net.train() for net in pair)
    images = torch.randn(4, 3, 224, 224)
    with torch.no_grad():
        mine, other = ours(images), theirs(images)
    torch.testing.assert_close(mine.main, other.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.aux[0], other.aux_logits1, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.aux[1], other.aux_logits2, atol=1e-4, rtol=1e-4)


def test_every_module_takes_the_maps_that_the_one_before_gives():
    rows = [row for row in TABLE.values() if row]
    for (_, one, _, three, _, five, pool), following in itertools.pairwise(rows):
        assert one + three + five + pool == following[0]


def test_five_by_five_kernels_are_an_option():
    net = GoogLeNet(kernel_5x5=True)
    assert net.inception3a.branch3[1].conv.weight.shape == (32, 16, 5, 5)  # table 1, row 3a
